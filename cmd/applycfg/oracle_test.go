package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/testenv"
)

var exhaustive = flag.Bool("exhaustive", false, "compare all cases with the original, not a sample")

// server is os-apply-config, started once: for each line, a child with the
// case's directory, environment and arguments.
const server = `
import importlib, json, os, sys, traceback
import logging
logging.FileHandler = lambda *a: logging.NullHandler()
from os_apply_config import apply_config
os.umask(0o022)
for line in sys.stdin:
    case = json.loads(line)
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.chdir(case['dir'])
            os.environ.update(case['env'])
            os.dup2(w, 1)
            os.dup2(os.open('/dev/null', os.O_RDWR), 0)
            os.dup2(os.open('/dev/null', os.O_RDWR), 2)
            os.close(r)
            os.close(w)
            sys.stdin = open(0)
            sys.argv = ['os-apply-config']
            importlib.reload(apply_config)
            status = apply_config.main(['os-apply-config'] + case['args'])
        except SystemExit as e:
            status = e.code or 0
        except BaseException:
            pass
        finally:
            try: sys.stdout.flush()
            except Exception: status = 1
            os._exit(status & 255)
    os.close(w)
    with os.fdopen(r, 'rb') as f: out = f.read()
    _, st = os.waitpid(pid, 0)
    print(json.dumps({'out': out.decode('utf-8', 'surrogateescape'), 'status': os.waitstatus_to_exitcode(st)}), flush=True)
`

// result is what scripts see of a run, beside the files.
type result struct {
	Out    string `json:"out"`
	Status int    `json:"status"`
}

type oracle struct {
	in      io.Writer
	out     *bufio.Reader
	program string // ours, which starts faster than a test binary
}

func startOriginal(t testing.TB) *oracle {
	t.Helper()
	testenv.Need(t, "/usr/bin/os-apply-config")
	cmd := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", server)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "COLUMNS=80")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil || cmd.Start() != nil {
		t.Fatal("the original does not start", err1, err2)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	program := filepath.Join(t.TempDir(), "os-apply-config")
	build := exec.Command("go", "build", "-ldflags", "-X main.originalLog=", "-o", program, ".")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return &oracle{in, bufio.NewReader(out), program}
}

func (o *oracle) run(t testing.TB, dir string, c *testCase) (r result) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"dir": dir, "env": c.env, "args": c.args})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.in.Write(append(b, '\n')); err != nil {
		t.Fatal(err)
	}
	line, err := o.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ours runs this program by the original's name.
func (o *oracle) ours(t testing.TB, dir string, c *testCase) result {
	t.Helper()
	cmd := exec.Command(o.program, c.args...)
	cmd.Dir = dir
	cmd.Env = os.Environ()
	for k, v := range c.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &c.stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{out.String(), cmd.ProcessState.ExitCode()}
}

// testCase is a directory, and a command line that is given there.
type testCase struct {
	files  []entry
	args   []string
	env    map[string]string
	stderr bytes.Buffer // ours
}

// entry is one file: a link when target is set, a directory when text is "/".
type entry struct {
	path, text, target string
	mode               fs.FileMode
}

func (c *testCase) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "os-apply-config %q %v\n", c.args, c.env)
	for _, f := range c.files {
		fmt.Fprintf(&b, "  %s %#o %q %s\n", f.path, f.mode, f.text, f.target)
	}
	return b.String() + c.stderr.String()
}

func (c *testCase) write(t testing.TB, dir string) {
	t.Helper()
	for _, f := range c.files {
		path := filepath.Join(dir, f.path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case f.target != "":
			err = os.Symlink(f.target, path)
		case f.text == "/":
			err = os.MkdirAll(path, 0o755)
		default:
			if err = os.WriteFile(path, []byte(f.text), 0o644); err == nil {
				err = os.Chmod(path, f.mode)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tree is all that is below a directory.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d %d ", fi.Mode(), st.Uid, st.Gid)
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += string(b)
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += target
		}
		rel, err := filepath.Rel(dir, path)
		got[rel] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// compare runs a case with both. Where the original fails, only the status and
// standard output are compared: it leaves what it had begun, ours nothing.
func (o *oracle) compare(t testing.TB, c *testCase) (refused bool) {
	t.Helper()
	base := t.TempDir()
	theirDir, ourDir := filepath.Join(base, "theirs"), filepath.Join(base, "ours")
	for _, dir := range []string{theirDir, ourDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		c.write(t, dir)
	}
	before := tree(t, ourDir)
	want, got := o.run(t, theirDir, c), o.ours(t, ourDir, c)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%sresult (-original +ours):\n%s", c, d)
	}
	wantTree := before
	if want.Status == 0 {
		wantTree = tree(t, theirDir)
	}
	if d := cmp.Diff(wantTree, tree(t, ourDir)); d != "" {
		t.Errorf("%sfiles (-original +ours):\n%s", c, d)
	}
	if err := os.RemoveAll(base); err != nil {
		t.Fatal(err)
	}
	return want.Status != 0
}

// sample is which part of the cases is compared unless all are.
const sample = 8

func (o *oracle) compareAll(t *testing.T, matter string, cases []*testCase) {
	t.Helper()
	row := testenv.Row{Matter: matter, Sample: !*exhaustive}
	for i, c := range cases {
		if !*exhaustive && i%sample != 0 {
			continue
		}
		if o.compare(t, c) {
			row.Refused++
		} else {
			row.Equal++
		}
	}
	testenv.Proof(t, row)
}
