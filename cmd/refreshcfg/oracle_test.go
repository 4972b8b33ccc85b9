package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/testenv"
)

var exhaustive = flag.Bool("exhaustive", false, "compare with the originals over many more cases than the sample")

// The originals, which find each other by this PATH.
const originalPath = "/usr/bin:/bin"

func needOriginals(t *testing.T) {
	t.Helper()
	testenv.NeedFile(t, "/usr/bin/os-refresh-config")
	testenv.NeedFile(t, "/usr/bin/dib-run-parts")
}

// result is all that can be seen of a run.
type result struct {
	Stdout, Stderr, Trace string
	Status                int
}

// runs runs a program in a directory, which it leaves as it was.
func runs(t *testing.T, dir, program string, env, args []string) result {
	t.Helper()
	trace := filepath.Join(dir, "trace")
	_ = os.Remove(trace)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Args[0] = filepath.Base(program)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + originalPath, "HOME=/root", "LC_ALL=C", "TZ=UTC", "TRACE=" + trace}, env...)
	cmd.Stdin = strings.NewReader("input\n")
	cmd.WaitDelay = time.Second
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err := cmd.Run()
	if ee, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%s: %v", program, err)
	} else if ok && ee.ExitCode() < 0 {
		t.Fatalf("%s: %v\n%s", program, err, &log)
	}
	b, _ := os.ReadFile(trace)
	return result{out.String(), normal(log.String()), string(b), cmd.ProcessState.ExitCode()}
}

var (
	shellTrace = regexp.MustCompile(`(?m)^\++ .*\n`)
	// What bash says in the place of a program: which line of dib-run-parts,
	// or of our sourcing shell, that a job was killed, or why it cannot start.
	bashSays = regexp.MustCompile(`(?m)^(/usr/bin/dib-run-parts: |bash: line |dib-run-parts: line |dib-run-parts DATE [^ ]+: |Terminated$|Killed$).*\n`)
	dateOf   = regexp.MustCompile(`[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d UTC \d{4}`)
	stamp    = regexp.MustCompile(`\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]`)
	seconds  = regexp.MustCompile(`(?m) +\d+\.\d{3}$`)
)

// normal takes out of what was logged whatever differs between two runs, and
// what only a program made of bash says.
func normal(log string) string {
	for _, r := range []struct {
		re   *regexp.Regexp
		with string
	}{{dateOf, "DATE"}, {stamp, "[STAMP]"}, {seconds, " SECONDS"}, {shellTrace, ""}, {bashSays, ""}} {
		log = r.re.ReplaceAllString(log, r.with)
	}
	return log
}

// tree makes directories of hooks.
type tree struct {
	t   *testing.T
	rng *rand.Rand
	dir string
}

func (r *tree) pick(of ...string) string { return of[r.rng.IntN(len(of))] }

func (r *tree) write(name, text string, mode os.FileMode) {
	r.t.Helper()
	p := filepath.Join(r.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), mode), os.Chmod(p, mode)); err != nil {
		r.t.Fatal(err)
	}
}

// hook is the text of one that says what it sees. About one in twelve fails.
func (r *tree) hook() string {
	head := r.pick("#!/bin/sh\n", "#!/bin/bash\n", "#!/bin/sh\n", "", "#!/usr/bin/env bash\n")
	body := "echo \"$0 $# X=${X-none} Y=${Y-none}\" >>\"$TRACE\"\n"
	for range r.rng.IntN(3) {
		body += r.pick("echo out\n", "echo err >&2\n", "printf 'no newline'\n", "read -r line || true; echo \"read $line\"\n", "pwd\n", "umask\n",
			"export X=lost\n", "echo $X\n", "sleep 0.01\n", "cd /\n", "## goldsmith: {\"once\": \"image\", \"no\": 1}\n")
	}
	if r.rng.IntN(12) == 0 {
		body += r.pick("exit 3\n", "false\n", "exit 255\n", "kill -9 $$\n", "kill -TERM $$\n", "exit 1\n")
		if strings.HasSuffix(body, "false\n") {
			body += "exit $?\n"
		}
	}
	return head + body
}

// hooks fills a directory with files of all kinds.
func (r *tree) hooks(dir string) {
	for range r.rng.IntN(6) {
		name := r.pick("", "1-", "10-", "010-", "9-", "-3", "99-", "_") + r.pick("a", "b", "run", "Z", "x_y", "a.sh", "b~", "c d", "e,f")
		if strings.Contains(name, " ") {
			name = strings.ReplaceAll(name, " ", "+")
		}
		p := filepath.Join(dir, name)
		_ = os.RemoveAll(filepath.Join(r.dir, p))
		switch r.rng.IntN(14) {
		case 0:
			r.write(p, r.hook(), 0o644)
		case 1:
			r.write(filepath.Join(p, "10-deep"), r.hook(), 0o755)
		case 2:
			_ = os.Symlink("/bin/true", filepath.Join(r.dir, p))
		case 3:
			_ = os.Symlink("nothing", filepath.Join(r.dir, p))
		case 4:
			if r.rng.IntN(4) == 0 {
				r.write(p, r.pick("#!/nonexistent\n", "#!/etc\n", "#!/etc/passwd\n"), 0o755)
			}
		default:
			r.write(p, r.hook(), 0o755)
		}
	}
}

func (r *tree) environment() {
	if r.rng.IntN(2) == 0 {
		return
	}
	for range 1 + r.rng.IntN(3) {
		text := r.pick("export X=1\n", "export Y=\"$X\"\n", "export X=${X:-0}2\n", "echo said\n", "echo said >&2\n", "Y=2\n", "umask 077\n", "local Z=1\n", "export -n X\n")
		if r.rng.IntN(12) == 0 {
			text += r.pick("false\n", "exit 4\n", "echo $UNSET\n", "return 1\n")
		}
		r.write("base/environment.d/"+r.pick("1-", "10-", "9-")+r.pick("a", "b.sh", "c.bash"), text, 0o644)
	}
	// The original fails where environment.d has no file at all.
	r.write("base/environment.d/50-empty", "", 0o644)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func ours(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil || strings.HasPrefix(p, "/usr/bin") {
		t.Fatalf("%s of this package: %q, %v", name, p, err)
	}
	return p
}

// both runs the original and ours, and says whether they do the same.
func both(t *testing.T, what, dir, name string, env, args []string) result {
	t.Helper()
	want := runs(t, dir, "/usr/bin/"+name, env, args)
	got := runs(t, dir, ours(t, name), env, args)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s: %s %q %q (-original +ours):\n%s", what, name, env, args, d)
		files, _ := exec.Command("sh", "-c", "cd \"$1\"; find base -type f | sort | while read -r f; do ls -l \"$f\"; cat \"$f\"; done", "sh", dir).Output()
		t.Logf("%s", files)
	}
	return want
}

func TestOracleRefresh(t *testing.T) {
	needOriginals(t)
	n := 12
	if *exhaustive {
		n = 150
	}
	row := testenv.Row{Matter: "os-refresh-config: generated trees of hooks, output, order and statuses", Sample: !*exhaustive}
	rng := rand.New(rand.NewPCG(41, 42))
	for i := range n {
		r := &tree{t, rng, t.TempDir()}
		for _, phase := range []string{"pre-configure", "configure", "post-configure", "migration", "error"} {
			if rng.IntN(4) > 0 {
				r.write("base/"+phase+".d/.keep", "", 0o644)
				r.hooks("base/" + phase + ".d")
			}
		}
		r.environment()
		if rng.IntN(20) == 0 {
			_ = os.RemoveAll(r.dir + "/base/migration.d")
			r.write("base/migration.d", "", 0o755)
		}
		env := []string{"OS_REFRESH_CONFIG_BASE_DIR=" + r.pick(r.dir+"/base", "base", "./base/", r.dir+"//base")}
		want := both(t, fmt.Sprintf("case %d", i), r.dir, "os-refresh-config", env, []string{"--lockfile", "lock", "--log-level", r.pick(levels...)})
		if t.Failed() {
			return
		}
		if row.Equal++; want.Status != 0 {
			row.Refused++
			row.Equal--
		}
		_ = os.RemoveAll(r.dir)
	}
	row.Note = "Refused are runs in which a hook fails"
	testenv.Proof(t, row)
}

// What environment.d does to the shell that runs the hooks: "set +e" has it go
// on after one that fails, in this file, in those after it, and in hooks.
func TestOracleErrexit(t *testing.T) {
	needOriginals(t)
	for _, snippets := range [][]string{
		{"set +e\n"}, {"set +e\nfalse\n"}, {"set +e\n", "false\necho $UNSET\n"}, {"set +e\n", "false\n", "set -e\n"}, {"set +eu\necho $UNSET\n"},
		{"set +e\n", "set -e\nfalse\n"}, {"set +o errexit\n", "return 3\n"}, {"set +o pipefail\nfalse | true\n"}, {"set -x\n"}, {"( set +e )\n"},
	} {
		r := &tree{t, nil, t.TempDir()}
		for i, text := range snippets {
			r.write(fmt.Sprintf("base/environment.d/%d-x", i), text, 0o644)
		}
		for name, text := range map[string]string{"1-a": "exit 3\n", "2-b": "echo $0 >>$TRACE\n", "3-c": "kill -9 $$\n", "4-d": "", "5-e": "exit 1\n"} {
			r.write("base/configure.d/"+name, "#!/bin/sh\n"+text, 0o755)
		}
		r.write("base/configure.d/35-none", "#!/nonexistent\n", 0o755)
		r.write("base/post-configure.d/1-p", "#!/bin/sh\necho p >>$TRACE\n", 0o755)
		r.write("base/error.d/1-e", "#!/bin/sh\necho e >>$TRACE\n", 0o755)
		both(t, fmt.Sprintf("%q", snippets), r.dir, "os-refresh-config", []string{"OS_REFRESH_CONFIG_BASE_DIR=base"}, []string{"--lockfile", "lock"})
	}
}

// An environment.d that is a file is passed over.
func TestOracleEnvironmentFile(t *testing.T) {
	needOriginals(t)
	r := &tree{t, nil, t.TempDir()}
	r.write("base/environment.d", "exit 1\n", 0o644)
	r.write("base/configure.d/1-a", "#!/bin/sh\necho ran\n", 0o755)
	both(t, "environment.d is a file", r.dir, "os-refresh-config", []string{"OS_REFRESH_CONFIG_BASE_DIR=base"}, []string{"--lockfile", "lock"})
}

func TestOracleRefreshArguments(t *testing.T) {
	needOriginals(t)
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/base/configure.d", 0o755), os.WriteFile(dir+"/base/configure.d/1", []byte("#!/bin/sh\necho ran\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	row := testenv.Row{Matter: "os-refresh-config: command lines, locks and time limits"}
	base := "OS_REFRESH_CONFIG_BASE_DIR=" + dir + "/base"
	count := func(r result) {
		if r.Status == 2 {
			row.Refused++
		} else {
			row.Equal++
		}
	}
	for _, line := range []string{
		"", "-h", "--help", "--print-base", "--print-b", "--print-phases", "--print-p", "--print", "--print-base --print-phases", "--print-base=1", "--log-level DEBUG",
		"--log-level=WARN", "--log CRITICAL", "--log-level ERROR", "--log-level debug", "--log-level", "--log-level=", "--lock other", "--timeout 5", "--timeout=5", "--timeout x",
		"--timeout 1.5", "--timeout -5", "--timeout=-5", "--timeout", "--timeout 1_0", "--timeout 0", "--t 3", "--l x", "--none", "stray", "-x", "--", "-- --print-base", "--print-base stray",
		"--lockfile lock --print-phases -h",
	} {
		args := strings.Fields(line)
		if !strings.Contains(line, "--lock") {
			args = append([]string{"--lockfile", "lock"}, args...)
		}
		count(both(t, "arguments", dir, "os-refresh-config", []string{base, "COLUMNS=80"}, args))
	}
	for _, env := range [][]string{nil, {"OS_REFRESH_CONFIG_BASE_DIR="}, {"OS_REFRESH_CONFIG_BASE_DIR=relative/"}} {
		count(both(t, "environment", dir, "os-refresh-config", env, []string{"--print-base"}))
	}

	// A lock that another holds.
	f, err := os.OpenFile(dir+"/lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if r := both(t, "locked", dir, "os-refresh-config", []string{base}, []string{"--lockfile", "lock"}); r.Status != 11 {
		t.Errorf("locked: status %d; want 11", r.Status)
	}
	row.Equal++

	// What a hook leaves behind lives on.
	r := &tree{t, nil, dir}
	r.write("base/configure.d/2", "#!/bin/sh\nsleep 45678 </dev/null >/dev/null 2>&1 &\necho $! >pid\n", 0o755)
	for _, program := range []string{"/usr/bin/os-refresh-config", ours(t, "os-refresh-config")} {
		if got := runs(t, dir, program, []string{base}, []string{"--lockfile", "other"}); got.Status != 0 {
			t.Errorf("%s: %+v", program, got)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, dir+"/pid")))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("%s: what a hook left behind: %v", program, err)
		}
	}
	row.Equal++

	// A hook that takes too long, with a grandchild in a session of its own.
	// error.d runs all the same.
	r.write("base/configure.d/2", "#!/bin/bash\ntrap '' TERM\nsetsid sh -c 'trap \"\" TERM; echo $$ >deep; sleep 45678' &\nwait\n", 0o755)
	r.write("base/configure.d/3", "#!/bin/sh\necho never\n", 0o755)
	r.write("base/migration.d/1", "#!/bin/sh\necho never\n", 0o755)
	r.write("base/error.d/1", "#!/bin/sh\nsleep 0.3\necho error handler\n", 0o755)
	_ = os.Remove(dir + "/deep")
	late := both(t, "time is over", dir, "os-refresh-config", []string{base}, []string{"--lockfile", "other", "--timeout", "1"})
	if late.Stdout != "ran\nerror handler\n" || late.Status != 1 {
		t.Errorf("time is over: %+v", late)
	}
	row.Equal++
	if _, err := os.Stat("/proc/" + strings.TrimSpace(readFile(t, dir+"/deep")) + "/fd/0"); err == nil {
		t.Error("the grandchild lives")
	}
	testenv.Proof(t, row)
}

func TestOracleRunParts(t *testing.T) {
	needOriginals(t)
	n := 12
	if *exhaustive {
		n = 200
	}
	row := testenv.Row{Matter: "dib-run-parts of python3-dib-utils: generated directories and command lines", Sample: !*exhaustive}
	rng := rand.New(rand.NewPCG(43, 44))
	for i := range n {
		r := &tree{t, rng, t.TempDir()}
		r.write("base/x.d/.keep", "", 0o644)
		r.hooks("base/x.d")
		r.environment()
		var env []string
		if rng.IntN(3) == 0 {
			env = append(env, "RUN_PARTS_REGEX="+r.pick("^[0-9]+-", "a", "sh$", "^[[:alpha:]_]+$", "(a|b)$", ""))
		}
		dir := r.pick("base/x.d", r.dir+"/base/x.d", "base/x.d/", "./base//x.d", "base/none", "base/x.d/.keep")
		args := [][]string{{dir}, {dir}, {dir}, {dir}, {"--list", dir}, {"--list"}, {}, {dir, "more"}, {dir, "--list"}}[rng.IntN(9)]
		want := both(t, fmt.Sprintf("case %d", i), r.dir, "dib-run-parts", env, args)
		if t.Failed() {
			return
		}
		if row.Equal++; want.Status != 0 {
			row.Refused++
			row.Equal--
		}
		_ = os.RemoveAll(r.dir)
	}
	row.Note = "Refused are those with a status"
	testenv.Proof(t, row)
}
