package element

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
)

// What is wrong with elements and where they lie is said in one line that
// names the place.
func TestErrors(t *testing.T) {
	mkdir := func(t *testing.T, path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put := func(t *testing.T, path, content string) {
		t.Helper()
		mkdir(t, filepath.Dir(path))
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(t *testing.T, target, path string) {
		t.Helper()
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	const os1 = "operating-system\n"
	for _, c := range []struct {
		name  string
		make  func(t *testing.T, d string)
		path  string // below d
		want  string // error, with D for d
		merge bool
	}{
		{"a loop in the path", func(t *testing.T, d string) { link(t, "loop", d+"/loop") }, "loop", `elements path: "D/loop" is not a directory`, false},
		{"a file in the path", func(t *testing.T, d string) { put(t, d+"/f", "") }, "f", `elements path: "D/f" is not a directory`, false},
		{"nothing in the path", func(*testing.T, string) {}, "none", `elements path: "D/none" is not a directory`, false},
		{"a link that leads to itself", func(t *testing.T, d string) { link(t, "e", d+"/e") }, "", `element "e": D/e is a link that leads nowhere, or in a circle`, false},
		{"links in a circle", func(t *testing.T, d string) { link(t, "x", d+"/e"); link(t, "e", d+"/x") }, "", `element "e": D/e is a link that leads nowhere, or in a circle`, false},
		{"its own provider", func(t *testing.T, d string) { put(t, d+"/e/element-provides", os1+"e\n") }, "", "element e: provides its own name", false},
		{"two providers", func(t *testing.T, d string) {
			put(t, d+"/e/element-deps", "a\n")
			put(t, d+"/e/element-provides", os1)
			put(t, d+"/a/element-provides", os1)
		}, "", "element a: operating-system is already provided by e", false},
		{"a dependency that is no name", func(t *testing.T, d string) { put(t, d+"/e/element-deps", "../x\n") }, "", `element "../x": not a valid name`, false},
		{"dependencies that are a directory", func(t *testing.T, d string) { mkdir(t, d+"/e/element-deps") }, "", "element e: read D/e/element-deps: is a directory", false},
		{"a duplicate hook", func(t *testing.T, d string) {
			put(t, d+"/e/element-deps", "a\n")
			put(t, d+"/e/element-provides", os1)
			put(t, d+"/e/install.d/10-x", "")
			put(t, d+"/a/install.d/10-x", "")
		}, "", "element e: install.d/10-x is also in element a", true},
		{"a file where another has a directory", func(t *testing.T, d string) {
			put(t, d+"/e/element-deps", "a\n")
			put(t, d+"/e/element-provides", os1)
			put(t, d+"/e/x", "")
			put(t, d+"/a/x/y", "")
		}, "", "element e: x is a directory in element a", true},
		{"a loop in an element", func(t *testing.T, d string) {
			put(t, d+"/e/element-provides", os1)
			link(t, "loop", d+"/e/loop")
		}, "", "element e: D/e/loop: too many levels of symbolic links", false},
		{"a link to nothing in an element", func(t *testing.T, d string) {
			put(t, d+"/e/element-provides", os1)
			link(t, "nothing", d+"/e/f")
		}, "", "element e: D/e/f: no such file or directory", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := t.TempDir()
			c.make(t, d)
			p, err := ParsePath(filepath.Join(d, c.path))
			var els []*Element
			if err == nil {
				els, err = p.Resolve([]string{"e"})
			}
			if c.merge {
				if err != nil {
					t.Fatal(err)
				}
				err = MergeHooks(els, filepath.Join(t.TempDir(), "hooks"))
			}
			if err == nil || strings.ReplaceAll(err.Error(), d, "D") != c.want {
				t.Errorf("%v; want %s", err, c.want)
			}
			if strings.Contains(command.HintOf(err), "\n") {
				t.Errorf("the hint has several lines: %q", command.HintOf(err))
			}
		})
	}
}

// A directory that cannot be read is no empty one. The superuser can read
// everything, so a file that is a directory stands for it above; here is what
// others see.
func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("the superuser reads everything")
	}
	d := t.TempDir()
	if err := os.MkdirAll(d+"/e/install.d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d+"/e/install.d", 0); err != nil {
		t.Fatal(err)
	}
	e := &Element{Name: "e", Dir: d + "/e"}
	if err := MergeHooks([]*Element{e}, t.TempDir()+"/h"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("%v", err)
	}
}

// The name is that of the directory that a link leads to.
func TestLinkedElements(t *testing.T) {
	d := t.TempDir()
	for _, p := range []string{"/real/redis", "/first", "/second/alias", "/first/own"} {
		if err := os.MkdirAll(d+p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../real/redis", d+"/first/alias"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../real/redis", d+"/first/short"); err != nil {
		t.Fatal(err)
	}
	p := Path{d + "/first", d + "/second"}
	for name, want := range map[string]string{
		"redis": "/real/redis",   // found through the link
		"alias": "/second/alias", // an element of that name, though a link comes first
		"short": "/real/redis",   // no element has the name: the link's will do
		"own":   "/first/own",
		"none":  "",
	} {
		e, err := p.Find(name)
		got := ""
		if e != nil {
			got = strings.TrimPrefix(e.Dir, d)
		}
		if got != want || err != nil {
			t.Errorf("Find(%s) = %s, %v; want %s", name, got, err, want)
		}
	}
}
