package yaml11

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
)

// canon is a value as text that names kinds: what the oracle prints too.
func canon(n *Node) any {
	switch n.Kind {
	case Null:
		return "null"
	case Bool:
		return fmt.Sprintf("bool:%v", n.Bool)
	case Int:
		return "int:" + n.Int.String()
	case Float:
		return "float:" + n.String()
	case Text:
		return "str:" + n.Text
	case Date:
		return "date"
	case Binary:
		return fmt.Sprintf("bin:%x", n.Text)
	case List:
		out := []any{"list"}
		for _, item := range n.Items {
			out = append(out, canon(item))
		}
		return out
	}
	out := []any{"map"}
	for _, p := range n.Pairs {
		out = append(out, []any{canon(p.Key), canon(p.Value)})
	}
	return out
}

// scalars is the contract's table and the edges around it.
var scalars = []struct{ in, want string }{
	{"0755", "int:493"}, {"0700", "int:448"}, {"0x83", "int:131"}, {"1:30", "int:90"}, {"1_000", "int:1000"},
	{"-0b1_1", "int:-3"}, {"+12", "int:12"}, {"0", "int:0"}, {"00", "int:0"}, {"-0", "int:0"}, {"190:20:30", "int:685230"},
	{"123456789012345678901234567890", "int:123456789012345678901234567890"},
	{"yes", "bool:true"}, {"on", "bool:true"}, {"No", "bool:false"}, {"OFF", "bool:false"}, {"True", "bool:true"},
	{"y", "str:y"}, {"n", "str:n"}, {"tRUE", "str:tRUE"},
	{"2020-01-01", "date"}, {"2001-12-14 21:59:43.10 -5", "date"}, {"2001-1-1", "str:2001-1-1"},
	{"8E00", "str:8E00"}, {"EF00", "str:EF00"}, {"1e3", "str:1e3"}, {"0o17", "str:0o17"}, {"08", "str:08"}, {"0789", "str:0789"},
	{"40G", "str:40G"}, {"100%", "str:100%"}, {"1.8.0", "str:1.8.0"}, {"-.5", "str:-.5"}, {"1.0e3", "str:1.0e3"}, {"+", "str:+"}, {".", "str:."},
	{"1.5", "float:1.5"}, {"3.10", "float:3.1"}, {"1.", "float:1.0"}, {".5", "float:0.5"}, {"1.0e+3", "float:1000.0"}, {"1_0.0_1", "float:10.01"},
	{"1e+30", "str:1e+30"}, {"1.0e+30", "float:1e+30"}, {"1.0e+400", "float:inf"}, {"1:30.5", "float:90.5"},
	{".inf", "float:inf"}, {"-.INF", "float:-inf"}, {"+.inf", "float:inf"}, {".NaN", "float:nan"},
	{"~", "null"}, {"", "null"}, {"NULL", "null"}, {"nUll", "str:nUll"},
	{`"0755"`, "str:0755"}, {"'yes'", "str:yes"}, {"|\n 12\n", "str:12\n"},
	{"!!str 0755", "str:0755"}, {"!!int '0755'", "int:493"}, {"!!float 12", "float:12.0"}, {"!!binary aGk=", "bin:6869"}, {"!!null ''", "null"},
	{"=", "str:="}, {"<<", "str:<<"},
}

func TestScalars(t *testing.T) {
	for _, c := range scalars {
		n, err := Parse("t", []byte("k: "+c.in))
		if err != nil {
			t.Errorf("Parse(%q): %v", c.in, err)
			continue
		}
		if got := canon(n.Get("k")); got != c.want {
			t.Errorf("Parse(%q) = %v; want %v", c.in, got, c.want)
		}
	}
}

var documents = []struct{ name, in, want string }{
	{"the last of equal keys counts, at the first's place", "a: 1\nb: 2\na: 3", "[map [str:a int:3] [str:b int:2]]"},
	{"keys that Python takes for equal", "1: a\ntrue: b\n1.0: c\n'1': d", "[map [int:1 str:c] [str:1 str:d]]"},
	{"anchor and alias", "a: &x [1, yes]\nb: *x", "[map [str:a [list int:1 bool:true]] [str:b [list int:1 bool:true]]]"},
	{"merge", "base: &b {x: 1, y: 2}\nm:\n  y: 3\n  <<: *b\n  z: 4", "[map [str:base [map [str:x int:1] [str:y int:2]]] [str:m [map [str:x int:1] [str:y int:3] [str:z int:4]]]]"},
	{"merge of a list: the earlier overrides", "{<<: [{a: 1}, {a: 2, b: 3}], c: 4}", "[map [str:a int:1] [str:b int:3] [str:c int:4]]"},
	{"quoted merge is a key", "'<<': 1", "[map [str:<< int:1]]"},
	{"empty", "", "null"},
	{"only a comment", "# nothing\n", "null"},
	{"explicit document", "---\na: b\n...\n", "[map [str:a str:b]]"},
	{"nan is one key", ".nan: 1\n.NaN: 2", "[map [float:nan int:2]]"},
	{"null key", "~: 1", "[map [null int:1]]"},
}

func TestDocuments(t *testing.T) {
	for _, c := range documents {
		n, err := Parse("t", []byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := fmt.Sprint(canon(n)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		"a: 1\nb: [":          "f.yaml:2: did not find expected node content",
		"a:\n\tb: 1":          "f.yaml:2: found character that cannot start any token",
		"a: 1\n---\nb: 2":     "f.yaml:2: a second document begins",
		"a: 1\nb: 2020-13-01": `f.yaml:2: "2020-13-01" is not a date`,
		"a: 0b_":              `f.yaml:1: "0b_" is not a whole number`,
		"\n[1]: 2":            "f.yaml:2: a list cannot be a key",
		"a: &x [1, *x]":       "f.yaml:1: alias *x stands inside its own anchor",
		"a: *none":            "f.yaml:1: unknown anchor 'none' referenced",
		"a: '*n' # *n\nb: &n1 1\nc: *n1\nd:\n- [*n1, *n]\ne: *n": "f.yaml:5: unknown anchor 'n' referenced",
		"a: 1\n<<: 2":               "f.yaml:2: << merges mappings only, this is a whole number",
		"a: !!python/object:os.x 1": "f.yaml:1: tag \"!!python/object:os.x\" does not go here",
		"a: !!map [1]":              "f.yaml:1: tag \"!!map\" does not go here",
	} {
		_, err := Parse("f.yaml", []byte(in))
		if err == nil || err.Error() != want {
			t.Errorf("Parse(%q): error %v; want %s", in, err, want)
		}
		if command.Status(err) != command.StatusUsage {
			t.Errorf("Parse(%q): status %d", in, command.Status(err))
		}
	}
}

// Aliases of aliases, and merges of merges, stay bounded in time and size.
func TestBombs(t *testing.T) {
	lists := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		lists += fmt.Sprintf("a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9)+fmt.Sprintf("*a%d", i))
	}
	var merges strings.Builder
	merges.WriteString("a: &a {")
	for i := range 5000 {
		fmt.Fprintf(&merges, "k%d: v, ", i)
	}
	merges.WriteString("}\n")
	for i := range 5000 {
		fmt.Fprintf(&merges, "m%d: {<<: *a}\n", i)
	}
	start := time.Now()
	for name, in := range map[string]string{"aliases make more": lists, "merge keys bring more": merges.String()} {
		if _, err := Parse("f", []byte(in)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := ParseJSONFirst("f.json", []byte(strings.Repeat("[", 100000))); err == nil || !strings.Contains(err.Error(), "nested") {
		t.Errorf("deep JSON: error %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestJSONFirst(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"f.yaml", `{"a": 1e3, "b": [null, true, "yes"], "a": 2}`, "[map [str:a int:2] [str:b [list null bool:true str:yes]]]"},
		{"f.yaml", "{\n\t\"a\": 1}", "[map [str:a int:1]]"},
		{"f.json", `{a: 1e3}`, "[map [str:a str:1e3]]"},
		{"f.json", `"x"`, "str:x"},
		{"f.json", `-12`, "int:-12"},
		{"f.json", `1.5`, "float:1.5"},
	} {
		n, err := ParseJSONFirst(c.name, []byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := fmt.Sprint(canon(n)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.in, got, c.want)
		}
	}
	for in, want := range map[string]string{
		"{\n\"a\": 1,\n\"b\" 2}": "f.json:3: invalid character '2' after object key",
		"{\n\"a\": [\n":          "f.json:2: the JSON value is not complete",
		"{}\n}":                  "f.json:1: something follows the JSON value",
	} {
		if _, err := ParseJSONFirst("f.json", []byte(in)); err == nil || err.Error() != want {
			t.Errorf("%q: error %v; want %s", in, err, want)
		}
	}
}

func TestLinesAndGet(t *testing.T) {
	n, err := Parse("f", []byte("a:\n  b: 1\n  c:\n   - x\n   - {d: 2020-01-01}\n"))
	if err != nil {
		t.Fatal(err)
	}
	d := n.Get("a").Get("c").Items[1].Get("d")
	if d.Line != 5 || d.Text != "2020-01-01" || n.Get("a").Get("b").Line != 2 {
		t.Errorf("lines: %+v", d)
	}
	if n.Get("none").Get("x") != nil || d.Get("x") != nil {
		t.Error("Get of what is not there is not nil")
	}
	if diff := cmp.Diff("None", n.Get("none").String()); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range scalars {
		f.Add("k: " + c.in)
	}
	for _, d := range documents {
		f.Add(d.in)
	}
	f.Add("a: &x [1, *x]")
	f.Add(`{"a": [1, {"b": null}]}`)
	f.Fuzz(func(t *testing.T, in string) {
		for _, parse := range []func(string, []byte) (*Node, error){Parse, ParseJSONFirst} {
			n, err := parse("f", []byte(in))
			if (n == nil) == (err == nil) {
				t.Fatalf("node %v, error %v", n, err)
			}
			if err != nil && (!strings.HasPrefix(err.Error(), "f:") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("error %q", err)
			}
		}
	})
}
