package applycfg

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bed is 500 templates, and a document of 5,000 keys that they read. The first
// key of each template is called first.
func bed(b *testing.B, first string) (templates string, s Sources) {
	b.Helper()
	dir := b.TempDir()
	doc := []string{}
	for i := range 500 {
		var values, body strings.Builder
		fmt.Fprintf(&body, "# service %d\n", i)
		for j := range 8 {
			name := fmt.Sprintf("k%d", j)
			if j == 0 {
				name = first
			}
			fmt.Fprintf(&values, `%q: "value %d of %d", `, name, j, i)
			fmt.Fprintf(&body, "k%d = {{s%d.%s}}\n", j, i, name)
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

func run(b *testing.B, templates string, s Sources, out Output) {
	b.Helper()
	doc, err := s.Load()
	if err != nil {
		b.Fatal(err)
	}
	files, err := Templates{Dir: templates}.Render(b.Context(), doc)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := out.Apply(b.Context(), files); err != nil {
		b.Fatal(err)
	}
}

// cases are without and with a state directory, in which is remembered what is
// public, and without and with a secret in each file.
var cases = []struct {
	name, first string
	state       bool
}{{"plain", "k0", false}, {"state", "k0", true}, {"secrets", "password", true}}

// cpu is the time in which this process has used a processor.
func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkFresh(b *testing.B) {
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			templates, s := bed(b, c.first)
			var used time.Duration
			for b.Loop() {
				out := Output{Dir: b.TempDir()}
				if c.state {
					out.State = b.TempDir() + "/state"
				}
				before := cpu()
				run(b, templates, s, out)
				used += cpu() - before
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

func BenchmarkUnchanged(b *testing.B) {
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			templates, s := bed(b, c.first)
			out := Output{Dir: b.TempDir()}
			if c.state {
				out.State = b.TempDir() + "/state"
			}
			run(b, templates, s, out)
			before := cpu()
			for b.Loop() {
				run(b, templates, s, out)
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

func BenchmarkKey(b *testing.B) {
	_, s := bed(b, "k0")
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
