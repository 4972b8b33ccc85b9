package yamlfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"goldsmith/internal/command"
)

type doc struct {
	Name  string
	Items []string
	Env   map[string]string
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"name: a\nitems: [b]\n":               "",
		"name: a\nitmes: [b]\n":               `f:2: unknown field "itmes"`,
		"name: a\nitems: b\n":                 `f:2: expected a list, found text "b"`,
		"name: [a]\n":                         `f:1: expected text, found a list`,
		"name: a\n  items: [b]\n":             "f:2: mapping values are not allowed in this context",
		"":                                    "f: empty",
		"name: a\n---\nname: b\n":             "f: more than one YAML document",
		"a: '*x'\n# *x\nitems:\n- *x\n- *x\n": "f:4: unknown anchor 'x' referenced",
		"name: a\nname: b\n":                  `f:2: mapping key "name" already defined at line 1`,
		"items:\n- a\n- {b: c}\n":             `f:3: expected text, found a mapping`,
		"env: {A: [1]}\n":                     `f:1: expected text, found a list`,
		"name: a\n\"two words\": b\n":         `f:2: unknown field "two words"`,
		"items: [null]\n":                     "f:1: an item of the list is empty",
		"items:\n- a\n- ~\n":                  "f:3: an item of the list is empty",
		"items:\n- a\n-\n":                    "f:3: an item of the list is empty",
		"items: ['']\n":                       "",
		"items: null\n":                       "",
		"name: \"unclosed\nitems: 1":          "f:2: found unexpected end of stream",
	} {
		var d doc
		_, err := Parse("f", []byte(in), &d)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("Parse(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestErrorfFindsLines(t *testing.T) {
	var d doc
	f, err := Parse("f", []byte("name: a\nitems:\n- b\n- c\n"), &d)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Errorf([]any{"items", 1}, "bad %s", "c").Error(); got != "f:4: bad c" {
		t.Errorf("Errorf = %q", got)
	}
	if got := f.Errorf([]any{"env"}, "missing").Error(); got != "f:1: missing" {
		t.Errorf("Errorf = %q", got)
	}
}

// Whatever keeps a file from being read is said, and is the caller's to mend.
func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, []byte("name: a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"f": "", "none": "no such file", "f/x": "not a directory", "loop": "too many levels of symbolic links", ".": "not a YAML file",
	} {
		var d doc
		path := filepath.Join(dir, name)
		_, err := Read(path, &d)
		got := ""
		if err != nil {
			got = strings.TrimPrefix(err.Error(), path+": ")
			if command.Status(err) != command.StatusUsage {
				t.Errorf("Read(%s) has the status %d", name, command.Status(err))
			}
		}
		if got != want {
			t.Errorf("Read(%s) = %q; want %q", name, got, want)
		}
	}
}

func TestDecode(t *testing.T) {
	for in, want := range map[string]string{
		"with: {name: a}\n":                                "a",
		"other: &x {name: a}\nwith: *x\n":                  "a",
		"other: &x {name: a}\nwith: {<<: *x}\n":            "a",
		"other: &x {name: a}\nwith: {<<: [*x], name: b}\n": "b",
		"other: &x {nane: a}\nwith:\n  <<: *x\n":           `f:1: unknown field "nane"`,
		"other: &x {nane: a}\nwith: *x\n":                  `f:1: unknown field "nane"`,
		"with:\n  name: a\n  hidden: b\n":                  `f:3: unknown field "hidden"`,
		"with: {more: {one: x, two: y}}\n":                 `f:1: unknown field "two"`,
		"with:\n  list:\n  - one: x\n  - {tow: y}\n":       `f:4: unknown field "tow"`,
		"other: &x {two: y}\nwith: {more: *x}\n":           `f:1: unknown field "two"`,
		"with: {node: {whatever: x}, name: a}\n":           "a",
		"with: [a]\n":                                      "f:1: expected a mapping",
		"other: &x [a]\nwith: *x\n":                        "f:2: expected a mapping",
		"with: {name: [a]}\n":                              "f:1: expected text, found a list",
		"with: &x {name: a, <<: *x}\n":                     "f: anchor 'x' value contains itself",
	} {
		var d struct{ Other, With yaml.Node }
		f, err := Parse("f", []byte(in), &d)
		if err != nil {
			t.Fatal(in, err)
		}
		var v struct {
			Name   string
			More   *struct{ One string }
			List   []struct{ One string }
			Node   yaml.Node
			hidden string
		}
		err = f.Decode(&d.With, &v)
		got := v.Name
		if err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Decode(%q) (-want +got):\n%s", in, diff)
		}
		_ = v.hidden
	}
}
