package tarball

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// sample makes a directory with one of everything.
func sample(t *testing.T) *tree.Tree {
	t.Helper()
	testenv.NeedRoot(t)
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(p string) string { return filepath.Join(dir, p) }
	long := strings.Repeat("long-name-", 20)
	must(os.MkdirAll(in("d/"+long), 0o755))
	must(os.WriteFile(in("d/"+long+"/file"), bytes.Repeat([]byte("x"), 100_000), 0o644))
	must(os.WriteFile(in("set-user-id"), []byte("su"), 0o755))
	must(os.Chmod(in("set-user-id"), 0o755|os.ModeSetuid))
	must(os.Lchown(in("set-user-id"), 70_000, 3_000_000))
	must(os.Link(in("set-user-id"), in("hard")))
	must(os.Symlink("../nowhere", in("link")))
	must(os.WriteFile(in("ünïcode"), nil, 0o600))
	must(unix.Mkfifo(in("fifo"), 0o620))
	must(unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Lsetxattr(in("ünïcode"), "user.note", []byte("a\x00b=c\nd"), 0))
	old := time.Unix(1_500_000_000, 123_000_000)
	must(os.Chtimes(in("set-user-id"), old, old))
	tr, err := tree.FromDir(dir)
	must(err)
	return tr
}

func archive(t *testing.T, tr *tree.Tree) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(t.Context(), &b, tr); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// GNU tar makes the same tree of it again.
func TestGNUTarAgrees(t *testing.T) {
	testenv.Need(t, "tar")
	want := sample(t)
	dir := t.TempDir()
	cmd := exec.Command("tar", "-x", "-p", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-C", dir)
	cmd.Stdin = bytes.NewReader(archive(t, want))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	got, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(list(want), list(got), cmpopts.IgnoreUnexported(tree.Entry{})); d != "" {
		t.Errorf("after tar (-want +got):\n%s", d)
	}
	for _, e := range want.All() {
		if e.Kind() != tree.ModeRegular {
			continue
		}
		a, _ := e.ReadFile()
		b, err := got.Lookup(e.Path).ReadFile()
		if !bytes.Equal(a, b) || err != nil {
			t.Errorf("%s: contents differ (%v)", e.Path, err)
		}
	}
}

func list(t *tree.Tree) []*tree.Entry {
	var out []*tree.Entry
	for _, e := range t.All() {
		out = append(out, e)
	}
	return out
}

func TestSameBytes(t *testing.T) {
	tr := sample(t)
	if !bytes.Equal(archive(t, tr), archive(t, tr)) {
		t.Error("two archives of one tree differ")
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, new(bytes.Buffer), tree.New()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
