package template

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testdata/spec is the core of the mustache specification 1.1.2, from the npm
// package mote 0.2.0; see the LICENSE there.
type specFile struct {
	Tests []struct {
		Name, Template, Expected string
		Data                     json.RawMessage
		Partials                 map[string]string
	}
}

var html = strings.NewReplacer("&", "&amp;", `"`, "&quot;", "<", "&lt;", ">", "&gt;")

// later is what the specification's later versions say beyond.
var later = []struct{ template, data, want string }{
	{"I ({{cannot}}) be seen!", `{"cannot":null}`, "I () be seen!"},
	{"I ({{{cannot}}}) be seen!", `{"cannot":null}`, "I () be seen!"},
	{"I ({{&cannot}}) be seen!", `{"cannot":null}`, "I () be seen!"},
	{"{{.}} {{{.}}} {{&.}}", `"<"`, "&lt; < <"},
	{"{{.}}", `85`, "85"},
	{`"{{a.b.c.name}}" == ""`, `{"a":{"b":{}},"c":{"name":"Jim"}}`, `"" == ""`},
	{`{{#a}}{{b.c}}{{/a}}`, `{"a":{"b":{}},"b":{"c":"ERROR"}}`, ""},
	{"{{a.b}}", `{"a.b":"c","a":{"b":"d"}}`, "d"},
	{"{{#null}}x{{/null}}{{^null}}y{{/null}}", `{"null":null}`, "y"},
	{"{{#foo}}{{.}} is {{foo}}{{/foo}}", `{"foo":"bar"}`, "bar is bar"},
	{"{{#bool}}{{.}}{{/bool}}", `{"bool":true}`, "true"},
	{"{{#list}}{{{.}}}{{.}}{{/list}}", `{"list":["<"]}`, "<&lt;"},
	{"{{#list}}({{#.}}{{.}}{{/.}}){{/list}}", `{"list":[[1,2,3],["a","b"]]}`, "(123)(ab)"},
	{"{{#.}}({{value}}){{/.}}", `[{"value":"a"},{"value":"b"}]`, "(a)(b)"},
	{"{{#a}}{{one}}{{#b}}{{one}}{{two}}{{/b}}{{/a}}", `{"a":{"one":1},"b":{"two":2}}`, "112"},
	{"{{#a.b}}{{.}}{{/a.b}}{{^a.x}}no{{/a.x}}", `{"a":{"b":[1,2]}}`, "12no"},
	{"'{{! comment }}'{{!c}}", `{"! comment":1," comment ":2,"c":3}`, "''"},
}

// With HTML escaping the specification holds; in the dialect all of it holds
// but the cases that escape.
func TestSpecification(t *testing.T) {
	type test struct{ name, template, data, want string }
	var escaping []string
	count := 0
	try := func(c test, partials map[string]string) {
		d := data(t, c.data)
		if got, err := renderAs(Parse, c.template, d, partials, html.Replace); err != nil || got != c.want {
			t.Errorf("%s: render(%q) = %q, %v; want %q", c.name, c.template, got, err, c.want)
		}
		for what, parse := range map[string]func(string, string) (*Template, error){"ours": Parse,
			"original": ParseOriginal} {
			got, err := renderAs(parse, c.template, d, partials, nil)
			switch {
			case err == nil && got == c.want:
			case err == nil && html.Replace(got) == c.want && what == "ours":
				escaping = append(escaping, c.name)
			case err != nil || html.Replace(got) != c.want:
				t.Errorf("%s: in the dialect, %s, render(%q) = %q, %v; want %q", c.name, what, c.template, got, err,
					c.want)
			}
		}
		count++
	}
	files, err := filepath.Glob("testdata/spec/*.json")
	if err != nil || len(files) != 6 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var f specFile
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatal(err)
		}
		for _, c := range f.Tests {
			name := strings.TrimSuffix(filepath.Base(name), ".json") + ": " + c.Name
			try(test{name, c.Template, string(c.Data), c.Expected}, c.Partials)
		}
	}
	if count != 112 {
		t.Errorf("%d cases; want 112", count)
	}
	slices.Sort(escaping)
	if d := cmp.Diff([]string{"interpolation: HTML Escaping"}, escaping); d != "" {
		t.Errorf("cases that differ in the dialect (-want +got):\n%s", d)
	}
	for i, c := range later {
		if got, err := renderAs(Parse, c.template, data(t, c.data), nil, html.Replace); err != nil || got != c.want {
			t.Errorf("later %d: render(%q) = %q, %v; want %q", i, c.template, got, err, c.want)
		}
		want := strings.ReplaceAll(c.want, "&lt;", "<")
		if got, err := renderAs(ParseOriginal, c.template, data(t, c.data), nil, nil); err != nil || got != want {
			t.Errorf("later %d: in the dialect, render(%q) = %q, %v; want %q", i, c.template, got, err, want)
		}
	}
}

// What would take for ever, or all memory, is an error.
func TestBounds(t *testing.T) {
	list := "[" + strings.Repeat("1,", 999) + "1]"
	nested := func(n int) string { return strings.Repeat("{{#l}}", n) + strings.Repeat("{{/l}}", n) }
	for _, tc := range []struct{ what, in, doc, want string }{
		{"sections", nested(501), `{}`, "sections nested more than 500 deep"},
		{"loops", nested(4), fmt.Sprintf(`{"l":%s}`, list), "rendering takes more than"},
		{"output", strings.Replace(nested(2), "}}{{/", "}}{{s}}{{/", 1), fmt.Sprintf(`{"l":%s,"s":%q}`, list,
			strings.Repeat("x", 1000)),
			"renders to more than 64 MiB"},
		{"text", strings.Repeat("x", maxText+1), `{}`, "larger than 4 MiB"},
		{"delimiters", strings.Repeat("{{=<% %>=}}<%={{ }}=%>", 501), `{}`, "delimiters change more than 1000 times"},
		{"partials", "{{>twice}}", `{}`, "partials include each other more than 200 deep"},
		{"partials in lists", "{{#l}}{{#l}}{{>p}}{{/l}}{{/l}}", fmt.Sprintf(`{"l":%s}`, list),
			"rendering takes more than"},
		{"indent", "  {{>grow}}", `{}`, "deep"},
	} {
		partials := map[string]string{"twice": "{{>twice}}{{>twice}}", "grow": "  {{>grow}}\nx\n",
			"p": strings.Repeat("{{x}}", 50)}
		for _, parse := range []func(string, string) (*Template, error){Parse, ParseOriginal} {
			_, err := renderAs(parse, tc.in, data(t, tc.doc), partials, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v; want %q", tc.what, err, tc.want)
			}
		}
	}
	// What looks for a bracket far ahead does so once.
	for _, s := range []string{"{{=a}}", "{{{a}}", "{{ = ", "{{={{{", "{{#a}} {{/a}}{{{x} }{{=y= "} {
		_, _ = renderAs(ParseOriginal, strings.Repeat(s, maxText/len(s)), data(t, doc), nil, nil)
	}
}
