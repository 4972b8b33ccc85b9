package applycfg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/testenv"
)

// Helper processes of these tests are the test binary itself.
const (
	helperDir  = "GOLDSMITH_TEST_APPLY"
	helperStop = "GOLDSMITH_TEST_STOP" // the step before which it is killed
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperDir); dir != "" {
		stop, err := strconv.Atoi(os.Getenv(helperStop))
		if err == nil {
			err = applyUntil(dir, stop)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// applyUntil makes the new set of files and kills itself before a step.
func applyUntil(dir string, stop int) error {
	steps := 0
	o := Output{Dir: dir, Keep: true, step: func(what string) error {
		if steps++; steps == stop {
			fmt.Printf("killed at %s\n", what)
			p, _ := os.FindProcess(os.Getpid())
			_ = p.Kill()
			select {}
		}
		return nil
	}}
	_, err := o.Apply(context.Background(), newSet())
	if err == nil {
		fmt.Println("done")
		os.Exit(0)
	}
	return err
}

// oldSet is what is there, newSet what is to be: changed, new, removed,
// unchanged files, one of which only the mode changes, and a link.
func oldSet(t *testing.T) string {
	t.Helper()
	out := t.TempDir()
	write(t, out, map[string]string{"etc/a": "old a", "etc/b/c": "old c", "etc/gone": "old gone", "etc/same": "same",
		"etc/mode": "m", "z": "old z", "target": "t"})
	if err := os.Symlink("../target", filepath.Join(out, "etc/link")); err != nil {
		t.Fatal(err)
	}
	return out
}

func newSet() []File {
	gone, mode := file("etc/gone", ""), file("etc/mode", "m")
	gone.Control.NoEmpty, mode.Control.Mode = true, 0o600
	return []File{file("etc/a", "new a"), file("etc/b/c", "new c"), file("etc/b/new", "new"), gone, file("etc/link",
		"new link"), mode, file("etc/same", "same"),
		file("new/dir/x", "new x"), file("z", "new z")}
}

// set is every file below a directory with mode and content, without
// directories.
func set(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for path, text := range read(t, dir) {
		fi, err := os.Lstat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		got[path] = fmt.Sprint(fi.Mode(), " ", text)
	}
	return got
}

// A run that is killed before any of its steps, and runs that go on with its
// work and are killed too, leave the old set or the new one.
func TestKilledAtEveryStep(t *testing.T) {
	reference := oldSet(t)
	before := set(t, reference)
	o := Output{Dir: reference}
	if _, err := o.Apply(t.Context(), newSet()); err != nil {
		t.Fatal(err)
	}
	after := set(t, reference)
	moments := map[string]int{}
	for stop := 1; ; stop++ {
		out := oldSet(t)
		how := kill(t, out, stop)
		moments[how]++
		if how == "done" {
			break
		}
		if stop%2 == 0 { // the next run is killed as well
			kill(t, out, 1+stop%5)
		}
		// The next run has nothing of its own to do, but goes on.
		state := set(t, out)
		_, changed := state[".goldsmith-applycfg/commit"]
		if _, err := (Output{Dir: out}).Rollback(t.Context()); err != nil {
			t.Fatalf("stop %d: %v", stop, err)
		}
		if d := cmp.Diff(before, set(t, out)); d != "" {
			t.Errorf("killed at %s (%d), journal %v: not the old set after going back (-want +got):\n%s", how, stop,
				changed, d)
		}

		out = oldSet(t)
		kill(t, out, stop)
		want := before
		if changed {
			want = after
		}
		if stop%2 == 0 {
			kill(t, out, 1+stop%5)
			want = nil // the second run may have come to the renames
		}
		if err := (Output{Dir: out}).Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if o := (Output{Dir: out}); o.interrupted(&root{name: out}) {
			t.Errorf("killed at %s (%d): a journal is left", how, stop)
		}
		if err := (Output{Dir: out}).MarkGood(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := set(t, out)
		if want == nil && !cmp.Equal(got, before) && !cmp.Equal(got, after) || want != nil && !cmp.Equal(got, want) {
			t.Errorf("killed at %s (%d): neither the old set nor the new one:\n%v", how, stop, got)
		}
		if _, err := (Output{Dir: out}).Apply(t.Context(), newSet()); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(after, set(t, out)); d != "" {
			t.Errorf("killed at %s (%d): not the new set after the next run (-want +got):\n%s", how, stop, d)
		}
	}
	if moments["killed at prepare"] != 8 || moments["killed at rename"] != 8 || moments["killed at discard"] != 6 {
		t.Errorf("moments: %v", moments)
	}
}

func kill(t *testing.T, out string, stop int) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperDir+"="+out, helperStop+"="+strconv.Itoa(stop))
	b, err := cmd.Output()
	if err != nil && !cmd.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() {
		e, _ := errors.AsType[*exec.ExitError](err)
		t.Fatalf("%v: %s", err, e.Stderr)
	}
	return strings.TrimSpace(string(b))
}

// The same on an overlay, which is what /etc is in our images.
func TestOnOverlay(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "unshare", "mount")
	cmd := exec.Command("unshare", "-m", "sh", "-e", "-c", `mount -t tmpfs tmpfs "$1"
		mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged"
		mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/merged"
		TMPDIR="$1/merged" exec "$0" -test.run 'KilledAt|FailureAt|Rollback'`, os.Args[0], t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// In our images the files below are an EROFS's, which calls them immutable.
func TestOverEROFS(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "unshare", "mount", "mkfs.erofs")
	cmd := exec.Command("unshare", "-m", "sh", "-e", "-c", `mkfs.erofs "$2/image" "$1" >/dev/null
		mkdir "$2/lower" "$2/rest" "$2/merged"
		mount -t erofs -o loop "$2/image" "$2/lower"
		mount -t tmpfs tmpfs "$2/rest"
		mkdir "$2/rest/upper" "$2/rest/work"
		mount -t overlay overlay -o "lowerdir=$2/lower,upperdir=$2/rest/upper,workdir=$2/rest/work" "$2/merged"
		`+helperDir+`="$2/merged" `+helperStop+`=0 "$0"
		cat "$2/merged/etc/a"`, os.Args[0], oldSet(t), t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "done\nnew a" {
		t.Errorf("%v\n%s", err, out)
	}
}

// What fails at any step is undone at once.
func TestFailureAtEveryStep(t *testing.T) {
	broken := errors.New("broken")
	for stop := 1; ; stop++ {
		out := oldSet(t)
		before := set(t, out)
		steps, at := 0, ""
		o := Output{Dir: out, step: func(what string) error {
			if steps++; steps == stop {
				at = what
				return broken
			}
			return nil
		}}
		_, err := o.Apply(t.Context(), newSet())
		if err == nil {
			break
		}
		if !errors.Is(err, broken) {
			t.Fatal(err)
		}
		if at == "prepare" || at == "rename" {
			if d := cmp.Diff(before, set(t, out)); d != "" {
				t.Errorf("failed at %s (%d): files (-want +got):\n%s", at, stop, d)
			}
		}
		if _, err := (Output{Dir: out}).Apply(t.Context(), newSet()); err != nil {
			t.Errorf("failed at %s (%d): the next run: %v", at, stop, err)
		}
	}
}

// Rollback gives back what several runs replaced, until MarkGood.
func TestRollback(t *testing.T) {
	out := oldSet(t)
	o := Output{Dir: out, Keep: true}
	before := set(t, out)
	for range 2 {
		if _, err := o.Apply(t.Context(), newSet()); err != nil {
			t.Fatal(err)
		}
		// Kept already: this run need not say so, and what it replaces is not
		// what is given back.
		if _, err := (Output{Dir: out}).Apply(t.Context(), []File{file("etc/a", "newer"), file("other",
			"o")}); err != nil {
			t.Fatal(err)
		}
		changes, err := o.Rollback(t.Context())
		if err != nil || len(changes) == 0 {
			t.Fatal(changes, err)
		}
		if d := cmp.Diff(before, set(t, out)); d != "" {
			t.Errorf("after Rollback (-want +got):\n%s", d)
		}
	}
	if changes, err := o.Rollback(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("a second Rollback: %v, %v", changes, err)
	}
	if _, err := o.Apply(t.Context(), newSet()); err != nil {
		t.Fatal(err)
	}
	if err := o.MarkGood(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := set(t, out)
	if changes, err := o.Rollback(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("Rollback after MarkGood: %v, %v", changes, err)
	}
	if d := cmp.Diff(after, set(t, out)); d != "" {
		t.Errorf("Rollback after MarkGood (-want +got):\n%s", d)
	}
	if _, ok := after[".goldsmith-applycfg/lock"]; ok {
		t.Error("the state directory is still there")
	}
}

// Records that are none are refused with a remedy, and so is a state directory
// that others could have made.
func TestState(t *testing.T) {
	for _, bad := range []string{"", "x", journalHead, journalHead + "put 1 \"../x\" \"t\"\nend 1\n",
		journalHead + "put 1 \"x\" \"a/t\"\nend 1\n",
		journalHead + "put 1 \"x\" \"t\"\n", journalHead + "put 1 \"x\" \"t\"\nend 2\n", journalHead + "get 1 \"x\" \"t\"\nend 1\n"} {
		out := t.TempDir()
		write(t, out, map[string]string{".goldsmith-applycfg/commit": bad})
		if err := os.Chmod(filepath.Join(out, ".goldsmith-applycfg"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := (Output{Dir: out}).Apply(t.Context(), newSet()); err == nil || !strings.Contains(err.Error(),
			"not a journal") {
			t.Errorf("journal %q: %v", bad, err)
		}
	}
	out := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(out, ".goldsmith-applycfg")); err != nil {
		t.Fatal(err)
	}
	if _, err := (Output{Dir: out}).Apply(t.Context(), newSet()); err == nil {
		t.Error("a linked state directory is taken")
	}
	open := filepath.Join(t.TempDir(), "state")
	if err := errors.Join(os.Mkdir(open, 0o777), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	if _, err := (Output{Dir: out, State: open}).Apply(t.Context(), newSet()); err == nil {
		t.Error("a state directory that anybody may write to is taken")
	}
}
