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
	if *torture == 0 {
		t.Skip("torture tier: make torture N=…")
	}
	ready(t)
	killBuilds(t, *torture)
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

func killBuilds(t *testing.T, rounds int) {
	testenv.Need(t, "unshare")
	dir := t.TempDir()
	make := exec.Command("sh", "-c", manySteps)
	make.Dir = dir
	if out, err := make.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fake, err := filepath.Abs("testdata/dib")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Abs("../bin/imgbuild")
	if err != nil {
		t.Fatal(err)
	}
	mark := fmt.Sprintf("GOLDSMITH_TEST_MARK=%d-builds", os.Getpid())
	start := func(out string, more ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command(bin, append([]string{"build", "image.yaml", "-o", out, "--cache", "cache"}, more...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), mark, "ELEMENTS_PATH="+dir+"/elements:"+fake)
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, &text
		return cmd, &text
	}
	build := func(out string, more ...string) {
		t.Helper()
		if cmd, text := start(out, more...); cmd.Run() != nil {
			t.Fatalf("a build after one that was killed: %s", text)
		}
	}
	began := time.Now()
	build("reference")
	longest := time.Since(began) * 5 / 4
	want := digests(t, dir+"/reference")
	rnd := rand.New(rand.NewPCG(*seed, 1))
	for i := range rounds {
		more := []string{}
		if i%3 != 0 { // one in three goes on from where the last one was killed
			more = append(more, "--refresh")
		}
		out := "out"
		cmd, text := start(out, more...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		moment := time.Duration(rnd.Int64N(int64(longest)))
		time.Sleep(moment)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		checkGone(t, mark, dir)                                    // its locks live a moment longer than it
		for line := range strings.Lines(digests(t, dir+"/"+out)) { // killed between two renames, some are there
			if !strings.Contains(want, line) {
				t.Fatalf("round %d: killed after %s: wrong output:\n%s\nwant\n%s\n%s", i, moment, line, want, text)
			}
		}
		if i%4 == 3 { // two at once
			other, said := start("other")
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			build("out2")
			if err := other.Wait(); err != nil {
				t.Fatalf("the other of two builds: %v\n%s", err, said)
			}
		} else {
			build("out2")
		}
		if got := digests(t, dir+"/out2"); got != want {
			t.Fatalf("round %d: killed after %s: the next build has other outputs:\n%s\nwant\n%s", i, moment, got, want)
		}
		if left, _ := filepath.Glob(dir + "/cache/work/*"); len(left) > 1 || len(left) == 1 && !strings.HasSuffix(left[0], "work.lock") {
			t.Errorf("round %d: left in the cache: %q", i, left)
		}
		if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(dir)) {
			t.Errorf("round %d: a mount is left:\n%s", i, mounts)
		}
		checkGone(t, mark, dir)
		for _, d := range []string{"out", "out2", "other"} {
			if err := os.RemoveAll(dir + "/" + d); err != nil {
				t.Fatal(err)
			}
		}
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
