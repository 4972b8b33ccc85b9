package element

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// write makes an elements directory from "name: deps / provides" pairs.
func write(t interface{ Fatal(...any) }, dir string, els map[string][2]string) Path {
	for name, dp := range els {
		d := filepath.Join(dir, name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for i, f := range []string{"element-deps", "element-provides"} {
			if dp[i] == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(d, f), []byte(strings.ReplaceAll(dp[i], " ", "\n")+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return Path{dir}
}

func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		name   string
		els    map[string][2]string // name → deps, provides
		wanted string
		want   string // or an error, starting with "!"
	}{
		{"one", map[string][2]string{"os": {"", "operating-system"}}, "os", "os"},
		{"deps", map[string][2]string{"os": {"", "operating-system"}, "a": {"b os", ""}, "b": {"a", ""}}, "a", "a b os"},
		{"virtual", map[string][2]string{"os": {"", "operating-system"}, "a": {"v p os", ""}, "p": {"", "v"}}, "a", "a os p"},
		{"provided wins over a directory and what it pulls", map[string][2]string{
			"os": {"", "operating-system"}, "a": {"v p os", ""}, "p": {"", "v"}, "v": {"x", ""}, "x": {"", ""}}, "a", "a os p"},
		{"provider found only through the provided", map[string][2]string{
			"os": {"", "operating-system"}, "a": {"v os", ""}, "v": {"p", ""}, "p": {"", "v"}}, "a", "a os p"},
		{"self dependency", map[string][2]string{"os": {"os", "operating-system"}}, "os", "os"},
		{"unknown", map[string][2]string{"os": {"redis-", "operating-system"}, "redis": {}}, "os", `!element "redis-": not found (a dependency of os)`},
		{"no operating system", map[string][2]string{"a": {"", ""}}, "a", "!no element provides operating-system"},
		{"two providers", map[string][2]string{"a": {"b", "operating-system"}, "b": {"", "operating-system"}}, "a", "!element b: operating-system is already provided by a"},
		{"named and provided", map[string][2]string{"a": {"", "operating-system v"}, "v": {}}, "a v", "!element v: already provided by a"},
		{"bad name", map[string][2]string{}, "../x", `!element "../x": not a valid name`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			els, err := write(t, t.TempDir(), tt.els).Resolve(strings.Fields(tt.wanted))
			var got []string
			for _, e := range els {
				got = append(got, e.Name)
			}
			text := strings.Join(got, " ")
			if err != nil {
				text = "!" + err.Error()
			}
			if text != tt.want {
				t.Errorf("Resolve(%q) = %q; want %q", tt.wanted, text, tt.want)
			}
		})
	}
}

// The order in which wanted names are given changes nothing, and every
// dependency of a chosen element is chosen or provided by a chosen one.
func TestResolveProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "el")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		names := []string{"a", "b", "c", "d", "e", "v"}
		els := map[string][2]string{}
		for _, n := range names {
			deps := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID).Draw(t, n)
			els[n] = [2]string{strings.Join(deps, " "), ""}
		}
		els["p"] = [2]string{"", "v operating-system"}
		p := write(t, dir, els)
		wanted := rapid.Permutation([]string{"a", "b", "p"}).Draw(t, "wanted")
		got, err := p.Resolve(wanted)
		if err != nil {
			t.Fatal(err)
		}
		again, err := p.Resolve([]string{"p", "a", "b"})
		if d := cmp.Diff(got, again); d != "" || err != nil {
			t.Fatalf("Resolve(%v) depends on order (%v):\n%s", wanted, err, d)
		}
		there := map[string]bool{"v": true}
		for _, e := range got {
			there[e.Name] = true
			if e.Name == "v" {
				t.Fatal("v is provided and yet chosen")
			}
		}
		for _, e := range got {
			for _, d := range e.Deps {
				if !there[d] {
					t.Fatalf("%s needs %s, which is not chosen", e.Name, d)
				}
			}
		}
	})
}

func TestMergeHooks(t *testing.T) {
	dir := t.TempDir()
	put := func(p, content string, mode os.FileMode) {
		t.Helper()
		p = filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	put("a/install.d/10-a", "a", 0o755)
	put("a/tests/x", "", 0o644)
	put("a/.hidden", "", 0o644)
	put("a/static/etc/a", "from a", 0o644)
	put("b/install.d/20-b", "b", 0o700)
	put("b/static/etc/a", "from b", 0o600)
	put("b/README.md", "b", 0o644)
	a, b := &Element{Name: "a", Dir: filepath.Join(dir, "a")}, &Element{Name: "b", Dir: filepath.Join(dir, "b")}
	dest := filepath.Join(dir, "hooks")
	if err := MergeHooks([]*Element{a, b}, dest); err != nil {
		t.Fatal(err)
	}
	var got []string
	_ = filepath.WalkDir(dest, func(p string, d os.DirEntry, err error) error {
		if fi, _ := d.Info(); err == nil && !d.IsDir() {
			body, _ := os.ReadFile(p)
			got = append(got, strings.TrimPrefix(p, dest+"/")+" "+fi.Mode().String()+" "+string(body))
		}
		return err
	})
	want := []string{"README.md -rw-r--r-- b", "install.d/10-a -rwxr-xr-x a", "install.d/20-b -rwxr-xr-x b", "static/etc/a -rw-r--r-- from b"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("merged tree (-want +got):\n%s", d)
	}

	put("b/install.d/10-a", "b", 0o755)
	err := MergeHooks([]*Element{a, b}, filepath.Join(dir, "hooks2"))
	if err == nil || err.Error() != "element b: install.d/10-a is also in element a" {
		t.Errorf("duplicate hook: %v", err)
	}
}

func TestFindFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	p := write(t, dir, map[string][2]string{"real": {"x", ""}})
	if err := os.Symlink("real", filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	e, err := p.Find("alias")
	if err != nil || e.Name != "real" {
		t.Errorf("Find(alias) = %v, %v; want the element real", e, err)
	}
}
