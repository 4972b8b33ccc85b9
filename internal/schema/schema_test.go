package schema

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/template"
)

// write makes a schema directory of files.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, text string) *Schema {
	t.Helper()
	s, err := Read(write(t, map[string]string{"a.yaml": text}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Integers of any size stay what they are.
func TestLargeIntegers(t *testing.T) {
	s := read(t, `a: {type: int, default: 123456789012345678901234567890}
b: {default: [-18446744073709551616, 18446744073709551615, 1e30, 1.5, "123456789012345678901234567890"]}
c: {default: {x: 18446744073709551616, y: 123456789012345678}}
d: {type: int, default: &big 100000000000000000000}
e: {type: int, default: *big}
`)
	want := `{"a": 123456789012345678901234567890, ` +
		`"b": [-18446744073709551616, 18446744073709551615, 1e+30, 1.5, "123456789012345678901234567890"], ` +
		`"c": {"x": 18446744073709551616, "y": 123456789012345678}, "d": 100000000000000000000, "e": 100000000000000000000}`
	if got := metadata.JSON(s.WithDefaults(&metadata.Object{})); got != want {
		t.Errorf("defaults %s; want %s", got, want)
	}
}

// The default of a secret is in no error.
func TestSecretDefaultIsNotShown(t *testing.T) {
	for _, text := range []string{"a.password: {type: int, default: hunter2}", "a.b: {type: int, default: hunter2, secret: true}"} {
		_, err := Read(write(t, map[string]string{"a.yaml": text}))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func parse(t *testing.T, text string) *metadata.Object {
	t.Helper()
	v, err := metadata.Parse("metadata", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v.(*metadata.Object)
}

const redis = `
redis.port: {type: int, default: 6379}
redis.password: {type: string, required: true, secret: true}
redis.hosts: {type: list}
redis.hosts[]: {type: netaddress}
servers[].name: {type: string, required: true}
servers[].tags: {type: object}
extra: {type: object}
`

func TestValidate(t *testing.T) {
	s := read(t, redis)
	for doc, want := range map[string]string{
		`{"redis": {"password": "x"}}`:  "",
		`{}`:                            "redis.password is not there",
		`{"redis": {"password": null}}`: "redis.password is not there",
		`{"redis": {"password": "x", "port": "6380"}}`:                 "",
		`{"redis": {"password": "x", "port": "6380x"}}`:                "redis.port is text, not of type int",
		`{"redis": {"password": "x", "port": 1.5}}`:                    "redis.port is a number, not of type int",
		`{"redis": {"password": "x", "port": true}}`:                   "redis.port is true or false, not of type int",
		`{"redis": {"password": ["x"]}}`:                               "redis.password is a list, not of type string",
		`{"redis": {"password": "x", "hosts": ["a", "b c", 7]}}`:       "redis.hosts.1 is text, not of type netaddress",
		`{"redis": {"password": "x"}, "servers": [{"name": "a"}]}`:     "",
		`{"redis": {"password": "x"}, "servers": [{"name": "a"}, {}]}`: "servers.1.name is not there",
		`{"redis": "x"}`: "redis is text, not of type object; redis.password is not there",
	} {
		var got []string
		for _, p := range s.Validate(parse(t, doc)) {
			got = append(got, p.Key+" "+p.What)
			if !strings.Contains(p.String(), "a.yaml:") {
				t.Errorf("%s: no place in %q", doc, p)
			}
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%s: %q; want %q", doc, got, want)
		}
	}
}

// What has keys below it is an object or a list, and what is required is so
// however far below an item.
func TestValidateAbove(t *testing.T) {
	s := read(t, "servers[].tls.cert: {required: true}\nl[].name: {type: string}\nm[][].x: {type: int}\nany: {doc: d}\nany.a.b: {}\n")
	for doc, want := range map[string]string{
		`{}`: "",
		`{"servers": [{"n": 1}, {"tls": null}, {"tls": "x"}, {"tls": {"cert": 1}}, null]}`: "servers.2.tls is text, not of type object; " +
			"servers.0.tls.cert is not there; servers.1.tls.cert is not there; servers.2.tls.cert is not there; servers.4.tls.cert is not there",
		`{"servers": {"tls": {"cert": 1}}}`: "servers is an object, not of type list",
		`{"servers": null}`:                 "",
		`{"l": "s"}`:                        "l is text, not of type list",
		`{"l": {"name": "s"}}`:              "l is an object, not of type list",
		`{"l": ["s", {"name": 1}]}`:         "l.0 is text, not of type object; l.1.name is a number, not of type string",
		`{"m": [1, [1, {"x": 1}], null]}`:   "m.0 is a number, not of type list; m.1.0 is a number, not of type object",
		`{"any": 1}`:                        "any is a number, not of type object",
		`{"any": {"a": []}}`:                "any.a is a list, not of type object",
	} {
		var got []string
		for _, p := range s.Validate(parse(t, doc)) {
			got = append(got, p.Key+" "+p.What)
		}
		if diff := cmp.Diff(want, strings.Join(got, "; ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", doc, diff)
		}
	}
}

func TestDefaults(t *testing.T) {
	s := read(t, "a.b: {default: 1}\na.c: {default: [x, 1.5, {k: false}]}\nd: {type: bool, default: false}\n")
	for doc, want := range map[string]string{
		`{}`:                             `{"a": {"b": 1, "c": ["x", 1.5, {"k": false}]}, "d": false}`,
		`{"a": {"b": 2}, "d": true}`:     `{"a": {"b": 2, "c": ["x", 1.5, {"k": false}]}, "d": true}`,
		`{"a": {"b": null}, "d": true}`:  `{"a": {"b": 1, "c": ["x", 1.5, {"k": false}]}, "d": true}`,
		`{"a": "not an object", "d": 0}`: `{"a": "not an object", "d": 0}`,
	} {
		given := parse(t, doc)
		before := metadata.JSON(given)
		if diff := cmp.Diff(want, metadata.JSON(s.WithDefaults(given))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", doc, diff)
		}
		if metadata.JSON(given) != before {
			t.Errorf("%s: the metadata themselves changed", doc)
		}
	}
	var none *Schema
	if doc := parse(t, `{"a": 1}`); none.WithDefaults(doc) != doc || none.Validate(doc) != nil {
		t.Error("no schema says something")
	}
}

func TestBadSchemas(t *testing.T) {
	for text, want := range map[string]string{
		"a: {type: intt}":                                   `a.yaml:1: key a: no such type: "intt"`,
		"a: {tpye: int}":                                    `a.yaml:1: unknown field "tpye"`,
		"\na.b: {type: int, default: x}":                    "a.yaml:2: key a.b: its default is not of type int",
		"a: {secret: true}\na.n: {type: int, default: x22}": "a.yaml:2: key a.n: its default is not of type int",
		"a: {required: true, default: 1}":                   "need not be required",
		"a b: {}":                                           "a key is written a.b",
		"a[].b: {default: 1}":                               "an item of a list has no default",
		"a: {type: int}\na.b: {type: int}":                  "a.yaml:2: key a.b: a is of type int",
		"a: {type: object}\na[].b: {type: int}":             "so it has no such part",
		"a: {default: [1]}\na[]: {type: bool}":              "a.yaml:1: key a: its default is wrong: a.0 is a number, not of type bool",
		"a: {default: 1}\na.b: {}":                          "a.yaml:1: key a: its default is wrong: a is a number, not of type object",
		"a[].b: {}\na.c: {}":                                "a.yaml:1: key a[].b: a is of type object for another key (",
		"- a":                                               "a.yaml:1: ",
		"a: {type: bool, default: \"false\"}":               "is not of type bool",
		"a: {default: .nan}":                                "a.yaml:1: key a: default: a value that JSON has not: NaN",
		"a: {default: [1, -.inf]}":                          "a value that JSON has not: -Inf",
	} {
		_, err := Read(write(t, map[string]string{"a.yaml": text}))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %s", text, err, want)
		}
		if hint := command.HintOf(err); !strings.Contains(hint, "docs/templates.md") || command.Status(err) != 2 {
			t.Errorf("%q: status %d, hint %s", text, command.Status(err), hint)
		}
	}
	read(t, "a: {default: {x: 1}}\na.x: {}\nab: {required: true}") // ab is not below a
	if _, err := Read(write(t, map[string]string{"a.yaml": "k: {type: int}", "b.yaml": "k: {type: int}"})); err != nil {
		t.Errorf("twice the same: %v", err)
	}
	if _, err := Read(write(t, map[string]string{"a.yaml": "k: {type: int}", "b.yaml": "k: {type: bool}"})); err == nil || !strings.Contains(err.Error(), "b.yaml:1: key k: is another in") {
		t.Errorf("twice another: %v", err)
	}
}

func TestResolve(t *testing.T) {
	s := read(t, redis)
	for _, c := range []struct{ key, within, want string }{
		{"redis.port", "", "redis.port"},
		{"redis.prot", "", "unknown"},
		{"redis", "", "redis"},
		{"other.key", "", ""},
		{"other", "", ""},
		{"port", "redis", "redis.port"},
		{"prot", "redis", ""}, // might be any outer key
		{".", "redis.hosts", "redis.hosts[]"},
		{"name", "servers", "servers[].name"},
		{"redis.port", "servers", "redis.port"},
		{"tags.any", "servers", "servers[].tags.any"},
		{"extra.deep.key", "", "extra.deep.key"},
		{"name", "unknown", ""},
		{"name", "servers redis servers", "servers[].name"},
		{"port", "redis servers redis", "redis.port"},
		{".", "extra", "extra"},
	} {
		var within *template.Section
		for _, key := range strings.Fields(c.within) {
			within = &template.Section{Key: key, Outer: within}
		}
		got, ok := s.Resolver().Resolve(c.key, within)
		if !ok {
			got = "unknown"
		}
		if got != c.want {
			t.Errorf("%s within %q: %q; want %q", c.key, c.within, got, c.want)
		}
	}
	if near := s.Near("redis.prot"); near != "redis.port" {
		t.Errorf("near redis.prot is %q", near)
	}
}

// Sections inside each other take no longer than beside each other.
func TestResolveNested(t *testing.T) {
	s := read(t, "a: {type: any}\nb.c: {type: int}\nb.b: {type: object}\n")
	var within *template.Section
	r := s.Resolver()
	for i := range 3000 {
		within = &template.Section{Key: []string{"a", "b"}[i%2], Outer: within}
		if _, ok := r.Resolve("c", within); !ok {
			t.Fatal(i)
		}
	}
	if name, ok := r.Resolve("c", within); name != "b.c" || !ok {
		t.Errorf("%q, %t", name, ok)
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]string{
		"0": "int number", "-1": "int number", "10": "int number", "-0": "number", "01": "", "-": "", "": "", "+1": "",
		"1.5": "number", "1e5": "number", "1E-05": "number", "-0.0": "number", "1.": "", ".5": "", "1e": "", "1e+": "",
		"0x10": "", "1_0": "", "1/2": "", "NaN": "", "Infinity": "", "1e5x": "", " 1": "", "00.5": "", "1.5.5": "",
		strings.Repeat("9", 4<<20): "int number", strings.Repeat("9", 4<<20) + "x": "",
	} {
		var got []string
		for _, typeName := range []string{"int", "number"} {
			if ofType(text, typeName) {
				got = append(got, typeName)
			}
			if ofType(metadata.Number(text), typeName) != ofType(text, typeName) {
				t.Errorf("%.9s: text is otherwise than a number", text)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%.9s is %q; want %q", text, got, want)
		}
	}
}

func TestSecret(t *testing.T) {
	s := read(t, "a.b: {secret: true}\nl[].p: {secret: true}\nc: {type: int}\nx[]: {secret: true}\n")
	for key, want := range map[string]bool{"a.b": true, "a.b.c.d": true, "a.bc": false, "a": false, "b": false, "l.p": true, "l": false, "c": false, "x": true} {
		if s.Secret(key) != want {
			t.Errorf("%s: want %t", key, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(redis)
	f.Add("a: {default: [1, {b: 2}]}\na[]: {type: list}\na[][]: {type: int}")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Read(write(t, map[string]string{"a.yaml": text}))
		if err != nil {
			return
		}
		doc := s.WithDefaults(&metadata.Object{})
		for _, p := range s.Validate(doc) {
			if p.What != "is not there" {
				t.Errorf("the defaults are wrong: %s", p)
			}
		}
	})
}

// As many keys as docs/performance.md measures templates with.
func BenchmarkSchema(b *testing.B) {
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "service%d.port%d: {type: int, default: %d}\n", i%50, i, i)
	}
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Read(dir)
		if err != nil {
			b.Fatal(err)
		}
		if p := s.Validate(s.WithDefaults(&metadata.Object{})); p != nil {
			b.Fatal(p)
		}
		if _, ok := s.Resolver().Resolve("service1.prot", nil); ok {
			b.Fatal("found")
		}
	}
}
