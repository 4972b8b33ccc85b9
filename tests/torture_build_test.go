package tests

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/testenv"
)

// Builds that are killed at random moments leave no wrong output, and nothing
// after the next build; their cache stays sound, with two builds at once in it.
func TestKilledBuilds(t *testing.T) {
	need(t, true)
	killBuilds(t, 6)
}

func TestTortureKilledBuilds(t *testing.T) {
	killBuilds(t, rounds(t))
}

// manySteps is an element whose hooks each change the tree.
const manySteps = `#!/bin/sh
set -e
for i in 1 2 3 4 5 6 7 8; do
    d=elements/many/install.d
    mkdir -p $d
    printf '#!/bin/bash\nset -e\nmkdir -p /data/%s\nfor n in {1..200}; do echo $n >/data/%s/$n; done\nrm -f /data/$((%s - 1))/7\n' $i $i $i >$d/$i-step
done
printf '#!/bin/bash\nset -e\nmkdir -p $TARGET_ROOT/lent\nmount -t tmpfs tmpfs $TARGET_ROOT/lent\nsleep 0.1\numount $TARGET_ROOT/lent\nrmdir $TARGET_ROOT/lent\n' >elements/many/install.d/README.txt
mkdir -p elements/many/extra-data.d
mv elements/many/install.d/README.txt elements/many/extra-data.d/50-lend
chmod 755 elements/many/*.d/*
printf 'name: t\nrelease: test\nelements: [fake-os, many]\noutputs: [erofs, tar.zst]\n' >image.yaml
`

// buildBed is an image definition with elements, and one cache for all builds.
type buildBed struct {
	t               *testing.T
	bin, dir, fakes string
	mark            string // in the environment of all that a build starts
}

func newBuildBed(t *testing.T) *buildBed {
	t.Helper()
	b := &buildBed{t: t, bin: built(t, "imgbuild"), dir: t.TempDir()}
	b.mark = fmt.Sprintf("GOLDSMITH_TEST_MARK=%d-builds", os.Getpid())
	files := exec.Command("sh", "-c", manySteps)
	files.Dir = b.dir
	if out, err := files.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var err error
	if b.fakes, err = filepath.Abs("testdata/dib"); err != nil {
		t.Fatal(err)
	}
	return b
}

// command is a build into the directory out, and what it says.
func (b *buildBed) command(out string, more ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(b.bin, append([]string{"build", "image.yaml", "-o", out, "--cache", "cache"}, more...)...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), b.mark, "ELEMENTS_PATH="+b.dir+"/elements:"+b.fakes)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	return cmd, &text
}

func (b *buildBed) start(out string, more ...string) (*exec.Cmd, *bytes.Buffer) {
	b.t.Helper()
	cmd, text := b.command(out, more...)
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	return cmd, text
}

func (b *buildBed) build(out string) {
	b.t.Helper()
	if cmd, text := b.command(out); cmd.Run() != nil {
		b.t.Fatalf("a build after one that was killed: %s", text)
	}
}

func (b *buildBed) digests(out string) string { return digests(b.t, filepath.Join(b.dir, out)) }

// next builds after a build that was killed, every fourth time two at once.
func (b *buildBed) next(round int) {
	b.t.Helper()
	if round%4 != 3 {
		b.build("out2")
		return
	}
	other, said := b.start("other")
	b.build("out2")
	if err := other.Wait(); err != nil {
		b.t.Fatalf("the other of two builds: %v\n%s", err, said)
	}
}

// clean checks what all builds have left behind, and removes their outputs.
func (b *buildBed) clean(round int) {
	b.t.Helper()
	left, _ := filepath.Glob(b.dir + "/cache/work/*")
	if len(left) > 1 || len(left) == 1 && !strings.HasSuffix(left[0], "work.lock") {
		b.t.Errorf("round %d: left in the cache: %q", round, left)
	}
	if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(b.dir)) {
		b.t.Errorf("round %d: a mount is left:\n%s", round, mounts)
	}
	checkGone(b.t, b.mark, b.dir)
	for _, out := range []string{"out", "out2", "other"} {
		if err := os.RemoveAll(filepath.Join(b.dir, out)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func killBuilds(t *testing.T, rounds int) {
	testenv.Need(t, "unshare")
	b := newBuildBed(t)
	began := time.Now()
	b.build("reference")
	longest := time.Since(began) * 5 / 4
	want := b.digests("reference")
	rnd := rand.New(rand.NewPCG(*seed, 1))
	for i := range rounds {
		var more []string
		if i%3 != 0 { // one in three goes on from where the last one was killed
			more = append(more, "--refresh")
		}
		cmd, text := b.start("out", more...)
		moment := time.Duration(rnd.Int64N(int64(longest)))
		time.Sleep(moment)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		checkGone(t, b.mark, b.dir)                         // its locks live a moment longer than it
		for line := range strings.Lines(b.digests("out")) { // killed between two renames, some are there
			if !strings.Contains(want, line) {
				t.Fatalf("round %d: killed after %s: wrong output:\n%s\nwant\n%s\n%s", i, moment, line, want, text)
			}
		}
		b.next(i)
		if got := b.digests("out2"); got != want {
			t.Fatalf("round %d: killed after %s: the next build has other outputs:\n%s\nwant\n%s", i, moment, got, want)
		}
		b.clean(i)
	}
	t.Logf("%d rounds, killed up to %s after the start", rounds, longest)
}

// digests are those of the outputs in a directory, a line each.
func digests(t *testing.T, dir string) string {
	t.Helper()
	var lines strings.Builder
	for _, name := range []string{"t.erofs", "t.tar.zst", "t.manifest.json", "t.files"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		fmt.Fprintf(&lines, "%s %x\n", name, sha256.Sum256(b))
	}
	return lines.String()
}
