package machinetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/testbed"
)

// machine is a Shell on this host whose files are in a directory, and which can
// be restarted: what ran is killed then, and commands fail for a moment.
type machine struct {
	dir  string
	lost bool // it does not come back
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{dir: t.TempDir()}
	for name, text := range map[string]string{
		"boot_id":        "boot\n",
		"bin/systemctl":  "#!/bin/sh\necho boot$$ >" + m.dir + "/boot_id\n/bin/kill -KILL -- -$(ps -o pgid= $$ | tr -d ' ')\n",
		"bin/journalctl": "#!/bin/sh\necho journal \"$@\"\n",
	} {
		path := filepath.Join(m.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *machine) here(s string) string {
	return strings.NewReplacer(machineDir, m.dir+"/test", bootIDFile, m.dir+"/boot_id").Replace(s)
}

func (m *machine) Wait(context.Context) error {
	if m.lost {
		return &testbed.UnreachableError{Addr: "it", Err: io.EOF}
	}
	return nil
}

func (m *machine) Run(ctx context.Context, c testbed.Command) error {
	if m.lost {
		return &testbed.UnreachableError{Addr: "it", Err: io.EOF}
	}
	var out bytes.Buffer
	x := command.Exec{Args: []string{"sh", "-c", m.here(c.Line)}, Env: append(os.Environ(), "PATH="+m.dir+"/bin:"+os.Getenv("PATH")), Stdout: &out, Grace: time.Millisecond}
	err := x.Run(ctx)
	if c.Stdout != nil {
		_, _ = c.Stdout.Write(out.Bytes())
	}
	var exit *command.ExitError
	switch {
	case errors.As(err, &exit) && exit.Status < 0:
		return &testbed.UnreachableError{Addr: "it", Err: err}
	case errors.As(err, &exit):
		return &testbed.RemoteError{Command: c.Line, Status: exit.Status}
	}
	return err
}

func (m *machine) Put(_ context.Context, src, dst string, mode os.FileMode) error {
	b, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(m.here(dst), []byte(m.here(string(b))), mode)
}

func (m *machine) Get(context.Context, string, string) error { return errors.ErrUnsupported }
func (m *machine) Close() error                              { return nil }

// script writes an executable test and reads its header.
func script(t *testing.T, name, text string) *Test {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	k, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	k.Element = "e"
	return k
}

func runner(t *testing.T, m *machine) *Runner {
	t.Helper()
	return &Runner{Shell: m, Dir: t.TempDir(), Console: &testbed.Console{Path: filepath.Join(m.dir, "console.log")},
		Env:      []string{"GREETING=good day"},
		Progress: command.NewProgress("test", command.IO{Stdout: io.Discard, Stderr: io.Discard}, false),
		Host: func(ctx context.Context, path string, env []string, out io.Writer) error {
			return command.Exec{Args: []string{path}, Env: append(os.Environ(), env...), Log: out}.Run(ctx)
		}}
}

func TestRun(t *testing.T) {
	const on = "## goldsmith: {on: machine, reboots: true, timeout: 20s}\n"
	m := newMachine(t)
	r := runner(t, m)
	console := r.Console.Path
	tests := []*Test{
		script(t, "host", `echo "$GREETING"`),
		script(t, "host-fails", "echo it is wrong; exit 3"),
		script(t, "host-skips", "echo no disk; exit 77"),
		script(t, "machine", on+`echo "$GREETING, $`+rebootMark+`"; test -x "$0"`),
		script(t, "machine-fails", on+"echo here it is wrong >&2; exit 4"),
		script(t, "slow", "## goldsmith: {on: machine, timeout: 300ms}\nsleep 20"),
		script(t, "reboots", on+`case $`+rebootMark+` in
"") echo first; goldsmith-reboot one ;;
one) echo second; goldsmith-reboot two ;;
two) echo third ;;
esac`),
		script(t, "reboots-for-ever", on+"goldsmith-reboot again"),
		script(t, "reboots-unasked", on+"systemctl reboot"),
		script(t, "oops", "## goldsmith: {on: host}\nprintf '[    1.5] BUG: unable to handle page fault\\n' >>"+console),
		script(t, "expected", "## goldsmith: {on: host, console: [oops]}\nprintf 'Oops: 0002\\n' >>"+console),
	}
	got, err := r.Run(t.Context(), tests)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		result evidence.Result
		class  evidence.Class
		reason string
		output string
	}{
		{evidence.Pass, "", "", "good day\n"},
		{evidence.Fail, evidence.TestFault, "exit status 3: it is wrong", ""},
		{evidence.Skip, "", "no disk", ""},
		{evidence.Pass, "", "", "good day, \n"},
		{evidence.Fail, evidence.TestFault, "exit status 4: here it is wrong", ""},
		{evidence.Fail, evidence.TestFault, "did not end within 300ms", ""},
		{evidence.Pass, "", "", "first\n--- restarted: one\nsecond\n--- restarted: two\nthird\n"},
		{evidence.Fail, evidence.Unknown, "more than 20 times", ""},
		{evidence.Fail, evidence.Unknown, "restarted without being asked", ""},
		{evidence.Fail, evidence.ImageFault, "it passed, but console: oops: BUG: unable to handle page fault", ""},
		{evidence.Pass, "", "", ""},
	} {
		g := got[i]
		if g.Result != want.result || g.Class != want.class || !strings.Contains(g.Reason, want.reason) || want.output != "" && g.Output != want.output {
			t.Errorf("%s: %s, class %q, %q, output %q", g.Name, g.Result, g.Class, g.Reason, g.Output)
		}
		if g.Result == evidence.Fail && g.Because == "" {
			t.Errorf("%s: nothing speaks for its class", g.Name)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(m.dir, "test")); len(left) > 0 {
		t.Errorf("left on the machine: %v", left)
	}
	for file, want := range map[string]string{"e-host/output": "good day", "e-oops/console": "BUG: unable", "e-machine/journal": "journal --no-pager"} {
		if b, err := os.ReadFile(filepath.Join(r.Dir, file)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
}

// flaky is a test that fails the first time.
func flaky(m *machine) string {
	count := filepath.Join(m.dir, "count")
	_ = os.Remove(count)
	return "echo x >>" + count + "; echo $(wc -l <" + count + "); test $(wc -l <" + count + ") -ge 2"
}

func TestRunAgain(t *testing.T) {
	m := newMachine(t)
	r := runner(t, m)
	r.Again = 1
	got, err := r.Run(t.Context(), []*Test{script(t, "flaky", flaky(m))})
	if err != nil || got[0].Result != evidence.Pass || got[0].Class != evidence.Flake || got[0].Attempts != 2 || len(got[0].Earlier) != 1 {
		t.Fatalf("asked for: %+v, %v", got, err)
	}
	if e := got[0].Earlier[0]; e.Output != "1\n" || got[0].Output != "2\n" || e.Class != evidence.TestFault || e.Reason != "exit status 1: 1" {
		t.Errorf("what it printed: %+v", got[0])
	}
	got, err = r.Run(t.Context(), []*Test{script(t, "fails", "exit 1")})
	if err != nil || got[0].Result != evidence.Fail || got[0].Attempts != 2 {
		t.Errorf("fails again: %+v, %v", got, err)
	}
	count := filepath.Join(m.dir, "skips")
	got, err = r.Run(t.Context(), []*Test{script(t, "skips", "test -e "+count+" && exit 77; touch "+count+"; exit 5")})
	if err != nil || got[0].Result != evidence.Fail || !strings.HasPrefix(got[0].Reason, "exit status 5") {
		t.Errorf("skips when it is run again: %+v, %v", got, err)
	}
}

// By itself only what is the testbed's fault is run again, on a machine that was
// revived.
func TestRunInfra(t *testing.T) {
	m := newMachine(t)
	r := runner(t, m)
	revived := 0
	r.Retries, r.Revive = 1, func(context.Context) error { revived++; return nil }
	got, err := r.Run(t.Context(), []*Test{script(t, "fails", flaky(m))})
	if err != nil || got[0].Result != evidence.Fail || got[0].Attempts != 0 || revived != 0 {
		t.Errorf("a test's own failure: %+v, %v", got, err)
	}
	r.Host = func(ctx context.Context, path string, _ []string, _ io.Writer) error {
		if exec.CommandContext(ctx, path).Run() != nil {
			return &testbed.Fault{Kind: testbed.Silent, Machine: "it", Doing: "reset", Err: io.EOF}
		}
		return nil
	}
	got, err = r.Run(t.Context(), []*Test{script(t, "infra", flaky(m)), script(t, "always", "exit 1")})
	if err != nil || got[0].Result != evidence.Pass || got[0].Class != "" || got[0].Attempts != 2 || got[0].Earlier[0].Class != evidence.Infra ||
		got[1].Result != evidence.Fail || got[1].Attempts != 2 || revived != 2 {
		t.Errorf("the testbed's failure: %+v, %v, revived %d times", got, err, revived)
	}
	r.Revive = func(context.Context) error { m.lost = true; return io.ErrUnexpectedEOF }
	got, err = r.Run(t.Context(), []*Test{script(t, "infra", flaky(m)), script(t, "next", "true")})
	if err != nil || got[0].Class != evidence.Infra || got[1].Result != evidence.Skip || got[1].Reason != "not run: the machine was lost in e/infra" {
		t.Errorf("a machine that is lost: %+v, %v", got, err)
	}
}

// A machine that a test leaves dead is revived, so often and not more, and the
// test has not passed.
func TestRunRevives(t *testing.T) {
	m := newMachine(t)
	r := runner(t, m)
	r.Host = func(_ context.Context, path string, _ []string, _ io.Writer) error {
		m.lost = strings.Contains(path, "kills")
		if strings.Contains(path, "fails") {
			return &testbed.RemoteError{Status: 1}
		}
		return nil
	}
	r.Revive = func(context.Context) error { m.lost = false; return nil }
	var tests []*Test
	for _, name := range []string{"kills", "good", "kills-fails", "kills-3", "kills-4", "never", "kills-last"} {
		tests = append(tests, script(t, name, "true"))
	}
	got, err := r.Run(t.Context(), tests)
	if err != nil {
		t.Fatal(err)
	}
	const dead = "the machine did not answer after it"
	for i, want := range []struct {
		result          evidence.Result
		reason, because string
	}{
		{evidence.Fail, dead, dead + " and was revived"},
		{evidence.Pass, "", ""},
		{evidence.Fail, "exit status 1: nothing was said", " on the machine; " + dead + " and was revived"},
		{evidence.Fail, dead, dead + " and was revived"},
		{evidence.Fail, dead, dead + " and could not be revived: it was revived 3 times already"},
		{evidence.Skip, "not run: the machine was lost in e/kills-4", ""},
		{evidence.Skip, "not run: the machine was lost in e/kills-4", ""},
	} {
		if g := got[i]; g.Result != want.result || g.Reason != want.reason || !strings.HasSuffix(g.Because, want.because) {
			t.Errorf("%s: %s, %q, because %q", g.Name, g.Result, g.Reason, g.Because)
		}
	}
}

// The last test that shares a machine must leave it alive, too; nobody needs it
// then, so it is not revived. What has a machine of its own may break it.
func TestRunKillsLast(t *testing.T) {
	m := newMachine(t)
	r := runner(t, m)
	r.Host = func(_ context.Context, path string, _ []string, _ io.Writer) error {
		m.lost = strings.Contains(path, "kills")
		return nil
	}
	r.Revive = func(context.Context) error { t.Error("revived"); return nil }
	r.Renew = func(context.Context, *Test) error { m.lost = false; return nil }
	got, err := r.Run(t.Context(), []*Test{script(t, "good", "true"), script(t, "kills", "true"),
		script(t, "kills-its-own", "## goldsmith: {destructive: true}")})
	if err != nil {
		t.Fatal(err)
	}
	const dead = "the machine did not answer after it"
	if got[0].Result != evidence.Pass || got[1].Result != evidence.Fail || got[1].Reason != dead || got[1].Because != dead || got[2].Result != evidence.Pass {
		t.Errorf("%+v", got)
	}
}

// Tests that do not share get machines of their own, after those that do; the
// results have the order of the tests.
func TestRunAlone(t *testing.T) {
	r := runner(t, newMachine(t))
	var order []string
	r.Host = func(_ context.Context, path string, _ []string, _ io.Writer) error {
		order = append(order, filepath.Base(path))
		if strings.Join(order, " ") == "first second new alone new flaky" {
			return &testbed.RemoteError{Status: 1}
		}
		return nil
	}
	tests := []*Test{
		script(t, "alone", "## goldsmith: {shares: false}"), script(t, "first", ""), script(t, "flaky", "## goldsmith: {destructive: true}"),
		script(t, "second", "## goldsmith: {tags: [x]}"), script(t, "sick", "## goldsmith: {shares: false}"),
	}
	got, err := r.Run(t.Context(), tests)
	if err != nil || got[0].Result != evidence.Skip || got[4].Result != evidence.Skip || len(order) != 2 {
		t.Errorf("without machines: %+v, %v", got, err)
	}
	order, r.Again = nil, 1
	r.Renew = func(_ context.Context, t *Test) error {
		order = append(order, "new")
		m := &machine{dir: r.Shell.(*machine).dir}
		r.Shell = m
		if t.Name == "sick" {
			return &NotUp{Class: evidence.ImageFault, Because: "console: panic", Reason: "no completion signal"}
		}
		return nil
	}
	got, err = r.Run(t.Context(), tests)
	if want := "first second new alone new flaky new flaky new new"; err != nil || strings.Join(order, " ") != want {
		t.Errorf("order %q, %v; want %q", order, err, want)
	}
	for i, want := range tests {
		if got[i].Name != want.Name {
			t.Errorf("result %d is %s's; want %s", i, got[i].Name, want.Name)
		}
	}
	if s := got[4]; s.Result != evidence.Fail || s.Class != evidence.ImageFault || s.Reason != "its machine: no completion signal" || s.Attempts != 2 {
		t.Errorf("a machine that is not up: %+v", s)
	}
	r.Renew = func(context.Context, *Test) error { return io.ErrUnexpectedEOF }
	if got, err := r.Run(t.Context(), tests); err != io.ErrUnexpectedEOF || len(got) != 2 {
		t.Errorf("a machine that cannot be made: %+v, %v", got, err)
	}
}

// A mark that a clean-up could not remove is not the next test's.
func TestStaleMark(t *testing.T) {
	m := newMachine(t)
	r := runner(t, m)
	if err := errors.Join(os.MkdirAll(m.here(machineDir), 0o700), os.WriteFile(m.here(markFile), []byte("old\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := r.Run(t.Context(), []*Test{script(t, "fails", "## goldsmith: {on: machine, reboots: true, timeout: 5s}\necho wrong; exit 4")})
	if err != nil || got[0].Reason != "exit status 4: wrong" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestInterrupted(t *testing.T) {
	r := runner(t, newMachine(t))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	got, err := r.Run(ctx, []*Test{script(t, "long", "sleep 30")})
	if !errors.Is(err, context.Canceled) || len(got) != 0 {
		t.Errorf("interrupted: %+v, %v", got, err)
	}
}
