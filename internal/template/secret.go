package template

import (
	"slices"
	"strings"
)

// SecretLines returns the lines of the template that show a secret, each as
// the text before, between and after its tags, so that a line that was
// rendered from other metadata can be told, too. secret says whether one part
// of a dotted key names a secret.
func (t *Template) SecretLines(secret func(part string) bool) [][]string {
	w := &lineWalk{secret: secret, line: []string{""}}
	w.nodes(t.nodes, false)
	w.flush()
	return w.lines
}

type lineWalk struct {
	secret func(string) bool
	lines  [][]string
	line   []string // the one that is being read
	shows  bool     // it shows a secret
}

func (w *lineWalk) nodes(nodes []node, within bool) {
	for i := range nodes {
		n := &nodes[i]
		hidden := within || slices.ContainsFunc(strings.Split(n.text, "."), w.secret)
		switch n.kind {
		case 0:
			w.text(n.text)
		case '#', '^':
			w.gap()
			w.nodes(n.inner, hidden)
			w.gap()
		case 'v', '&':
			w.shows = w.shows || hidden
			w.line = append(w.line, "")
		default:
			w.gap()
		}
	}
}

// gap is where anything may stand, within a line.
func (w *lineWalk) gap() {
	if len(w.line) > 1 || w.line[0] != "" {
		w.line = append(w.line, "")
	}
}

func (w *lineWalk) text(s string) {
	for i, piece := range strings.Split(s, "\n") {
		if i > 0 {
			w.flush()
		}
		w.line[len(w.line)-1] += piece
	}
}

func (w *lineWalk) flush() {
	if w.shows {
		last := len(w.line) - 1
		inner := slices.DeleteFunc(w.line[1:last], func(s string) bool { return s == "" })
		w.lines = append(w.lines, append(append(w.line[:1:1], inner...), w.line[last]))
	}
	w.line, w.shows = []string{""}, false
}
