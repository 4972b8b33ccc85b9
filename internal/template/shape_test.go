package template

import (
	"slices"
	"strings"
	"testing"
)

func shape(t *testing.T, text string) *Shape {
	t.Helper()
	parsed, err := Parse("t", text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Shape(func(key string) bool {
		return strings.Contains(key, "password") || strings.Contains(key, "token") || key == "redis.auth" || key == "key"
	})
}

// What a line with a secret hides of it: "-" nothing, as it can have none.
func TestShapeSecret(t *testing.T) {
	const text = `port {{redis.port}}
password = {{redis.password}};
{{#redis}}
auth {{auth}} for {{user}}
{{/redis}}
[{{#tokens}}{{.}},{{/tokens}}] end
{{^redis.password}}
plain {{port}}
{{/redis.password}}
one {{#redis}}{{#users}}{{name}}:{{auth}} {{/users}}{{/redis}}
k={{#redis.password}}{{.}}{{/redis.password}}{{^redis.password}}none{{/redis.password}}
{{^o.password}}mode = off{{/o.password}}{{#o.password}}mode = {{o.password}}{{/o.password}}
users:{{#l}} {{name}}={{password}}{{/l}}{{^l}} nobody{{/l}}
`
	s := shape(t, text)
	for _, line := range []struct{ line, shown string }{
		{"port 1", "-"}, {"plain 2", "-"}, {"", "-"}, {"other", "-"},
		{"password = x;", "password = "}, {"auth a for b for c", "auth "}, {"[a,b,] end", "["}, {"one x:y z:u ", "one x:"},
		{"k=x", "k="}, {"k=none", "k="}, {"mode = x", "mode = "}, {"mode = off", "mode = "}, {"users: a=b c=d", "users: a="},
		{"users: nobody", "-"}, {"password = the first line of two", "password = "},
	} {
		shown := "-"
		if from, ok := s.Secret(line.line, false); ok {
			shown = line.line[:from]
		}
		if shown != line.shown {
			t.Errorf("Secret(%q) shows %q; want %q", line.line, shown, line.shown)
		}
	}
	if from, ok := s.Secret("port {}", true); !ok || from != 5 {
		t.Errorf("with every value a secret: %d, %v", from, ok)
	}
}

func TestShapePlain(t *testing.T) {
	secrets := shape(t, "port {{port}}\n{{host}}\n- {{item}}\n{{#x}}\n---\n{{/x}}\nauth {{password}}\n{{x}} of me\n")
	without := shape(t, "- {{item}}\n{{x}} of me\n{{host}}\n")
	for _, c := range []struct {
		s    *Shape
		line string
		want bool
	}{
		{secrets, "port 6", true}, {secrets, "anything", false}, {secrets, "- item", false}, {secrets, "---", true}, {secrets, "auth x", false},
		{secrets, "x of me", false}, {without, "x of me", true},
		{without, "- item", true}, {without, "anything", false},
	} {
		if got := c.s.Plain(c.line); got != c.want {
			t.Errorf("Plain(%q) = %v; want %v", c.line, got, c.want)
		}
	}
}

// Whatever a template makes of a secret, the line that shows it is found, and
// nothing of it is in what may be shown.
func FuzzShape(f *testing.F) {
	f.Add("a {{password}}\n", "x", true)
	f.Add("a{{#l}}\n{{password}} {{/l}}{{^l}}b{{/l}}{{v}}c", "x\ny", false)
	f.Fuzz(func(t *testing.T, text, value string, on bool) {
		parsed, err := Parse("t", text)
		if err != nil || len(text) > 10_000 || strings.Contains(text, "SECRET") || strings.Contains(value, "SECRET") {
			return
		}
		s := parsed.Shape(func(key string) bool { return key == "password" })
		data := getter(func(key string) (any, bool) {
			switch key {
			case "password":
				return "SECRET", true
			case "l":
				return []any{value, value}, true
			case "v":
				return value, true
			}
			return on, true
		})
		out, err := parsed.Render(data, Options{})
		if err != nil {
			return
		}
		for line := range strings.Lines(string(out)) {
			at := strings.Index(line, "SECRET")
			if at < 0 {
				continue
			}
			if from, ok := s.Secret(strings.TrimSuffix(line, "\n"), false); !ok || from > at {
				t.Fatalf("%q: %q: Secret = %d, %v; want at most %d", text, line, from, ok, at)
			}
		}
	})
}

type getter func(string) (any, bool)

func (g getter) Get(key string) (any, bool) { return g(key) }

// A template that is made to be slow hides everything in the end.
func TestShapeBounded(t *testing.T) {
	s := shape(t, strings.Repeat("{{#a}}{{b}}x{{/a}}", 5000)+"\n")
	line := strings.Repeat("x", 100_000)
	if _, ok := s.Secret(line, false); !ok {
		t.Error("not hidden")
	}
	if s.Plain(line) || slices.Max([]int{s.left, 0}) > 0 {
		t.Error("not bounded")
	}
}
