package tests

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// applycfg that is killed leaves the old set of files or the new one after the
// next run, also where that one is killed as well.
func TestKilledApply(t *testing.T) {
	need(t, true)
	killApply(t, 10)
}

func TestTortureKilledApply(t *testing.T) {
	killApply(t, rounds(t))
}

// applyFiles is how many files a set has.
const applyFiles = 800

// applyBed is a template tree, two documents and an output directory.
type applyBed struct {
	t        *testing.T
	bin, dir string
	rnd      *rand.Rand
}

func newApplyBed(t *testing.T) *applyBed {
	t.Helper()
	b := &applyBed{t, built(t, "applycfg"), t.TempDir(), rand.New(rand.NewPCG(*seed, 2))}
	put := func(path, text string) {
		path = filepath.Join(b.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range applyFiles {
		path := fmt.Sprintf("t/d%d/f%d", i%8, i)
		put(path, "version {{version}}\n"+strings.Repeat("text\n", i%50))
		switch i % 10 {
		case 0: // not in every version
			put(path, "{{#odd}}version {{version}}\n{{/odd}}")
			put(path+".oac", "allow_empty: false\n")
		case 1:
			put(path, "{{^odd}}version {{version}}\n{{/odd}}")
			put(path+".oac", "allow_empty: false\n")
		}
	}
	for v := range 2 {
		put(fmt.Sprintf("v%d.json", v), fmt.Sprintf(`{"version": %d, "odd": %t}`, v, v == 1))
	}
	put("out/keep", "")
	return b
}

func (b *applyBed) command(args ...string) *exec.Cmd {
	cmd := exec.Command(b.bin, append([]string{"-o", "out"}, args...)...)
	cmd.Dir = b.dir
	return cmd
}

func (b *applyBed) apply(version int) *exec.Cmd {
	return b.command("-t", "t", "-m", fmt.Sprintf("v%d.json", version))
}

func (b *applyBed) must(cmd *exec.Cmd) {
	b.t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// versions are how many files there are of each version; the third number
// counts what does not belong there.
func (b *applyBed) versions() (n [3]int) {
	b.t.Helper()
	for i := range 8 {
		dir := filepath.Join(b.dir, "out", fmt.Sprintf("d%d", i))
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			b.t.Fatal(err)
		}
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			switch {
			case err != nil:
				b.t.Fatal(err)
			case strings.HasPrefix(e.Name(), ".") || len(text) == 0:
				n[2]++
			case bytes.HasPrefix(text, []byte("version 0\n")):
				n[0]++
			case bytes.HasPrefix(text, []byte("version 1\n")):
				n[1]++
			default:
				n[2]++
			}
		}
	}
	return n
}

// whole is how many files a version has.
const whole = applyFiles - applyFiles/10

// kill starts applycfg and kills it: between the first and the last rename, as
// far as that can be hit, or at any moment.
func (b *applyBed) kill(version int, renames bool, longest time.Duration) {
	b.t.Helper()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		b.t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, filepath.Join(b.dir, "out/d0"), unix.IN_MOVED_TO); err != nil {
		b.t.Fatal(err)
	}
	cmd := b.apply(version)
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	moment := time.Duration(b.rnd.Int64N(int64(longest)))
	if renames {
		poll := []unix.PollFd{{Fd: int32(watch), Events: unix.POLLIN}}
		_, _ = unix.Poll(poll, 5000)
		moment = time.Duration(b.rnd.Int64N(int64(3 * time.Millisecond)))
	}
	for began := time.Now(); time.Since(began) < moment; { // a sleep is too coarse
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func killApply(t *testing.T, rounds int) {
	b := newApplyBed(t)
	b.must(b.apply(0))
	began := time.Now()
	b.must(b.apply(1))
	longest := time.Since(began) * 5 / 4
	between, journals := 0, 0
	for i := range rounds {
		from := i % 2
		b.must(b.apply(from))
		if n := b.versions(); n[from] != whole || n[2] != 0 || n[1-from] != 0 {
			t.Fatalf("round %d: %v files; want %d of version %d", i, n, whole, from)
		}
		for range 20 {
			b.kill(1-from, i%4 != 3, longest)
			n := b.versions()
			mixed := n[0] > 0 && n[1] > 0
			// Who reads the files can tell that they do not belong together.
			_, err := os.Stat(filepath.Join(b.dir, "out/.goldsmith-applycfg/commit"))
			if mixed && err != nil {
				t.Fatalf("round %d: files of both versions and no journal: %v", i, n)
			}
			if err == nil {
				journals++
			}
			if mixed {
				between++
			}
			if mixed || i%4 == 3 {
				break
			}
			b.must(b.apply(from)) // missed: again
		}
		if i%5 == 4 { // the next run is killed, too
			b.kill(1-from, false, longest)
		}
		// A run that has no files of its own to write goes on with it.
		b.must(b.command("--mark-good"))
		if n := b.versions(); n[2] != 0 || n[0]+n[1] != whole || n[0] > 0 && n[1] > 0 {
			t.Fatalf("round %d: neither one version nor the other: %v", i, n)
		}
		if _, err := os.Stat(filepath.Join(b.dir, "out/.goldsmith-applycfg")); err == nil {
			t.Fatalf("round %d: the state directory is left", i)
		}
	}
	t.Logf("%d rounds; %d kills between the first and the last rename, %d with a journal", rounds, between, journals)
	if between < rounds/2 {
		t.Errorf("only %d of %d kills between the first and the last rename", between, rounds)
	}
}
