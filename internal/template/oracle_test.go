package template

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"goldsmith/internal/metadata"
	"goldsmith/internal/testenv"
)

var exhaustive = flag.Bool("exhaustive", false, "compare all cases with the original, not a sample")

// server is os-apply-config's renderer, which answers one line for each: the
// rendered text, or null for an error.
const server = `
import json, os, sys
import logging
logging.FileHandler = lambda *a: logging.NullHandler()
from os_apply_config import apply_config, collect_config, renderers
partials = {}
class R(renderers.JsonRenderer):
    def __init__(self): super().__init__(missing_tags='ignore', partials=partials)
for line in sys.stdin:
    case = json.loads(line)
    partials.clear()
    partials.update(case['partials'])
    try:
        doc = collect_config.merge_configs([json.loads(case['doc'])])
        out = R().render(case['template'].replace('\r\n', '\n').replace('\r', '\n'), doc)
        out.encode('utf-8')
    except Exception as e:
        out = None
    print(json.dumps(out), flush=True)
`

type original struct {
	in  io.Writer
	out *bufio.Reader
}

func startOriginal(t testing.TB) *original {
	t.Helper()
	testenv.Need(t, "os-apply-config")
	cmd := exec.Command("/usr/bin/python3", "-c", server)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return &original{in, bufio.NewReader(out)}
}

type oracleCase struct {
	Template string            `json:"template"`
	Doc      string            `json:"doc"`
	Partials map[string]string `json:"partials"`
}

// render returns nil for an error.
func (o *original) render(t testing.TB, c oracleCase) *string {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.in.Write(append(b, '\n')); err != nil {
		t.Fatal(err)
	}
	line, err := o.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var out *string
	if err := json.Unmarshal(line, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// ours is what this package makes of a case, as os-apply-config's renderer
// gets it; the error is nil where the original's would be.
func ours(c oracleCase, parse func(string, string) (*Template, error)) (string, error) {
	doc, err := metadata.Parse("doc", []byte(c.Doc))
	if err != nil {
		return "", err
	}
	o, _ := doc.(*metadata.Object)
	t, err := parse("t", strings.ReplaceAll(strings.ReplaceAll(c.Template, "\r\n", "\n"), "\r", "\n"))
	if err != nil {
		return "", err
	}
	b, err := t.Render(metadata.Merge(o), Options{Text: metadata.JSON, Partial: func(n string) (string, bool, error) {
		text, ok := c.Partials[n]
		return text, ok, nil
	}})
	if err == nil && !utf8.Valid(b) {
		err = errors.New("half a surrogate pair")
	}
	return string(b), err
}

// compare renders a case with both. Refused says that the original does,
// stricter that only Parse does.
func (o *original) compare(t testing.TB, c oracleCase) (refused, stricter bool) {
	t.Helper()
	got, err := ours(c, ParseOriginal)
	if err != nil && strings.Contains(err.Error(), " more than ") {
		t.Skip("the original would go on for long")
	}
	want := o.render(t, c)
	if (err != nil) != (want == nil) || want != nil && got != *want {
		t.Errorf("%+q = %q, %v; the original: %s", c, got, err, show(want))
	}
	got, err = ours(c, Parse)
	if err == nil && (want == nil || got != *want) && !emptyComment(c) {
		t.Errorf("%+q = %q; the original: %s", c, got, show(want))
	}
	return want == nil, want != nil && err != nil
}

// emptyComment is what ours reads otherwise, without a word.
func emptyComment(c oracleCase) bool {
	return strings.Contains(strings.Join(strings.Fields(c.Template+c.Partials["p"]), ""), "!")
}

func show(s *string) string {
	if s == nil {
		return "an error"
	}
	b, _ := json.Marshal(*s)
	return string(b)
}

// pieces are what templates are generated of.
var pieces = []string{
	"a", " ", "  ", "\t", "\n", "\n", "\n\n", "\r\n", "\r", "é", "\u00a0", "\u2028", "=", "#", "!", "|", "{{n}}",
	"{{s}}", "{{ o.p.q }}", "{{.}}",
	"{{null}}", "{{{l}}}", "{{&f}}", "{{big}}", "{{fl}}", "{{u}}", "{{o}}", "{{ns}}", "{{z}}", "{{l.0}}", "{{#l}}",
	"{{/l}}", "{{#os}}", "{{/os}}",
	"{{^x}}", "{{/x}}", "{{#o}}", "{{k}}", "{{/o}}", "{{#ns}}", "{{/ns}}", "{{^ns}}", "{{#ll}}", "{{#.}}", "{{/.}}",
	"{{/ll}}", "{{#s}}", "{{/s}}",
	"{{! c }}", "{{!\nc\n}}", "{{=<% %>=}}", "<%n%>", "<%={{ }}=%>", "<%#l%>", "<%/l%>", "{{=| |=}}", "|n|",
	"|={{ }}=|", "{{= =}}", "{{=a=}}",
	"{{", "}}", "{{{k", "}}}", "{", "}", "{{}}", "{{ }}", "{{#}}", "{{!}}", "{{> }}", "{{#l}}{{.}}{{/l}}\n", "{{>p}}",
	"  {{>p}}\n", "{{>none}}",
	"{{{\n", "{{=\n", "=}}", "{{#l}}\n", "{{/l}}\n", "  {{^x}}\n", "\t{{/x}}\n", "{{#o}}{{#p}}{{q}}{{k}}{{/p}}{{/o}}",
	"{{..}}", "{{.k}}", "{{o.}}", "{{o. p}}",
}

const oracleDoc = `{"s":"<&\">","e":"","n":5,"z":0,"t":true,"f":false,"null":null,"l":[1,2],"el":[],"eo":{},"u":"é\u0001\ud83d\ude00",
	"o":{"k":"in","null":null,"p":{"q":"deep"}},"k":"out","os":[{"k":"a"},{"x":1},{"k":null}],"ll":[[1,2],[3]],"ns":[null,0,"x"],
	"big":123456789012345678901234567890,"fl":[1e3,1e16,1e-5,-0.0,0.1,1E400,NaN,-0],"":{"":"empty","k":"e"}," ":"blank"}`

// TestOracleTemplates renders generated templates with the original and with
// ours, both ways of parsing.
func TestOracleTemplates(t *testing.T) {
	o := startOriginal(t)
	n := 4000
	if *exhaustive {
		n = 100000
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var gen func(most int) string
	gen = func(most int) string {
		var b strings.Builder
		for range 1 + rnd.IntN(most) {
			piece := pieces[rnd.IntN(len(pieces))]
			if rnd.IntN(4) == 0 { // a whole section
				head, key := []string{"{{#", "{{^"}[rnd.IntN(2)], []string{"l", "os", "x", "o", "ns", "ll", ".",
					"k"}[rnd.IntN(8)]
				eol := []string{"", "\n", "\n  ", " "}[rnd.IntN(4)]
				piece = eol + head + key + "}}" + eol + gen(most/3+1) + eol + "{{/" + key + "}}" + eol
			} else if rnd.IntN(8) > 0 { // nothing that breaks it
				piece = pieces[16+rnd.IntN(14)] + pieces[rnd.IntN(16)]
			}
			b.WriteString(piece)
		}
		return b.String()
	}
	row := testenv.Row{Matter: "os-apply-config: templates, generated", Sample: !*exhaustive}
	stricter := 0
	for range n {
		p := ""
		if rnd.IntN(2) == 0 {
			p = strings.ReplaceAll(gen(6), "{{>p}}", "")
		}
		refused, strict := o.compare(t, oracleCase{gen(16), oracleDoc, map[string]string{"p": p}})
		switch {
		case refused:
			row.Refused++
		case strict:
			stricter++
		default:
			row.Equal++
		}
	}
	row.Different = []testenv.Difference{{Cases: stricter,
		Why: "by our own name only: a section that is never closed, a tag without a key"}}
	if row.Equal < n/4 {
		t.Errorf("only %d of %d compared", row.Equal, n)
	}
	testenv.Proof(t, row)
}

// FuzzOriginal compares any template with any document.
func FuzzOriginal(f *testing.F) {
	for _, p := range pieces {
		f.Add("x"+p+"\n{{k}}", oracleDoc, "{{n}}\n\nq")
	}
	f.Add("{{a}}{{#a}}{{.}}{{/a}}", `{"a":[1e22,1.5e-7,"\ud800",{"b":"\udc00\ud800"}],"a":{"x":"\ud83d\ude00"}}`, "")
	o := startOriginal(f)
	f.Fuzz(func(t *testing.T, tmpl, doc, partial string) {
		if !utf8.ValidString(tmpl) || !utf8.ValidString(doc) || !utf8.ValidString(partial) || len(doc) > 2000 {
			t.Skip()
		}
		if strings.Contains(partial, "p") && strings.Contains(partial, ">") || deep(tmpl+partial) || deep(doc) {
			t.Skip() // ours goes deeper
		}
		c := oracleCase{tmpl, doc, map[string]string{"p": partial}}
		start := time.Now()
		_, _ = ours(c, ParseOriginal)
		if time.Since(start) > 10*time.Millisecond {
			t.Skip() // a minute there
		}
		o.compare(t, c)
	})
}

func deep(s string) bool {
	return strings.Count(s, "#") > 80 || strings.Count(s, "^") > 80 || strings.Count(s, "[")+strings.Count(s, "{") > 200
}
