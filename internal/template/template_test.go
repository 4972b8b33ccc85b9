package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// object is a Getter for tests, read by encoding/json.
type object map[string]any

func (o object) Get(key string) (any, bool) { v, ok := o[key]; return v, ok }
func (o object) Falsy() bool                { return len(o) == 0 }

// num is a number that knows when it is zero.
type num string

func (n num) Falsy() bool { return n == "0" }

func data(t testing.TB, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return convert(v)
}

func convert(v any) any {
	switch v := v.(type) {
	case map[string]any:
		o := object{}
		for k, w := range v {
			o[k] = convert(w)
		}
		return o
	case []any:
		for i := range v {
			v[i] = convert(v[i])
		}
		return v
	case json.Number:
		return num(v)
	}
	return v
}

// text is json.dumps with sorted keys.
func text(v any) string {
	var parts []string
	switch v := v.(type) {
	case object:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, fmt.Sprintf("%q: %s", k, text(v[k])))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		for _, w := range v {
			parts = append(parts, text(w))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		return fmt.Sprintf("%q", v)
	case nil:
		return "null"
	}
	return fmt.Sprint(v)
}

func render(t testing.TB, tmpl, doc string, partials map[string]string) (string, error) {
	t.Helper()
	return renderAs(Parse, tmpl, data(t, doc), partials, nil)
}

func renderAs(parse func(string, string) (*Template, error), tmpl string, data any, partials map[string]string,
	escape func(string) string) (string, error) {
	parsed, err := parse("t", tmpl)
	if err != nil {
		return "", err
	}
	b, err := parsed.Render(data, Options{Text: text, Escape: escape, Partial: func(n string) (string, bool, error) {
		p, ok := partials[n]
		return p, ok, nil
	}})
	return string(b), err
}

const doc = `{"s":"<&\">","e":"","n":5,"z":0,"t":true,"f":false,"null":null,"l":[1,2],"el":[],"eo":{},
	"o":{"k":"in","null":null,"p":{"q":"deep"}},"k":"out","os":[{"k":"a"},{"x":1},{"k":null}],"ll":[[1,2],[3]],"ns":[null,0,"x"]}`

func TestRender(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		// values
		{"{{s}}|{{{s}}}|{{&s}}|{{& s }}", `<&">|<&">|<&">|<&">`},
		{"{{n}} {{z}} {{t}} {{f}} {{null}} {{missing}} {{e}}", "5 0 true false   "},
		{"{{l}} {{o}} {{eo}}", `[1, 2] {"k": "in", "null": null, "p": {"q": "deep"}} {}`},
		{"{{o.p.q}} {{o.k.q}} {{l.0}} {{o.none.k}} {{o.null.k}}", "deep    "},
		{"  {{n}}  \n", "  5  \n"},
		{"{{ n\n }}", "5"},
		{"a {{ never closed", "a {{ never closed"},
		{"{{n", "{{n"},
		{"}} {", "}} {"},
		{"{{#o}}{{.}}{{/o}}", `{"k": "in", "null": null, "p": {"q": "deep"}}`},
		// sections
		{"{{#l}}<{{.}}>{{/l}}", "<1><2>"},
		{"{{#ll}}({{#.}}{{.}}{{/.}}){{/ll}}", "(12)(3)"},
		{"{{#os}}{{k}},{{/os}}", "a,out,,"},
		{"{{#o}}{{k}}{{#p}}{{k}}{{q}}{{/p}}{{/o}}", "inindeep"},
		{"{{#o.p}}{{q}}{{k}}{{/o.p}}", "deepout"},
		{"{{#n}}{{.}}{{/n}}{{#s}}{{.}}{{/s}}{{#t}}{{.}}{{/t}}", `5<&">true`},
		{"{{#z}}z{{/z}}{{#e}}e{{/e}}{{#f}}f{{/f}}{{#null}}n{{/null}}{{#el}}l{{/el}}{{#eo}}o{{/eo}}{{#x}}x{{/x}}", ""},
		{"{{^z}}z{{/z}}{{^e}}e{{/e}}{{^f}}f{{/f}}{{^null}}n{{/null}}{{^el}}l{{/el}}{{^eo}}o{{/eo}}{{^x}}x{{/x}}",
			"zefnlox"},
		{"{{^n}}n{{/n}}{{^l}}l{{/l}}{{^s}}s{{/s}}", ""},
		{"{{#ns}}[{{.}}]{{/ns}}", "[][0][x]"},
		{"{{# n }}a{{/n}}{{#n}}b{{/ n }}", "ab"},
		// lines that hold nothing but a tag
		{"a\n{{#t}}\nb\n{{/t}}\nc\n", "a\nb\nc\n"},
		{"a\n  {{#t}}\nb\n\t{{/t}}\nc\n", "a\nb\nc\n"},
		{"a\r\n{{#t}}\r\nb\r\n{{/t}}\r\nc", "a\r\nb\r\nc"},
		{"{{#t}}\nb\n{{/t}}", "b\n"},
		{"a {{#t}}\nb\n{{/t}} \nc", "a \nb\n \nc"},
		{"{{#t}} \nb\n{{/t}}\n", " \nb\n"},
		{"a\n{{! comment }}\nb {{! another }}\nc", "a\nb \nc"},
		{"a{{! two\nlines }}b\n  {{! two\nlines }}\nc", "ab\nc"},
		{"{{#t}}{{n}}\n{{/t}}\n", "5\n"},
		{"  {{n}}\n", "  5\n"},
		{"{{#t}}{{/t}}\nx", "\nx"},
		// delimiters
		{"{{=<% %>=}}<% n %> {{n}} <%={{ }}=%>{{n}}", "5 {{n}} 5"},
		{"a\n{{= | | =}}\nb|n|", "a\nb5"},
		{"{{=<< >>=}}<<{s}>><<&s>>", `<&"><&">`},
		// partials
		{"[{{>p}}]", "[5 ]"},
		{"[{{>none}}]", "[]"},
		{"{{#os}}{{>k}}{{/os}}", "aout"},
		{"  {{>lines}}\nx", "  1\n\n  2\nx"},
		{"  {{>lines}} x", "  1\n\n2\n x"},
		{"{{=| |=}}|>p|", "5 "},
	} {
		got, err := render(t, tc.in, doc, map[string]string{"p": "{{n}} ", "k": "{{k}}", "lines": "1\n\n2\n"})
		if err != nil || got != tc.want {
			t.Errorf("render(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct{ in, want, remedy string }{
		{"out\n{{#a}} in\n{{k}}", "t:2: section {{#a}} is never closed", "add {{/a}} where the section ends"},
		{"{{#a}}\n{{^b}}{{/b}}\n{{^c}}", "t:3: section {{^c}} is never closed", "add {{/c}} where the section ends"},
		{"{{#a}}\n{{#b}}\n{{/a}}", "t:3: {{/a}} closes a section, but the open one is {{#b}} from line 2",
			"close the innermost section first, with {{/b}}"},
		{"\n\n{{/a}}", "t:3: {{/a}} closes a section that is not open", "remove it, or open the section with {{#a}}"},
		{"a {{}} b {{k}}", "t:1: an empty tag {{}}", "name the key, or write the text without two braces in a row"},
		{"{{#}}x{{/}}", "t:1: a tag without a key: {{#}}", "name the key"},
		{"{{{k}}", "t:1: a tag that is not closed: {{{k}}",
			"{{{key}}} takes three braces on both sides, {{=<% %>=}} two equals signs"},
		{"{{=a b}}", "t:1: a tag that is not closed: {{=a b}}",
			"{{{key}}} takes three braces on both sides, {{=<% %>=}} two equals signs"},
		{"{{=ab=}}", "t:1: a delimiter tag needs two delimiters, it has 1", "write it as {{=<% %>=}}"},
		{"{{>self}}", "self:1: partials include each other more than 200 deep",
			"a partial that includes itself needs a section that ends it"},
		{"{{>broken}}", "broken:2: section {{#x}} is never closed", "add {{/x}} where the section ends"},
	} {
		_, err := render(t, tc.in, doc, map[string]string{"self": "{{>self}}", "broken": "\n{{#x}}"})
		e, ok := errors.AsType[*Error](err)
		if !ok || err.Error() != tc.want || e.Remedy != tc.remedy {
			t.Errorf("render(%q) = %v, remedy %q; want %s, %s", tc.in, err, remedy(e), tc.want, tc.remedy)
		}
	}
}

// What Parse refuses, ParseOriginal takes as the original does.
func TestOriginal(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"lost {{#t}} in {{k}}", " in out"},
		{"{{#t}}lost{{^f}}kept", "kept"},
		{"a {{}} b }} c", "a  c"},
		{"a {{#}} b {{k}} c", " c"},
		{"a {{!}} b {{k}} c", "a  c"},
		{"{{{k}} {{n}}", " 5"},
		{"{{=<% %> x=}}<%n%>", "5"},
		{"{{ }}", ""},
	} {
		got, err := renderAs(ParseOriginal, tc.in, data(t, doc), nil, nil)
		if err != nil || got != tc.want {
			t.Errorf("render(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		}
		if _, err := Parse("t", tc.in); err == nil && !strings.Contains(tc.in, "!") {
			t.Errorf("Parse(%q) refuses nothing", tc.in)
		}
	}
	for _, in := range []string{"{{#a}}{{/b}}", "{{/a}}", "{{=a=}}", "{{= =}}"} {
		if got, err := renderAs(ParseOriginal, in, data(t, doc), nil, nil); err == nil {
			t.Errorf("render(%q) = %q; want an error", in, got)
		}
	}
}

func remedy(e *Error) string {
	if e == nil {
		return ""
	}
	return e.Remedy
}

func FuzzRender(f *testing.F) {
	for _, s := range []string{"{{#l}}{{.}}{{/l}}", "a\n {{! x }}\nb{{{s}}}", "{{=<% %>=}}<%n%>", "{{#a}}", "{{>p}}",
		"{{= =}}", "{{\x85}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, tmpl string) {
		first, err := render(t, tmpl, doc, map[string]string{"p": tmpl})
		if e, ok := errors.AsType[*Error](err); err != nil && (!ok || e.Line < 1 || e.Line > strings.Count(tmpl,
			"\n")+1 || e.Remedy == "") {
			t.Fatalf("render(%q): %#v", tmpl, err)
		}
		if err == nil && !strings.Contains(tmpl, "{{") && first != tmpl {
			t.Fatalf("text %q became %q", tmpl, first)
		}
	})
}
