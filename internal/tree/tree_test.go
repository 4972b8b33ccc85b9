package tree

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func paths(t *Tree) []string {
	var out []string
	for _, e := range t.All() {
		p := e.Path
		if e.LinkTo != "" {
			p += "=" + e.LinkTo
		}
		out = append(out, p)
	}
	return out
}

func TestOrder(t *testing.T) {
	tr := New()
	for _, p := range []string{"b", "a/z", "a-b", "a/b/c", "a.d"} {
		tr.AddFile(p, 0o644, nil)
	}
	want := []string{".", "a", "a/b", "a/b/c", "a/z", "a-b", "a.d", "b"}
	if d := cmp.Diff(want, paths(tr)); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}

func TestFromDir(t *testing.T) {
	dir := t.TempDir()
	old := time.Unix(1e9, 5)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(dir, "d"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "z"), []byte("hello"), 0o640))
	must(os.Link(filepath.Join(dir, "z"), filepath.Join(dir, "d", "hard")))
	must(os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	must(os.Chtimes(filepath.Join(dir, "z"), old, old))
	tr, err := FromDir(dir)
	must(err)
	if d := cmp.Diff([]string{".", "d", "d/hard", "link", "z=d/hard"}, paths(tr)); d != "" {
		t.Errorf("paths (-want +got):\n%s", d)
	}
	z := tr.Lookup("/d/hard")
	if z.Mode != ModeRegular|0o640 || z.Size != 5 || !z.ModTime.Equal(old) {
		t.Errorf("d/hard = %+v", z)
	}
	b, err := z.ReadFile()
	if string(b) != "hello" || err != nil {
		t.Errorf("content %q, %v", b, err)
	}
	if l := tr.Lookup("link"); l.Kind() != ModeSymlink || l.Target != "/etc/passwd" {
		t.Errorf("link = %+v", l)
	}
	tr.Remove("d")
	if d := cmp.Diff([]string{".", "link", "z"}, paths(tr)); d != "" {
		t.Errorf("after Remove (-want +got):\n%s", d)
	}
}

func TestFileThatChanges(t *testing.T) {
	f := filepath.Join(t.TempDir(), "f")
	for _, tt := range []struct{ now, want string }{{"hell", "shrank"}, {"hello!", "grew"}} {
		if err := os.WriteFile(f, []byte("hello"), 0o644); err != nil {
			t.Fatal(err)
		}
		tr := New()
		e, err := tr.AddFrom("f", 0o644, f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(tt.now), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := e.ReadFile(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("reading a file that %s: %v", tt.want, err)
		}
	}
}

func TestOpenOfEmptyFile(t *testing.T) {
	e := New().AddFile("x", 0o644, nil)
	rc, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(rc); len(b) > 0 || err != nil {
		t.Errorf("empty file reads as %q, %v", b, err)
	}
}

// Replacing the file that others are hard links to leaves them as they were.
func TestAddReplacesOneLink(t *testing.T) {
	tr := New()
	tr.AddFile("a", 0o600, []byte("shared"))
	for _, p := range []string{"b", "c"} {
		e := tr.AddFile(p, 0o600, []byte("shared"))
		e.LinkTo = "a"
	}
	a := tr.Lookup("a")
	tr.Add(a) // the same entry: nothing to do
	if d := cmp.Diff([]string{".", "a", "b=a", "c=a"}, paths(tr)); d != "" {
		t.Errorf("before (-want +got):\n%s", d)
	}
	tr.AddFile("a", 0o644, []byte("new"))
	if d := cmp.Diff([]string{".", "a", "b", "c=b"}, paths(tr)); d != "" {
		t.Errorf("after a is replaced (-want +got):\n%s", d)
	}
	for p, want := range map[string]string{"a": "new", "b": "shared"} {
		if b, err := tr.Lookup(p).ReadFile(); string(b) != want || err != nil {
			t.Errorf("%s = %q, %v; want %q", p, b, err, want)
		}
	}
	tr.AddFile("c", 0o644, nil) // a link, not what is linked to
	if d := cmp.Diff([]string{".", "a", "b", "c"}, paths(tr)); d != "" {
		t.Errorf("after c is replaced (-want +got):\n%s", d)
	}
}

// Labels of the build host do not reach a tree; capabilities do.
func TestHostAttributes(t *testing.T) {
	dir := t.TempDir()
	f := filepath.Join(dir, "f")
	if err := os.WriteFile(f, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	kept := "user.kept"
	for _, name := range []string{"security.selinux", "trusted.overlay.opaque", kept} {
		if err := unix.Setxattr(f, name, []byte("x"), 0); err != nil {
			t.Skipf("set %s: %v", name, err)
		}
	}
	tr, err := FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{kept: "x"}, tr.Lookup("f").Xattrs); d != "" {
		t.Errorf("attributes (-want +got):\n%s", d)
	}
}

// Every directory comes right before what it holds, and Remove takes exactly
// a subtree.
func TestTreeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := New()
		gen := rapid.StringMatching(`[a-c.-]{1,2}(/[a-c.-]{1,2}){0,3}`)
		for _, p := range rapid.SliceOfN(gen, 1, 20).Draw(t, "paths") {
			if p = Clean(p); p != "." {
				if e := tr.Lookup(p); e == nil {
					tr.AddFile(p, 0o644, nil)
				}
			}
		}
		all := paths(tr)
		seen := map[string]bool{}
		for _, p := range all {
			if d := filepath.Dir(p); p != "." && !seen[d] {
				t.Fatalf("%s comes before its directory %s", p, d)
			}
			seen[p] = true
		}
		victim := rapid.SampledFrom(all).Draw(t, "victim")
		if victim == "." {
			return
		}
		tr.Remove(victim)
		want := slices.DeleteFunc(all, func(p string) bool { return p == victim || strings.HasPrefix(p, victim+"/") })
		if d := cmp.Diff(want, paths(tr)); d != "" {
			t.Fatalf("Remove(%s) (-want +got):\n%s", victim, d)
		}
	})
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{"/": ".", "": ".", "/etc/": "etc", "../../x": "x", "a/./b//c": "a/b/c"} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q; want %q", in, got, want)
		}
	}
}

// Compare orders name by name, whatever bytes names have.
func TestCompare(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	path := func() string {
		b := make([]byte, 1+rng.IntN(6))
		for i := range b {
			b[i] = "ab-/.\x01\xff"[rng.IntN(7)]
		}
		return Clean(string(b))
	}
	for range 20000 {
		a, b := path(), path()
		want := slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
		switch {
		case a == b:
			want = 0
		case a == ".":
			want = -1
		case b == ".":
			want = 1
		}
		if got := Compare(a, b); got != want {
			t.Fatalf("Compare(%q, %q) = %d; want %d", a, b, got, want)
		}
	}
}
