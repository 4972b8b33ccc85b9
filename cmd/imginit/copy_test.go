package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// snapshot describes everything below dir that a copy must keep.
func snapshot(t *testing.T, dir string) []tree.Entry {
	t.Helper()
	tr, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []tree.Entry
	for _, e := range tr.All() {
		out = append(out, *e)
		if e.Kind() == tree.ModeRegular && e.LinkTo == "" {
			rc, err := e.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(rc)
			if err != nil {
				t.Fatal(err)
			}
			_ = rc.Close()
			out = append(out, tree.Entry{Target: string(b)})
		}
	}
	return out
}

func fixture(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "from")
	when := time.Unix(1234567890, 123456789)
	do := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	p := func(name string) string { return filepath.Join(dir, name) }
	do(os.MkdirAll(p("lib/private"), 0o755), os.WriteFile(p("lib/file"), []byte("content"), 0o640),
		os.WriteFile(p("lib/setuid"), nil, 0o600), os.Link(p("lib/file"), p("linked")),
		os.Symlink("lib/nowhere", p("dangling")), os.Symlink("/etc", p("absolute")),
		unix.Mkfifo(p("fifo"), 0o600))
	if os.Geteuid() == 0 {
		do(os.Lchown(p("lib/file"), 1234, 70000), os.Lchown(p("dangling"), 5, 6), os.Chown(p("lib/setuid"), 33, 33),
			unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
			unix.Setxattr(p("lib/setuid"), "security.capability",
				[]byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	}
	_ = unix.Setxattr(p("lib"), "user.note", []byte("kept"), 0) // not on every file system
	do(os.Chmod(p("lib/setuid"), 0o4755|os.ModeSetuid), os.Chmod(p("lib/private"), 0o700|os.ModeSticky))
	for _, name := range []string{"lib/private", "lib/file", "lib"} {
		do(os.Chtimes(p(name), when, when))
	}
	return dir
}

func TestCopyTree(t *testing.T) {
	from := fixture(t)
	to := filepath.Join(t.TempDir(), "to")
	if err := copyTree(from, to); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(snapshot(t, from), snapshot(t, to), cmpopts.IgnoreUnexported(tree.Entry{})); diff != "" {
		t.Errorf("the copy differs (-want +got):\n%s", diff)
	}
}

func TestCopyLeavesSocketsOut(t *testing.T) {
	testenv.NeedRoot(t)
	from := t.TempDir()
	if err := unix.Mknod(filepath.Join(from, "sock"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "to")
	if err := copyTree(from, to); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(to); len(entries) != 0 {
		t.Errorf("copied %v", entries)
	}
}

func TestFill(t *testing.T) {
	from, state := fixture(t), t.TempDir()
	kept := filepath.Join(state, "fs/srv/data")
	// What a power cut in the middle of an earlier copy left.
	part := filepath.Join(state, "fs/srv/.new-data")
	if err := os.MkdirAll(filepath.Join(part, "lib/half"), 0o755); err != nil {
		t.Fatal(err)
	}
	if filled, err := fill(kept, from); err != nil || !filled {
		t.Fatalf("fill = %v, %v", filled, err)
	}
	if _, err := os.Lstat(filepath.Join(kept, "lib/half")); err == nil {
		t.Error("the unfinished copy was taken over")
	}
	if _, err := os.Lstat(part); err == nil {
		t.Error("the unfinished copy is still there")
	}
	if err := os.WriteFile(filepath.Join(kept, "linked"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if filled, err := fill(kept, from); err != nil || filled {
		t.Fatalf("second fill = %v, %v", filled, err)
	}
	if b, _ := os.ReadFile(filepath.Join(kept, "linked")); string(b) != "changed" {
		t.Error("the second fill undid a change")
	}
}

func TestNoSuperblock(t *testing.T) {
	dir := t.TempDir()
	img := bytes.Repeat([]byte{1}, 4096) // beside it may be anything
	clear(img[1024:1536])
	check := func(want bool) {
		t.Helper()
		name := filepath.Join(dir, "dev")
		if err := os.WriteFile(name, img, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := noSuperblock(name); err != nil || got != want {
			t.Errorf("noSuperblock = %v, %v", got, err)
		}
	}
	check(true)
	img[1535] = 1
	check(false)
}
