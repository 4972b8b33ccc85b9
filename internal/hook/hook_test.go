package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// tree writes files below a new directory; a name that ends in "*" is
// executable.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		mode := os.FileMode(0o644)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o755
		}
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const say = "#!/bin/bash\necho \"$0\"\n"

func TestListOrderAndSelection(t *testing.T) {
	root := tree(t, map[string]string{
		"d/10-b*": say, "d/10-a*": say, "d/2x*": say, "d/9-a*": say, "d/abc*": say, "d/_z*": say,
		"d/-5neg*": say, "d/010-c*": say,
		"d/foo.sh*": say, "d/x~*": say, "d/1.5-y*": say, "d/20-plain": say, "d/sub/30-x*": say, "e/target*": say,
	})
	if err := os.Symlink("../e/target", filepath.Join(root, "d/30-link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(root, "d/31-dangling")); err != nil {
		t.Fatal(err)
	}
	got, err := List(filepath.Join(root, "d"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields("-5neg _z abc 2x 9-a 010-c 10-a 10-b 30-link")
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("List (-want +got):\n%s", d)
	}
}

func TestListMissingDirectory(t *testing.T) {
	if _, err := List(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("List = %v; want it to say that the directory is not there", err)
	}
}

func TestSnippetsAreBytewise(t *testing.T) {
	root := tree(t, map[string]string{
		"environment.d/9-y": "", "environment.d/10-x": "", "environment.d/100-z.bash*": "", "environment.d/a~": "",
	})
	got, err := Snippets(filepath.Join(root, "environment.d"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"10-x", "100-z.bash", "9-y"}, got); d != "" {
		t.Errorf("Snippets (-want +got):\n%s", d)
	}
}

// TestCompareIsSort holds Compare to sort(1).
func TestCompareIsSort(t *testing.T) {
	testenv.Need(t, "sort")
	gen := rapid.SliceOfN(rapid.StringMatching(`-{0,2}[0-9]{0,3}[0-9A-Za-z_.-]{1,3}`), 2, 12)
	rapid.Check(t, func(t *rapid.T) {
		names := gen.Draw(t, "names")
		cmd := exec.Command("sort", "-n")
		cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
		cmd.Stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(names, Compare)
		if d := cmp.Diff(strings.Fields(string(out)), names); d != "" {
			t.Errorf("sorted (-sort +Compare):\n%s", d)
		}
	})
}

func run(t *testing.T, r *Runner) (stdout, log string, err error) {
	t.Helper()
	var o, l bytes.Buffer
	r.Stdout, r.Log = &o, &l
	err = r.Run(t.Context())
	return o.String(), l.String(), err
}

func TestRunSourcesEnvironmentOnce(t *testing.T) {
	root := tree(t, map[string]string{
		"environment.d/10-a": "echo noise\nexport A=1 M='two\nlines'\nNOT=exported\ncount=0\nf() { echo fun; }\nexport -f f\n",
		"environment.d/9-b":  "A=$A.$((count + 1))\ncd /\numask 027\n",
		"d/10-one*":          "#!/bin/bash\necho \"$A ${NOT-unset} $M $(f) $PWD $(umask) ${_hook_file-clean}\"\nexport A=changed\n",
		"d/20-two*":          "#!/bin/bash\necho \"$A\"\n",
	})
	stdout, log, err := run(t, &Runner{Dir: filepath.Join(root, "d")})
	if err != nil {
		t.Fatal(err)
	}
	if want := "1.1 unset two\nlines fun / 0027 clean\n1.1\n"; stdout != want {
		t.Errorf("stdout = %q; want %q", stdout, want)
	}
	for _, want := range []string{
		"noise\n", "Sourcing environment file " + root + "/d/../environment.d/10-a\n",
		"Running " + root + "/d/10-one\n", "10-one completed\n", "Target: d\n", "END PROFILING",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("log lacks %q:\n%s", want, log)
		}
	}
}

func TestTrace(t *testing.T) {
	root := tree(t, map[string]string{"environment.d/10-a": "export A=secret\n", "d/10-one*": say})
	for _, trace := range []bool{false, true} {
		_, log, err := run(t, &Runner{Dir: filepath.Join(root, "d"), Trace: trace})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log, "A=secret"); got != trace {
			t.Errorf("Trace %v: the log shows the value: %v\n%s", trace, got, log)
		}
	}
}

func TestRunStopsAtTheFirstFailure(t *testing.T) {
	root := tree(t, map[string]string{
		"d/10-ok*": say, "d/20-bad*": "#!/bin/bash\necho broken >&2\nexit 7\n", "d/30-never*": say,
	})
	stdout, log, err := run(t, &Runner{Dir: filepath.Join(root, "d"), InDir: filepath.Join(root, "d")})
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Run = %v; want an *Error", err)
	}
	got := Error{Path: e.Path, Status: e.Status, Tail: e.Tail}
	want := Error{Path: root + "/d/20-bad", Status: 7, Tail: []string{"broken"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("error (-want +got):\n%s", d)
	}
	if e.Reason() != "exit status 7" {
		t.Errorf("Reason = %q", e.Reason())
	}
	if strings.Contains(stdout, "never") || strings.Contains(log, "PROFILING") {
		t.Errorf("went on after the failure:\n%s%s", stdout, log)
	}
}

func TestSnippetFailures(t *testing.T) {
	for _, tc := range []struct {
		snippet, reason string
		status          int
	}{
		{"exit 3", "exit status 3", 3},
		{"exit 0", "ended the shell before the hooks could run", 1},
		{"false", "exit status 1", 1},
		{": $UNSET_VARIABLE", "exit status 1", 1},
		{"false | true", "exit status 1", 1},
	} {
		t.Run(tc.snippet, func(t *testing.T) {
			root := tree(t, map[string]string{
				"environment.d/10-ok": "true\n", "environment.d/20-bad": tc.snippet + "\n", "d/10-never*": say,
			})
			stdout, _, err := run(t, &Runner{Dir: filepath.Join(root, "d")})
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Status != tc.status || e.Reason() != tc.reason || !strings.HasSuffix(e.Path, "/environment.d/20-bad") {
				t.Errorf("Run = %#v; want status %d, %s, in 20-bad", err, tc.status, tc.reason)
			}
			if stdout != "" {
				t.Errorf("a hook ran: %s", stdout)
			}
		})
	}
}

func TestHookWithoutInterpreterLine(t *testing.T) {
	root := tree(t, map[string]string{"d/10-x*": "[[ a == a ]] && echo \"bash $(basename \"$0\")\"\n", "d/20-empty*": ""})
	stdout, _, err := run(t, &Runner{Dir: filepath.Join(root, "d")})
	if err != nil || stdout != "bash 10-x\n" {
		t.Errorf("Run = %q, %v; want bash to run it", stdout, err)
	}
}

func TestExecSeesInsidePaths(t *testing.T) {
	root := tree(t, map[string]string{"environment.d/10-a": "", "install.d/10-x*": say})
	var got [][]string
	r := &Runner{
		Dir: filepath.Join(root, "install.d"), InDir: "/tmp/in_target.d/install.d", Env: []string{"HOME=/root"},
		Exec: func(_ context.Context, x command.Exec) error {
			got = append(got, x.Args)
			if x.Args[0] == "bash" {
				_, err := fmt.Fprint(x.Stdout, "env\x00HOME=/root\x00")
				return err
			}
			return nil
		},
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0][len(got[0])-1] != "/tmp/in_target.d/install.d/../environment.d/10-a" {
		t.Fatalf("started %q; want the snippet first, by its inside path", got)
	}
	if d := cmp.Diff([]string{"/tmp/in_target.d/install.d/10-x"}, got[1]); d != "" {
		t.Errorf("hook (-want +got):\n%s", d)
	}
}

func TestBeforeAndAfter(t *testing.T) {
	root := tree(t, map[string]string{"d/10-a*": say, "d/20-b*": say, "d/30-c*": say})
	stop := errors.New("stop here")
	var after []string
	r := &Runner{
		Dir: filepath.Join(root, "d"),
		Before: func(name string) error {
			if name == "20-b" {
				return stop
			}
			return nil
		},
		After: func(name string, _ time.Duration, err error) error {
			after = append(after, fmt.Sprint(name, " ", err))
			return nil
		},
	}
	if err := r.Run(t.Context()); !errors.Is(err, stop) {
		t.Errorf("Run = %v; want %v", err, stop)
	}
	if d := cmp.Diff([]string{"10-a <nil>"}, after); d != "" {
		t.Errorf("After (-want +got):\n%s", d)
	}
}

// What is skipped does not run, nor environment.d where everything is; what
// comes after a hook can fail the directory.
func TestSkip(t *testing.T) {
	root := tree(t, map[string]string{"environment.d/10-e": "echo sourced >&2\n", "d/10-a*": say, "d/20-b*": say, "d/30-c*": say})
	late := errors.New("not kept")
	for _, c := range []struct {
		skip    string
		sourced bool
		after   error
		want    []string
	}{
		{"10-a 20-b 30-c", false, nil, nil},
		{"10-a", true, nil, []string{"20-b", "30-c"}},
		{"", true, late, []string{"10-a"}},
	} {
		var ran []string
		var log bytes.Buffer
		r := &Runner{
			Dir: filepath.Join(root, "d"), Log: &log,
			Skip: func(name string) bool { return strings.Contains(c.skip, name) },
			After: func(name string, _ time.Duration, _ error) error {
				ran = append(ran, name)
				return c.after
			},
		}
		if err := r.Run(t.Context()); !errors.Is(err, c.after) {
			t.Errorf("%q skipped: Run = %v; want %v", c.skip, err, c.after)
		}
		if d := cmp.Diff(c.want, ran); d != "" {
			t.Errorf("%q skipped: ran (-want +got):\n%s", c.skip, d)
		}
		if got := strings.Contains(log.String(), "sourced"); got != c.sourced {
			t.Errorf("%q skipped: environment.d sourced = %t", c.skip, got)
		}
	}
}

func TestCancel(t *testing.T) {
	root := tree(t, map[string]string{"d/10-a*": "#!/bin/bash\nsleep 60\n", "d/20-b*": say})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := (&Runner{Dir: filepath.Join(root, "d")}).Run(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run = %v; want the context's error", err)
	}
}

// stamp is what differs between two runs: the date, the seconds.
var stamp = regexp.MustCompile(`(?m)^dib-run-parts (\w{3} \w{3} [ \d]\d [\d:]{8} (AM |PM )?\w+ \d{4} )?| +\d+\.\d{3}$`)

// TestAgainstOriginal runs the same directory with dib-run-parts.
func TestAgainstOriginal(t *testing.T) {
	testenv.Need(t, "dib-run-parts")
	for name, files := range map[string]map[string]string{
		"plain":   {"d/10-a*": say, "d/9-b*": say, "d/100-c*": say, "d/x.sh*": say, "d/README": ""},
		"env":     {"environment.d/10-a": "export X=1\n", "environment.d/9-b": "export X=$X.2\n", "d/1*": "#!/bin/sh\necho $X\n"},
		"empty":   {"d/README": ""},
		"failing": {"d/1*": "#!/bin/sh\nexit 7\n", "d/2*": say},
		"assert":  {"environment.d/a": "[ 1 = 2 ]\n", "d/2*": say},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(tree(t, files), "d")
			var stdout, stderr bytes.Buffer
			cmd := exec.Command("dib-run-parts", dir)
			cmd.Env = append(os.Environ(), "LC_ALL=C")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			wantErr := cmd.Run()
			got, log, err := run(t, &Runner{Dir: dir, Trace: true})
			if (err != nil) != (wantErr != nil) {
				t.Errorf("Run = %v; the original: %v", err, wantErr)
			}
			if e, ok := errors.AsType[*Error](err); ok && e.Status != cmd.ProcessState.ExitCode() {
				t.Errorf("status %d; the original's is %d", e.Status, cmd.ProcessState.ExitCode())
			}
			if d := cmp.Diff(stdout.String(), got); d != "" {
				t.Errorf("stdout (-original +ours):\n%s", d)
			}
			if d := cmp.Diff(lines(stderr.String()), lines(log)); d != "" {
				t.Errorf("stderr (-original +ours):\n%s", d)
			}
		})
	}
}

// lines drops stamps and blanks, and the originals' own trace lines.
func lines(log string) []string {
	var kept []string
	for l := range strings.Lines(log) {
		l = strings.Join(strings.Fields(stamp.ReplaceAllString(strings.TrimRight(l, "\n"), "")), " ")
		if l != "" && !strings.HasPrefix(l, "+ set +") && !strings.HasPrefix(l, "++ set +") {
			kept = append(kept, l)
		}
	}
	return kept
}
