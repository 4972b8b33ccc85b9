package refreshcfg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"goldsmith/internal/metadata"
)

func writeHook(t *testing.T, path, text string) {
	t.Helper()
	writeHookText(t, path, "#!/bin/bash\n"+text)
}

// machine is a machine that keeps its state between runs.
type machine struct {
	t      *testing.T
	c      Config
	etc    string
	doc    string // its metadata
	said   []string
	stdout string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, etc: t.TempDir(), doc: "{}"}
	m.c = Config{Base: t.TempDir(), State: t.TempDir(), Image: Image{"demo", "1", ""}}
	m.c.Metadata = func(context.Context) (*metadata.Object, error) {
		v, err := metadata.Parse("metadata", []byte(m.doc))
		if err != nil {
			return nil, err
		}
		return v.(*metadata.Object), nil
	}
	m.c.Say = func(format string, args ...any) { m.said = append(m.said, fmt.Sprintf(format, args...)) }
	return m
}

// hook makes a hook that prints its name; ETC in its text is a directory of
// its own.
func (m *machine) hook(name, header, text string) {
	m.t.Helper()
	if header != "" {
		header = "## goldsmith: " + header + "\n"
	}
	writeHook(m.t, filepath.Join(m.c.Base, name), strings.ReplaceAll(header+"echo ${0##*/}\n"+text, "ETC", m.etc))
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.etc, name), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	b, err := os.ReadFile(filepath.Join(m.etc, name))
	if errors.Is(err, os.ErrNotExist) {
		return "(none)"
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// runs runs everything and says which hooks ran, in the order they ended.
func (m *machine) runs(want string) {
	m.t.Helper()
	m.said = nil
	got, err := run(m.t, m.c)
	m.stdout = got
	if err != nil {
		got += " ERROR " + err.Error()
	}
	if got != want {
		m.t.Errorf("ran %q; want %q\n%s", got, want, strings.Join(m.said, "\n"))
	}
}

func TestOnlyWhenChanged(t *testing.T) {
	m := newMachine(t)
	m.hook("configure.d/1-file", `{"changed": ["ETC/app.conf"]}`, "")
	m.hook("configure.d/2-key", `{"changed": ["app.port"]}`, "")
	m.hook("configure.d/3-glob", `{"changed": ["ETC/*.d", "ETC/x"]}`, "")
	m.runs("1-file 2-key 3-glob")
	m.runs("")
	m.write("app.conf", "1")
	m.runs("1-file")
	m.doc = `{"app": {"port": 1}}`
	m.runs("2-key")
	m.doc = `{"app": {"port": 1, "host": "x"}}`
	if err := os.MkdirAll(filepath.Join(m.etc, "a.d/deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.runs("3-glob")
	m.write("a.d/deep/file", "1")
	m.runs("3-glob")
	m.runs("")
	if !slices.Contains(m.said, "configure/2-key: passed over: unchanged: app.port") {
		t.Errorf("said %q", m.said)
	}
}

// A change counts until the hook has succeeded with it.
func TestChangeSurvivesFailure(t *testing.T) {
	m := newMachine(t)
	m.hook("configure.d/1-x", `{"changed": ["ETC/app.conf"]}`, "[ ! -e ETC/broken ]\n")
	m.runs("1-x")
	m.write("app.conf", "1")
	m.write("broken", "")
	if _, err := run(t, m.c); err == nil {
		t.Fatal("it did not fail")
	}
	if err := os.Remove(filepath.Join(m.etc, "broken")); err != nil {
		t.Fatal(err)
	}
	m.runs("1-x")
	m.runs("")
}

func TestOnceInAnImage(t *testing.T) {
	m := newMachine(t)
	m.hook("configure.d/1-x", `{"once": "image"}`, "")
	m.runs("1-x")
	m.runs("")
	m.c.Image.Version = "2"
	m.runs("1-x")
	m.c.Image.Version = "1"
	m.runs("1-x")
}

func TestRetriesAndTimeout(t *testing.T) {
	m := newMachine(t)
	m.hook("configure.d/1-x", `{"retries": 2, "delay": "1ms"}`, "echo x >>ETC/n; [ $(wc -l <ETC/n) = 3 ]\n")
	m.runs("1-x 1-x 1-x")
	m.hook("configure.d/1-x", `{"retries": 1, "timeout": "100ms"}`, "sleep 60\n")
	got, err := run(t, m.c)
	if err == nil || !strings.Contains(err.Error(), "still running after 100ms") || got != "1-x 1-x" {
		t.Errorf("ran %q, %v; want two attempts that are ended", got, err)
	}
}

// Each of two hooks waits for the other to run: they do so at the same time.
func TestBeside(t *testing.T) {
	m := newMachine(t)
	meet := "touch ETC/$1; for i in $(seq 300); do [ -e ETC/$2 ] && exit 0; sleep 0.02; done; exit 1\n"
	m.hook("configure.d/1-a", "", "")
	m.hook("configure.d/2-b", `{"after": ["1-a"]}`, "set -- b c\n"+meet)
	m.hook("configure.d/3-c", `{"after": ["1-a"]}`, "set -- c b\n"+meet)
	m.hook("configure.d/4-d", "", "")
	_, err := run(t, m.c)
	if err != nil {
		t.Fatal(err)
	}
	// One by one they cannot.
	for _, f := range []string{"b", "c"} {
		if err := os.Remove(filepath.Join(m.etc, f)); err != nil {
			t.Fatal(err)
		}
	}
	m.hook("configure.d/2-b", `{"after": ["1-a"], "semaphore": "s"}`, "mkdir ETC/lock; sleep 0.1; rmdir ETC/lock\n")
	m.hook("configure.d/3-c", `{"after": ["1-a"], "semaphore": "s"}`, "mkdir ETC/lock; sleep 0.1; rmdir ETC/lock\n")
	got, err := run(t, m.c)
	if err != nil {
		t.Error(err)
	}
	for _, line := range []string{"2-b: 2-b", "3-c: 3-c"} { // marked, as they might be mixed
		if !strings.Contains(got, line) {
			t.Errorf("printed %q; want %q in it", got, line)
		}
	}
}

func TestHooksAreTold(t *testing.T) {
	m := newMachine(t)
	m.c.Image = Image{"demo", "7", ""}
	m.hook("configure.d/1-x", "", `echo /etc/a >>"$GOLDSMITH_CHANGED_FILES"`+"\n")
	m.hook("post-configure.d/1-y", "", `echo $(cat $GOLDSMITH_CHANGED_FILES) $GOLDSMITH_IMAGE_NAME-$GOLDSMITH_IMAGE_VERSION`+"\n")
	for range 2 {
		m.runs("1-x 1-y /etc/a demo-7")
	}
}

func TestNoopAndPlan(t *testing.T) {
	m := newMachine(t)
	m.hook("configure.d/1-x", "", "")
	m.hook("configure.d/2-y", `{"changed": ["ETC/app.conf"]}`, "")
	m.hook("configure.d/3-z.sh", "", "")
	m.runs("1-x 2-y")
	if !slices.ContainsFunc(m.said, func(s string) bool { return strings.Contains(s, "3-z.sh does not run") }) {
		t.Errorf("said %q; want a word on 3-z.sh", m.said)
	}
	m.c.Noop = true
	m.runs("")
	if want := "configure/1-x: would run: every run"; !slices.Contains(m.said, want) {
		t.Errorf("said %q; want %q", m.said, want)
	}
	plan := func(coming ...string) string {
		t.Helper()
		p, err := m.c.Plan(t.Context(), coming)
		if err != nil || len(p.Phases) != 1 {
			t.Fatalf("plan %+v, %v", p, err)
		}
		var all []string
		for _, h := range p.Phases[0].Hooks {
			all = append(all, fmt.Sprintf("%s %v %s", h.Name, h.Run, strings.ReplaceAll(h.Why, m.etc, "ETC")))
		}
		return strings.Join(append(all, p.Phases[0].Ignored...), "; ")
	}
	if got, want := plan(), "1-x true every run; 2-y false unchanged: ETC/app.conf; 3-z.sh"; got != want {
		t.Errorf("plan %s; want %s", got, want)
	}
	if got, want := plan(filepath.Join(m.etc, "app.conf")), "1-x true every run; 2-y true will change: ETC/app.conf; 3-z.sh"; got != want {
		t.Errorf("plan %s; want %s", got, want)
	}
}

// A hook may be a program, larger than anything that is searched.
func TestLargeHook(t *testing.T) {
	m := newMachine(t)
	m.hook("configure.d/1-large", "", "exit 0\n"+strings.Repeat("# filler\n", 1<<18))
	m.runs("1-large")
}

// What waits for a semaphore does not start when another hook has failed.
func TestSemaphoreAfterFailure(t *testing.T) {
	m := newMachine(t)
	m.hook("configure.d/1-a", `{"after": [], "semaphore": "x"}`, "while [ ! -e ETC/failed ]; do sleep 0.02; done; sleep 0.2; touch ETC/1-a\n")
	m.hook("configure.d/2-b", `{"after": [], "semaphore": "x"}`, "while [ ! -e ETC/failed ]; do sleep 0.02; done; sleep 0.2; touch ETC/2-b\n")
	m.hook("configure.d/3-c", `{"after": []}`, "touch ETC/failed; exit 1\n")
	if _, err := run(t, m.c); err == nil {
		t.Fatal("no error")
	}
	if a, b := m.read("1-a"), m.read("2-b"); (a == "") == (b == "") {
		t.Errorf("1-a %q, 2-b %q: want one of them to have run", a, b)
	}
}

// A link that is watched counts with what it leads to.
func TestChangedBehindLink(t *testing.T) {
	m := newMachine(t)
	m.write("real", "1")
	if err := os.Symlink("real", filepath.Join(m.etc, "link")); err != nil {
		t.Fatal(err)
	}
	m.hook("configure.d/1-file", `{"changed": ["ETC/link"]}`, "")
	m.runs("1-file")
	m.runs("")
	m.write("real", "2")
	m.runs("1-file")
}

// A service that a hook starts lives on.
func TestServiceLives(t *testing.T) {
	m := newMachine(t)
	m.hook("configure.d/1-serve", "", "sleep 45678 & echo $! >ETC/pid\n")
	m.runs("1-serve")
	pid, err := strconv.Atoi(strings.TrimSpace(m.read("pid")))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the service: %v", err)
	}
}

// A run that was killed leaves the paths of its changes; the next begins anew,
// and leaves nothing.
func TestChangedIsFixed(t *testing.T) {
	m := newMachine(t)
	lock := filepath.Join(t.TempDir(), "lock")
	m.c.Lock, m.c.Stdout, m.c.Log = lock, io.Discard, io.Discard
	m.hook("configure.d/1-x", "", "stat -c %a $GOLDSMITH_CHANGED_FILES >ETC/mode; cat $GOLDSMITH_CHANGED_FILES >ETC/changed\n")
	if err := os.WriteFile(lock+".changed", []byte("/etc/old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), m.c); err != nil {
		t.Fatal(err)
	}
	if mode, text := m.read("mode"), m.read("changed"); mode != "600\n" || text != "" {
		t.Errorf("mode %q, %q", mode, text)
	}
	if left, _ := filepath.Glob(lock + "*"); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// What would be done is said in the order in which it would be, and not done.
func TestNoopOrder(t *testing.T) {
	m := newMachine(t)
	m.runs("")
	m.c.Image.Version = "2"
	m.write("db", "old")
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo new >ETC/db\n")
	m.runs("1-m")
	if err := os.RemoveAll(filepath.Join(m.c.Base, "migration.d")); err != nil {
		t.Fatal(err)
	}
	want := []string{"back from demo 2: " + m.etc + "/db would be as it was before 1-m", "phase pre-configure", "phase configure"}
	for i := range 9 {
		name := fmt.Sprintf("%d-x", i+1)
		m.hook("configure.d/"+name, `{"after": []}`, "")
		want = append(want, "configure/"+name+": would run: every run")
	}
	want = append(want, "phase post-configure", "phase migration")
	m.c.Image.Version, m.c.Noop = "1", true
	m.runs("")
	if !slices.Equal(m.said, want) || m.read("db") != "new\n" {
		t.Errorf("said\n%s\nwant\n%s", strings.Join(m.said, "\n"), strings.Join(want, "\n"))
	}
}
