package template

import (
	"slices"
	"strings"
)

// Line is a line of a template that shows a value.
type Line struct {
	// Parts are the text before, between and after its tags, so that a line that
	// was rendered from other metadata can be told, too.
	Parts  []string
	Secret bool // it shows a secret; another may show an object that has one
}

// Lines returns the lines of the template that show values. secret says
// whether a dotted key names a secret; it is asked for keys as they are, and
// below the sections around them.
func (t *Template) Lines(secret func(key string) bool) []Line {
	w := &lineWalk{secret: secret, line: []string{""}}
	w.nodes(t.nodes, nil)
	w.flush()
	return w.lines
}

type lineWalk struct {
	secret func(string) bool
	lines  []Line
	line   []string // the one that is being read
	shows  bool     // it shows a value
	hides  bool     // that is a secret
}

func (w *lineWalk) nodes(nodes []node, sections []string) {
	for i := range nodes {
		n := &nodes[i]
		switch n.kind {
		case 0:
			w.text(n.text)
		case '#', '^':
			w.gap()
			w.nodes(n.inner, append(sections[:len(sections):len(sections)], n.text))
			w.gap()
		case 'v', '&':
			w.shows = true
			w.hides = w.hides || w.hidden(n.text, sections)
			w.line = append(w.line, "")
		default:
			w.gap()
		}
	}
}

// hidden says that a key may be a secret's, whichever of the sections around
// it has it.
func (w *lineWalk) hidden(key string, sections []string) bool {
	if key != "." && w.secret(key) {
		return true
	}
	for from := range sections {
		for to := from + 1; to <= len(sections); to++ {
			path := strings.Join(sections[from:to], ".")
			if key != "." {
				path += "." + key
			}
			if w.secret(path) {
				return true
			}
		}
	}
	return false
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
		w.lines = append(w.lines, Line{append(append(w.line[:1:1], inner...), w.line[last]), w.hides})
	}
	w.line, w.shows, w.hides = []string{""}, false, false
}
