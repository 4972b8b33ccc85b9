package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/imagediff"
)

func TestDifferAt(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	long := bytes.Repeat([]byte("x"), 3<<20)
	late := bytes.Clone(long)
	late[2<<20+5] = 'y'
	for _, c := range []struct {
		name string
		a, b []byte
		want int64
	}{
		{"empty", nil, nil, -1},
		{"same", long, long, -1},
		{"first byte", []byte("a"), []byte("b"), 0},
		{"late", long, late, 2<<20 + 5},
		{"shorter", long[:1<<20], long, 1 << 20},
		{"longer", []byte("abc"), []byte("ab"), 2},
	} {
		if got, err := differAt(t.Context(), write("a", c.a), write("b", c.b)); got != c.want || err != nil {
			t.Errorf("%s: differAt = %d, %v; want %d", c.name, got, err, c.want)
		}
	}
	if _, err := differAt(t.Context(), filepath.Join(dir, "nothere"), write("b", nil)); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// What a second build is started with holds for it alone.
func TestApply(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	state := func() (int, int) {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			t.Fatal(err)
		}
		mask := unix.Umask(0)
		unix.Umask(mask)
		return set.Count(), mask
	}
	cpus, mask := state()
	v := &variation{oneCore: true, umask: 0o137}
	err := v.apply(func() error {
		if n, m := state(); n != 1 || m != 0o137 {
			t.Errorf("inside: %d processors, umask %o; want 1, 137", n, m)
		}
		return os.ErrClosed
	})
	if err != os.ErrClosed {
		t.Errorf("apply = %v; want the function's error", err)
	}
	if n, m := state(); n != cpus || m != mask {
		t.Errorf("afterwards: %d processors, umask %o; want %d, %o", n, m, cpus, mask)
	}
}

// What is said of builds that differ: packages first, then the file, and what
// is in no file by where it is.
func TestReport(t *testing.T) {
	shadow := &imagediff.FileChange{Path: "/etc/shadow", Change: "changed", What: []string{"content", "mode"}}
	for _, c := range []struct {
		name string
		c    comparison
		err  string
		said string
	}{
		{"same", comparison{Same: true, Outputs: 1, Files: 5, Varied: []string{"paths", "time"}},
			"", "imgbuild: the same bytes twice: 1 outputs and 4 files beside them, varied: paths, time\n"},
		{"packages", comparison{
			Packages: []imagediff.PackageChange{{Name: "a", A: "1", B: "2"}, {Name: "b"}}, First: shadow,
			Differ: []difference{{Path: "x.raw"}},
		}, "the second build has other packages: a 1 → 2, and 1 more", ""},
		{"file", comparison{First: shadow, Differ: []difference{{Path: "x.raw", Offset: 7, Partition: "2 root-a"}}},
			"the second build is another image, which differs first in /etc/shadow (content, mode)",
			"imgbuild: differs: x.raw: byte 7, in partition 2 root-a\n"},
		{"no file", comparison{Differ: []difference{{Path: "x.iso", Offset: 9}, {Path: "y", Missing: true}}},
			"the second build has other bytes, in no file of the image",
			"imgbuild: differs: x.iso: byte 9\nimgbuild: differs: y: only the second build wrote it\n"},
	} {
		var said bytes.Buffer
		p := command.NewProgress("imgbuild", command.IO{Stderr: &said}, false)
		err := c.c.report(p)
		p.Close()
		if msg := fmt.Sprint(err); err != nil && msg != c.err || err == nil && c.err != "" || said.String() != c.said {
			t.Errorf("%s: report = %v, and said %q; want %q, %q", c.name, err, said.String(), c.err, c.said)
		}
		if err != nil && (command.Status(err) != 1 || command.HintOf(err) == "") {
			t.Errorf("%s: status %d, hint %q", c.name, command.Status(err), command.HintOf(err))
		}
	}
}
