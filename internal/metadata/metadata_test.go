package metadata

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/testenv"
)

func object(t testing.TB, text string) *Object {
	t.Helper()
	v, err := Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o, ok := v.(*Object)
	if !ok {
		t.Fatalf("%s is no object", text)
	}
	return o
}

func TestParseAndPrint(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":{"z":[1,2],"y":null}}`: `{"b": 1, "a": {"z": [1, 2], "y": null}}`,
		`{"a":1,"b":2,"a":3}`:              `{"a": 3, "b": 2}`,
		` [ ] `:                            `[]`,
		`{ }`:                              `{}`,
		`[1e3, 1.0, 1.10, -0, -0.0, 1e16, 1e15, 1E-5, 0.0001]`: `[1000.0, 1.0, 1.1, 0, -0.0, 1e+16, 1000000000000000.0, 1e-05, 0.0001]`,
		`123456789012345678901234567890`:                       `123456789012345678901234567890`,
		`[1e400, -1e400, NaN, Infinity, -Infinity]`:            `[Infinity, -Infinity, NaN, Infinity, -Infinity]`,
		`"é\u00e9\ud83d\ude00\n\u007f\/"`:                      `"\u00e9\u00e9\ud83d\ude00\n\u007f/"`,
		`["\ud800", "\ud800x", "\udc00\ud800"]`:                `["\ud800", "\ud800x", "\udc00\ud800"]`,
		`[true, false, null]`:                                  `[true, false, null]`,
	} {
		v, err := Parse("x", []byte(in))
		if err != nil {
			t.Errorf("Parse(%s): %v", in, err)
			continue
		}
		if got := JSON(v); got != want {
			t.Errorf("JSON(Parse(%s)) = %s; want %s", in, got, want)
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "f:1:1: the file ends where a value should be",
		"{\n  \"a\": 1,\n}":       "f:3:1: expected a key in double quotes",
		"{\"é\": 1 2}":            "f:1:9: expected ',' or '}'",
		"{\"a\" 1}":               "f:1:6: expected ':' after the key",
		"[1, 2":                   "f:1:6: the file ends where ',' or ']' should be",
		"{\"a\": tru}":            "f:1:7: this is no JSON value",
		"[01]":                    "f:1:3: expected ',' or ']'",
		"[1.]":                    "f:1:3: expected ',' or ']'",
		"[.5]":                    "f:1:2: this is no JSON value",
		"\"abc":                   "f:1:1: this string has no closing quote",
		"\"a\nb\"":                "f:1:3: a control character in a string; write it as an escape, such as \\n",
		`"\x"`:                    "f:1:2: no such escape",
		`"\`:                      "f:1:2: the file ends within an escape",
		"{} {}":                   "f:1:4: something follows the end of the JSON value",
		"\ufeff{}":                "f:1:1: the file begins with a byte order mark; save it as plain UTF-8",
		"{\"a\": \"\xff\"}":       "f:1:8: not UTF-8",
		strings.Repeat("[", 1000): "f:1:501: nested more than 500 levels deep",
	} {
		_, err := Parse("f", []byte(in))
		if _, ok := errors.AsType[*SyntaxError](err); !ok || err.Error() != want {
			t.Errorf("Parse(%.40q) = %v; want %s", in, err, want)
		}
	}
}

func TestSalvage(t *testing.T) {
	for in, want := range map[string]string{
		`{"url": "http://x", "b": {"c": 1`: `{"url": "http://x"}`,
		`{"url": "http://x", b}`:           `{"url": "http://x"}`,
		`{"url": "http://x`:                `{}`,
		`{"a": 1} trailing`:                `{"a": 1}`,
		"{\"a\": 1, \"b\": \"\xff\", 2}":   `{"a": 1, "b": "\ufffd"}`,
		`[1, 2]`:                           `{}`,
		``:                                 `{}`,
	} {
		if got := JSON(Salvage([]byte(in))); got != want {
			t.Errorf("Salvage(%s) = %s; want %s", in, got, want)
		}
	}
}

func TestMerge(t *testing.T) {
	for _, tc := range []struct{ a, b, want string }{
		{`{"a":{"x":1,"y":2},"l":[1,2]}`, `{"c":1,"a":{"y":3,"z":4},"l":[9]}`,
			`{"a": {"x": 1, "y": 3, "z": 4}, "l": [9], "c": 1}`},
		{`{"a":{"x":1}}`, `{"a":null}`, `{"a": null}`},
		{`{"a":{"x":1}}`, `{"a":"s"}`, `{"a": "s"}`},
		{`{"a":"s"}`, `{"a":{"x":1}}`, `{"a": {"x": 1}}`},
		{`{}`, `{}`, `{}`},
	} {
		a, b := object(t, tc.a), object(t, tc.b)
		if got := JSON(Merge(a, b)); got != tc.want {
			t.Errorf("Merge(%s, %s) = %s; want %s", tc.a, tc.b, got, tc.want)
		}
		if !Equal(a, object(t, tc.a)) || !Equal(b, object(t, tc.b)) {
			t.Errorf("Merge(%s, %s) changed an argument: %s, %s", tc.a, tc.b, JSON(a), JSON(b))
		}
	}
	if got := JSON(Merge(nil, object(t, `{"a":1}`), nil)); got != `{"a": 1}` {
		t.Errorf("Merge with nil = %s", got)
	}
}

func TestLookup(t *testing.T) {
	doc := object(t, `{"a":{"b":[10,{"c":false}],"":1},"n":null,"a.b":2,"s":"x"}`)
	for key, want := range map[string]string{
		"a.b.0": "10", "a.b.-1": `{"c": false}`, "a.b.1.c": "false", "a.": "1", "s": `"x"`,
		"n": "", "n.x": "", "a.b.2": "", "a.b.-3": "", "a.b.x": "", "s.0": "", "none": "", "": "",
	} {
		v, ok := Lookup(doc, key)
		got := ""
		if ok {
			got = JSON(v)
		}
		if got != want {
			t.Errorf("Lookup(%q) = %s; want %s", key, got, want)
		}
	}
}

func TestEqualIgnoresOrder(t *testing.T) {
	if !Equal(object(t, `{"a":[1,{"b":2,"c":3}],"d":null}`), object(t, `{"d":null,"a":[1,{"c":3,"b":2}]}`)) {
		t.Error("the order of keys made a difference")
	}
	for _, pair := range [][2]string{
		{`{"a":1}`, `{"a":2}`}, {`{"a":1}`, `{"b":1}`}, {`{"a":[1]}`, `{"a":[1,2]}`}, {`{"a":"1"}`, `{"a":1}`},
		{`{"a":null}`, `{}`}, {`{"a":[]}`, `{"a":{}}`}, {`{"a":1}`, `{"a":[1]}`},
	} {
		if Equal(object(t, pair[0]), object(t, pair[1])) {
			t.Errorf("Equal(%s, %s) = true", pair[0], pair[1])
		}
	}
}

func TestIndented(t *testing.T) {
	want := "{\n \"a\": [\n  1,\n  {}\n ],\n \"b\": \"\"\n}"
	if d := cmp.Diff(want, Indented(object(t, `{"a":[1,{}],"b":""}`))); d != "" {
		t.Errorf("Indented (-want +got):\n%s", d)
	}
}

// TestAgainstPython holds parsing and printing to the json module.
func TestAgainstPython(t *testing.T) {
	testenv.Need(t, "python3")
	gen := rapid.OneOf(
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?`),
		rapid.Map(rapid.Float64(), func(f float64) string { return string(Float(f)) }),
		rapid.Map(rapid.String(), func(s string) string { return JSON(s) }),
	)
	var docs []string
	for i := range 2000 {
		docs = append(docs, gen.Example(i))
	}
	text := "[" + strings.Join(docs, ",") + "]"
	for _, how := range []struct {
		args  string
		print func(any) string
	}{{"", JSON}, {"indent=1", Indented}} {
		cmd := exec.Command("python3", "-c",
			"import json,sys; sys.stdout.write(json.dumps(json.load(sys.stdin), "+how.args+"))")
		cmd.Stdin = strings.NewReader(text)
		want, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		v, err := Parse("docs", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := how.print(v); got != string(want) {
			t.Errorf("json.dumps(%s) and ours differ", how.args)
			g, w := strings.Split(got, ","), strings.Split(string(want), ",")
			for i := range min(len(g), len(w)) {
				if g[i] != w[i] {
					t.Errorf("%s printed as %s; Python prints %s", docs[i], g[i], w[i])
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"x\n\ud83d\ude00"],"b":{"c":null}}`, `[NaN,-Infinity]`, `{"a":1,"a":2}`,
		`"\ud800"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Parse("fuzz", data)
		if err != nil {
			return
		}
		for _, text := range []string{JSON(v), Indented(v)} {
			again, err := Parse("again", []byte(text))
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if JSON(again) != JSON(v) || !Equal(again, v) {
				t.Fatalf("%s printed as %s", JSON(v), JSON(again))
			}
		}
	})
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte(`{"a":{"b":1}}`), []byte(`{"a":{"c":[2]},"d":null}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		va, err1 := Parse("a", a)
		vb, err2 := Parse("b", b)
		oa, ok1 := va.(*Object)
		ob, ok2 := vb.(*Object)
		if err1 != nil || err2 != nil || !ok1 || !ok2 {
			return
		}
		beforeA, beforeB := JSON(oa), JSON(ob)
		sum := Merge(oa, ob)
		if JSON(oa) != beforeA || JSON(ob) != beforeB {
			t.Fatal("an argument changed")
		}
		if !Equal(Merge(sum, ob), sum) {
			t.Fatalf("merging %s twice makes a difference", beforeB)
		}
		if !slices.EqualFunc(sum.members[:oa.Len()], oa.members, func(a, b member) bool { return a.key == b.key }) {
			t.Fatalf("keys of the first document moved: %s", JSON(sum))
		}
	})
}
