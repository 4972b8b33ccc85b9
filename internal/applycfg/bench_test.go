package applycfg

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bed is 500 templates, and a document of 5,000 keys that they read.
func bed(b *testing.B) (templates string, s Sources) {
	b.Helper()
	dir := b.TempDir()
	doc := []string{}
	for i := range 500 {
		var values, body strings.Builder
		fmt.Fprintf(&body, "# service %d\n", i)
		for j := range 8 {
			fmt.Fprintf(&values, `"k%d": "value %d of %d", `, j, j, i)
			fmt.Fprintf(&body, "k%d = {{s%d.k%d}}\n", j, i, j)
		}
		fmt.Fprintf(&body, "{{#s%d.list}}\nitem {{.}}\n{{/s%d.list}}\n{{^s%d.none}}default\n{{/s%d.none}}\n%s", i, i,
			i, i, strings.Repeat("a line that stays\n", 4))
		doc = append(doc, fmt.Sprintf(`"s%d": {%s"list": [1, 2, 3], "on": true}`, i, values.String()))
		path := filepath.Join(dir, "t", fmt.Sprintf("etc/d%d/f%d.conf", i%50, i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body.String()), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	m := filepath.Join(dir, "m.json")
	if err := os.WriteFile(m, []byte("{"+strings.Join(doc, ", ")+"}"), 0o644); err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir, "t"), Sources{Files: []string{m}}
}

func run(b *testing.B, templates string, s Sources, out string) {
	b.Helper()
	doc, err := s.Load()
	if err != nil {
		b.Fatal(err)
	}
	files, err := Templates{Dir: templates}.Render(b.Context(), doc)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := (Output{Dir: out}).Apply(b.Context(), files); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkFresh(b *testing.B) {
	templates, s := bed(b)
	for b.Loop() {
		run(b, templates, s, b.TempDir())
	}
}

func BenchmarkUnchanged(b *testing.B) {
	templates, s := bed(b)
	out := b.TempDir()
	run(b, templates, s, out)
	for b.Loop() {
		run(b, templates, s, out)
	}
}

func BenchmarkKey(b *testing.B) {
	_, s := bed(b)
	for b.Loop() {
		doc, err := s.Load()
		if err != nil {
			b.Fatal(err)
		}
		if _, ok, err := Key(doc, "s7.k3", "raw"); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
