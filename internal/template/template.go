// Package template renders mustache templates in the dialect of
// os-apply-config, which is pystache's without HTML escaping.
//
// {{key}}, {{{key}}} and {{&key}} all insert a value as it is: text as text,
// null and what is missing as nothing, everything else as [Options.Text]
// writes it. {{#key}}…{{/key}} renders its inside once for each item of a
// list and once for anything else that is not empty; {{^key}}…{{/key}} when
// the key is missing or empty. null, false, zero, "" and empty lists and
// objects are empty. Comments, partials and changed delimiters are mustache's;
// there is nothing that runs code.
//
// Where the original loses text without a word (a section that is never
// closed, a tag without a key) this package reports file and line instead.
// The engine is our own: the dialect differs from mustache's in most of what
// a library would do, and templates are what the product exists for.
package template

import (
	"fmt"
	"io"
	"strings"
)

// Template is a parsed template. It is not changed by rendering.
type Template struct {
	name  string
	nodes []node
}

// Options say how values are shown and where partials come from. The zero
// value is usable.
type Options struct {
	// Text writes a value that is neither a string nor nil; nil means
	// fmt.Sprint.
	Text func(any) string
	// Partial returns the text of a partial; nil means that there are none. A
	// partial that is not there renders as nothing.
	Partial func(name string) (text string, ok bool)
}

// Getter is a value with named parts: what a key is looked up in.
type Getter interface {
	Get(key string) (value any, ok bool)
}

// Falsier is a value that knows whether it counts as empty. Values that are
// no Falsier are empty when they are nil, false, "" or an empty []any.
type Falsier interface{ Falsy() bool }

// maxPartials is how deeply partials may include each other, so that one that
// includes itself ends with an error.
const maxPartials = 100

// Render writes the template for data, the value that {{.}} means at the top.
// The errors are w's, and an [*Error] for a broken partial.
func (t *Template) Render(w io.Writer, data any, o Options) error {
	r := &renderer{Options: o, stack: []any{data}}
	if r.Text == nil {
		r.Text = func(v any) string { return fmt.Sprint(v) }
	}
	if err := r.render(t); err != nil {
		return err
	}
	_, err := io.WriteString(w, r.out.String())
	return err
}

// renderer is one rendering.
type renderer struct {
	Options
	out      strings.Builder
	stack    []any // innermost last
	partials int   // how deep
}

func (r *renderer) render(t *Template) error { return r.nodes(t.name, t.nodes) }

func (r *renderer) nodes(name string, nodes []node) error {
	for i := range nodes {
		n := &nodes[i]
		var err error
		switch n.kind {
		case 0:
			r.out.WriteString(n.text)
		case '&':
			r.out.WriteString(r.show(r.lookup(n.text)))
		case '^':
			if falsy(r.lookup(n.text)) {
				err = r.nodes(name, n.inner)
			}
		case '#':
			err = r.section(name, n)
		case '>':
			err = r.partial(name, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *renderer) section(name string, n *node) error {
	v := r.lookup(n.text)
	if falsy(v) {
		return nil
	}
	items, ok := v.([]any)
	if !ok {
		items = []any{v}
	}
	for _, item := range items {
		r.stack = append(r.stack, item)
		err := r.nodes(name, n.inner)
		r.stack = r.stack[:len(r.stack)-1]
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *renderer) partial(name string, n *node) error {
	if r.Partial == nil {
		return nil
	}
	text, ok := r.Partial(n.text)
	if !ok {
		return nil
	}
	if r.partials++; r.partials > maxPartials {
		return &Error{name, n.line, fmt.Sprintf("partials include each other more than %d deep", maxPartials),
			"a partial that includes itself needs a section that ends it"}
	}
	t, err := Parse(n.text, indent(text, n.indent))
	if err == nil {
		err = r.render(t)
	}
	r.partials--
	return err
}

// indent puts blanks before each line that is not empty, as mustache wants it
// done before the partial is parsed.
func indent(text, by string) string {
	if by == "" {
		return text
	}
	var b strings.Builder
	for l := range strings.Lines(text) {
		if l != "\n" {
			b.WriteString(by)
		}
		b.WriteString(l)
	}
	return b.String()
}

// lookup finds a dotted key: the first part in the innermost frame that has
// it, the others strictly below that. nil is missing, and null.
func (r *renderer) lookup(key string) any {
	if key == "." {
		return r.stack[len(r.stack)-1]
	}
	first, rest, dotted := strings.Cut(key, ".")
	var v any
	for i := len(r.stack) - 1; i >= 0; i-- {
		if found, ok := get(r.stack[i], first); ok {
			v = found
			break
		}
	}
	for dotted && v != nil {
		first, rest, dotted = strings.Cut(rest, ".")
		v, _ = get(v, first)
	}
	return v
}

func get(frame any, key string) (any, bool) {
	if g, ok := frame.(Getter); ok {
		return g.Get(key)
	}
	return nil, false
}

func (r *renderer) show(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	return r.Text(v)
}

func falsy(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case Falsier:
		return v.Falsy()
	}
	return false
}
