package refreshcfg

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/command"
)

var torture = flag.Int("torture", 8, "how often migrations are killed at a random moment")

// TestMain is the process that is killed, when it is told so.
func TestMain(m *testing.M) {
	dir := os.Getenv("REFRESHCFG_TORTURE")
	if dir == "" {
		os.Exit(m.Run())
	}
	c := tortured(dir, os.Getenv("REFRESHCFG_IMAGE"))
	c.Stdout, c.Log = os.Stdout, os.Stderr
	if err := Run(context.Background(), c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// tortured is a machine below a directory.
func tortured(dir, image string) Config {
	return Config{Base: dir + "/image" + image, State: dir + "/state", Lock: dir + "/lock", Image: Image{"demo", image, ""}, Stdout: io.Discard, Log: io.Discard}
}

// Two files that belong together are brought from one form to the next, by a
// hook that may be started again.
const tortureHook = `#!/bin/bash
## goldsmith: {"once": "machine", "snapshot": ["DIR/data"]}
set -eu
cd DIR/data
for f in a b; do
    sed s/old/new/ $f >$f.next
    mv $f.next $f
done
`

type tortureRun struct {
	t   *testing.T
	dir string
}

func (r *tortureRun) command(image string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	// The race detector would have a run take a second longer, in which nothing is
	// left to be killed.
	cmd.Env = append(os.Environ(), "REFRESHCFG_TORTURE="+r.dir, "REFRESHCFG_IMAGE="+image, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// killed starts a run and ends it, and all that it started, after a while.
func (r *tortureRun) killed(image string, after time.Duration) {
	r.t.Helper()
	cmd := r.command(image)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(after)
	command.KillTree(cmd.Process.Pid)
	_ = cmd.Wait()
	// A child that has not become its program yet holds the lock until it dies.
	f, err := os.OpenFile(r.dir+"/lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		r.t.Fatal(err)
	}
}

// whole runs to the end, and says how long that took.
func (r *tortureRun) whole(image string) time.Duration {
	r.t.Helper()
	start := time.Now()
	cmd := r.command(image)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("image %s: %v\n%s", image, err, out)
	}
	return time.Since(start)
}

func (r *tortureRun) data() string {
	var all []string
	for _, name := range []string{"a", "b"} {
		b, err := os.ReadFile(filepath.Join(r.dir, "data", name))
		if err != nil {
			return err.Error()
		}
		all = append(all, strings.TrimSpace(string(b)))
	}
	return strings.Join(all, " ")
}

// record is the state of the migration, "" when there is none. The copy that
// it says is kept has to be what it was.
func (r *tortureRun) record() string {
	r.t.Helper()
	s := state{r.dir + "/state"}
	m, there, err := s.migration("50-form")
	if err != nil {
		r.t.Fatal(err)
	}
	if !there {
		return ""
	}
	if m.Kept {
		for _, name := range []string{"a", "b"} {
			if b, err := os.ReadFile(filepath.Join(s.snapshot(&m, 0), name)); err != nil || string(b) != "old "+name+"\n" {
				r.t.Errorf("the copy of %s: %q, %v", name, b, err)
			}
		}
	}
	return m.State
}

// Whatever moment power fails at, while data are migrated or put back: what is
// recorded is true, and running again ends well.
func TestTorture(t *testing.T) {
	rng := rand.New(rand.NewPCG(51, 52))
	states := map[string]int{}
	for i := range *torture {
		r := &tortureRun{t: t, dir: t.TempDir()}
		for name, text := range map[string]string{"data/a": "old a\n", "data/b": "old b\n", "image1/configure.d/.keep": ""} {
			writeHookText(t, filepath.Join(r.dir, name), text)
		}
		writeHookText(t, r.dir+"/image2/migration.d/50-form", strings.ReplaceAll(tortureHook, "DIR", r.dir))
		took := r.whole("1")
		// A migration takes several times as long as a run without one.
		moment := func() time.Duration { return time.Duration(rng.Int64N(int64(4 * took))) }
		r.killed("2", moment())
		found := r.record()
		states[found]++
		switch data := r.data(); {
		case found == "" && data != "old a old b", found == MigrationDone && data != "new a new b":
			t.Fatalf("run %d: %q, and the data are %q", i, found, data)
		case found == MigrationReturning, found == MigrationReturned:
			t.Fatalf("run %d: %s", i, found)
		}
		if i%2 == 0 {
			r.whole("2")
			if s, data := r.record(), r.data(); s != MigrationDone || data != "new a new b" {
				t.Fatalf("run %d, run again: %q, %q", i, s, data)
			}
		}
		r.killed("1", moment())
		states["back: "+r.record()]++
		r.whole("1")
		if s, data := r.record(), r.data(); s != MigrationReturned && s != "" || data != "old a old b" {
			t.Fatalf("run %d, back: %q, %q", i, s, data)
		}
		if left, _ := filepath.Glob(r.dir + "/*.goldsmith-*"); len(left) > 0 {
			t.Errorf("run %d: left %v", i, left)
		}
	}
	t.Logf("killed in the states %v", states)
}

func writeHookText(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
