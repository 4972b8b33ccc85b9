package yamlfile

import "testing"

type doc struct {
	Name  string
	Items []string
	Env   map[string]string
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"name: a\nitems: [b]\n":      "",
		"name: a\nitmes: [b]\n":      `f:2: unknown field "itmes"`,
		"name: a\nitems: b\n":        `f:2: expected a list, found text "b"`,
		"name: [a]\n":                `f:1: expected text, found a list ""`,
		"name: a\n  items: [b]\n":    "f:2: mapping values are not allowed in this context",
		"":                           "f: empty",
		"name: a\n---\nname: b\n":    "f: more than one YAML document",
		"name: a\nname: b\n":         `f:2: mapping key "name" already defined at line 1`,
		"items:\n- a\n- {b: c}\n":    `f:3: expected text, found a mapping ""`,
		"env: {A: [1]}\n":            `f:1: expected text, found a list ""`,
		"name: \"unclosed\nitems: 1": "f:2: found unexpected end of stream",
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
