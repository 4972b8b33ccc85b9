package filelist_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/filelist"
	"goldsmith/internal/tree"
)

// debian is a small system with merged /usr and one diversion.
func debian() *tree.Tree {
	t := tree.New()
	t.Add(&tree.Entry{Path: "bin", Mode: tree.ModeSymlink | 0o777, Target: "usr/bin"})
	t.AddFile("usr/bin/ls", 0o755, []byte("ls"))
	t.AddFile("usr/bin/ping", 0o755, []byte("ping")).Xattrs = map[string]string{"security.capability": "\x01\x00"}
	t.AddFile("usr/bin/sh.distrib", 0o755, []byte("dash"))
	t.AddFile("usr/bin/sh", 0o755, []byte("bash"))
	t.AddFile("usr/bin/passwd", 0o4755, nil)
	t.AddFile("var/lib/dpkg/info/coreutils.list", 0o644, []byte("/.\n/bin\n/bin/ls\n"))
	t.AddFile("var/lib/dpkg/info/iputils:amd64.list", 0o644, []byte("/bin/ping\n/usr/bin/passwd\n"))
	t.AddFile("var/lib/dpkg/info/dash.list", 0o644, []byte("/bin/sh\n"))
	t.AddFile("var/lib/dpkg/info/bash.list", 0o644, []byte("/bin/sh\n"))
	t.AddFile("var/lib/dpkg/info/zz.list", 0o644, []byte("/usr/bin/passwd\n/usr/bin/gone\n"))
	t.AddFile("var/lib/dpkg/diversions", 0o644, []byte("/bin/sh\n/bin/sh.distrib\nbash\n"))
	t.Add(&tree.Entry{Path: "usr/bin/sl", Mode: tree.ModeRegular | 0o755, Size: 2, LinkTo: "usr/bin/ls"})
	t.Add(&tree.Entry{Path: "dev/null", Mode: tree.ModeChar | 0o666, Major: 1, Minor: 3})
	t.AddFile("etc/\xff<", 0o600, nil)
	return t
}

func sum(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

func TestList(t *testing.T) {
	files, err := filelist.List(context.Background(), debian(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]filelist.File{}
	for _, f := range files {
		got[f.Path] = f
	}
	for _, want := range []filelist.File{
		{Path: "/", Type: "dir", Mode: "0755"},
		{Path: "/bin", Type: "symlink", Mode: "0777", Target: "usr/bin"},
		{Path: "/usr/bin/ls", Type: "file", Mode: "0755", Size: 2, Package: "coreutils",
			SHA256: sum("ls")},
		{Path: "/usr/bin/sl", Type: "file", Mode: "0755", Size: 2, Link: "/usr/bin/ls",
			SHA256: sum("ls")},
		{Path: "/usr/bin/passwd", Type: "file", Mode: "4755", Package: "iputils",
			SHA256: sum("")},
		{Path: "/dev/null", Type: "char", Mode: "0666", Device: "1:3"},
	} {
		if diff := cmp.Diff(want, got[want.Path]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Path, diff)
		}
	}
	for p, want := range map[string]string{
		"/usr/bin/sh": "bash", "/usr/bin/sh.distrib": "dash", "/usr/bin/ping": "iputils",
	} {
		if got[p].Package != want {
			t.Errorf("%s is of package %q; want %q", p, got[p].Package, want)
		}
	}
	if diff := cmp.Diff(map[string][]byte{"security.capability": {1, 0}}, got["/usr/bin/ping"].Xattrs); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

func TestWrite(t *testing.T) {
	files, err := filelist.List(context.Background(), debian(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := filelist.Write(&b, files); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	if len(lines) != len(files) {
		t.Fatalf("%d lines; want %d", len(lines), len(files))
	}
	for i, line := range lines {
		var f filelist.File
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		want := files[i].Path
		if f.RawPath != nil {
			f.Path = string(f.RawPath)
		}
		if f.Path != want {
			t.Errorf("line %d is of %q; want %q", i+1, f.Path, want)
		}
	}
	if !strings.Contains(b.String(), `<","raw_path":"L2V0Yy//PA=="`) {
		t.Errorf("no raw path in %s", b.String())
	}
}

// A file that is not what it was when the tree was read is an error.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "a")
	if err := os.WriteFile(p, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := filelist.List(context.Background(), tr, nil); err == nil || !strings.Contains(err.Error(), "/a: ") {
		t.Errorf("error %v; want one that names /a", err)
	}
}

// Links in circles end.
func TestCircle(t *testing.T) {
	tr := tree.New()
	tr.Add(&tree.Entry{Path: "a", Mode: tree.ModeSymlink | 0o777, Target: "b"})
	tr.Add(&tree.Entry{Path: "b", Mode: tree.ModeSymlink | 0o777, Target: "a"})
	tr.AddFile("var/lib/dpkg/info/x.list", 0o644, []byte("/a/b/a/x\n/a\n"))
	got, err := filelist.Owners(tr)
	if err != nil || got["a"] != "x" {
		t.Errorf("Owners = %v, %v", got, err)
	}
}

func BenchmarkList(b *testing.B) {
	tr, err := tree.FromDir("/usr/lib")
	if err != nil {
		b.Fatal(err)
	}
	var size int64
	for _, e := range tr.All() {
		size += e.Size
	}
	b.SetBytes(size)
	for b.Loop() {
		if _, err := filelist.List(context.Background(), tr, nil); err != nil {
			b.Fatal(err)
		}
	}
}
