package pkgmap

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/command"
)

const example = `{
  "release": {"fedora": {"8": {"p": "release"}}, "debian": {"12": {"none": ""}}},
  "distro": {"fedora": {"p": "distro", "q": "distro"}, "debian": {"none": "x", "null": null}},
  "family": {"redhat": {"p": "family", "q": "family", "r": "family"}, "suse": {"r": "two names"}},
  "default": {"p": "default", "q": "default", "r": "default", "s": "default", "none": "default", "null": "default"},
  "comment": ["anything"]
}`

func TestLookup(t *testing.T) {
	m, err := Parse("f", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ distro, release, pkg, want string }{
		{"fedora", "8", "p", "release"},
		{"fedora", "8-stream", "p", "release"},
		{"fedora", "9-stream", "p", "distro"},
		{"fedora", "", "q", "distro"},
		{"centos", "8", "p", "family"},
		{"rocky", "9", "p", "family"},
		{"fedora", "8", "r", "family"},
		{"opensuse", "", "r", "two names"},
		{"ubuntu", "", "r", "default"},
		{"", "", "s", "default"},
		{"debian", "12", "none", ""},
		{"debian", "11", "none", "x"},
		{"debian", "11", "null", ""},
		{"debian", "11", "t", "unmapped"},
	} {
		got, ok := m.Lookup(c.distro, c.release, c.pkg)
		if !ok {
			got = "unmapped"
		}
		if got != c.want {
			t.Errorf("Lookup(%q, %q, %q) = %q; want %q", c.distro, c.release, c.pkg, got, c.want)
		}
	}
	if diff := cmp.Diff([]string{"debian", "fedora"}, m.Distributions()); diff != "" {
		t.Error(diff)
	}
}

func TestTranslate(t *testing.T) {
	m, err := Parse("f", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Translate("opensuse", "", []string{"r", "t", "s"}, true)
	if diff := cmp.Diff([]string{"two names", "t", "default"}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	got, err = m.Translate("debian", "12", []string{"s", "none", "t", "s"}, false)
	u, ok := errors.AsType[*Unmapped](err)
	if diff := cmp.Diff([]string{"default"}, got); diff != "" || !ok || u.Error() != "f has no valid mapping for package t" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestForElement(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "e"), []byte(example), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := ForElement(dir, "e", "opensuse", "", []string{"r", "none", "t"})
	if diff := cmp.Diff([]string{"two", "names", "default", "t"}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	got, err = ForElement(dir, "other", "debian", "", []string{"r"})
	if diff := cmp.Diff([]string{"r"}, got); diff != "" || err != nil {
		t.Errorf("without a map: %v\n%s", err, diff)
	}
	if _, err = ForElement(dir, "e", "", "", []string{"r"}); err == nil {
		t.Error("no error without a distribution")
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		"{\n\"a\" 1}":                     "f:2: invalid character '1' after object key",
		"{} x":                            "f: something follows the JSON value",
		"{":                               "f: the JSON value is not complete",
		"":                                "f: the JSON value is not complete",
		"[]":                              "f:1: found an array where an object belongs",
		"\nnull\n":                        "f:2: found nothing where an object belongs",
		"{\n\"default\": [1]}":            "f:2: section default: found an array where an object belongs",
		`{"default": {"a": ["b"]}}`:       "f:1: section default: found an array where a name belongs",
		"{\"x\": [1],\n\"distro\":\n[1]}": "f:3: section distro: found an array where an object belongs",
		"{\"default\": {},\n\"default\": {\n\"c\": 1}}": "f:3: section default: found a number where a name belongs",
		`{"distro": {"debian": "x"}}`:                   "f:1: section distro: found a string where an object belongs",
		`{"release": {"d": {"1": 2}}}`:                  "f:1: section release: found a number where an object belongs",
	} {
		_, err := Parse("f", []byte(in))
		if err == nil || err.Error() != want || command.Status(err) != command.StatusUsage || command.HintOf(err) == "" {
			t.Errorf("Parse(%q): error %v; want %s", in, err, want)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if m, err := Parse("f", []byte(`{"family": null, "distro": {"debian": null}, "Default": {"a": 1}}`)); err != nil {
		t.Error(err)
	} else if _, ok := m.Lookup("debian", "", "a"); ok {
		t.Error("a key in other case counts")
	}
}

// The most specific section that knows a package wins, whatever the others say.
func TestOverlay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &Map{}
		want, known := "", false
		set := func(into *names, value string) {
			if rapid.Bool().Draw(t, value) {
				*into = names{"p": &value}
				want, known = value, true
			}
		}
		var distro, rel, family names
		set(&m.Default, "default")
		set(&family, "family")
		set(&distro, "distro")
		set(&rel, "release")
		m.Family = map[string]names{"debian": family}
		m.Distro = map[string]names{"ubuntu": distro}
		m.Release = map[string]map[string]names{"ubuntu": {"8": rel}}
		if got, ok := m.Lookup("ubuntu", "8-stream", "p"); got != want || ok != known {
			t.Fatalf("Lookup = %q, %v; want %q, %v", got, ok, want, known)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("{}")
	f.Add(`{"family": null}`)
	f.Fuzz(func(t *testing.T, in string) {
		m, err := Parse("f", []byte(in))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("error %v", err)
			}
			return
		}
		if _, err := m.Translate("debian", "12", []string{"a"}, true); err != nil {
			t.Errorf("missing is ok, and yet %v", err)
		}
	})
}
