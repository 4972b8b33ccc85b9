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
// closed, a tag without a key) [Parse] reports file and line instead;
// [ParseOriginal] does as the original. A template that would take for ever,
// or more memory than a configuration file can need, ends with an error.
// The engine is our own: the dialect differs from mustache's in most of what
// a library would do, and templates are what the product exists for.
package template

import (
	"fmt"
	"strings"
)

// Template is a parsed template. It is not changed by rendering.
type Template struct {
	name     string
	text     string
	nodes    []node
	first    int  // the node that it begins with
	original bool // partials are parsed alike
}

// Options say how values are shown and where partials come from. The zero
// value is usable.
type Options struct {
	// Text writes a value that is neither a string nor nil; nil means
	// fmt.Sprint.
	Text func(any) string
	// Escape changes what {{key}} inserts, and neither {{{key}}} nor
	// {{&key}}; nil means that nothing does, as in the dialect.
	Escape func(string) string
	// Partial returns the text of a partial; nil means that there are none. A
	// partial that is not there renders as nothing.
	Partial func(name string) (text string, ok bool, err error)
	// Strict makes it an error to show a key that is not there, or null.
	Strict bool
}

// Getter is a value with named parts: what a key is looked up in.
type Getter interface {
	Get(key string) (value any, ok bool)
}

// Falsier is a value that knows whether it counts as empty. Values that are
// no Falsier are empty when they are nil, false, "" or an empty []any.
type Falsier interface{ Falsy() bool }

// What rendering may come to. Nothing real comes near.
const (
	maxPartials = 200      // inside each other, so that one that includes itself ends
	maxOutput   = 64 << 20 // bytes
	maxSteps    = 20 << 20 // about ten nanoseconds each
)

// Render returns the rendered template for data, the value that {{.}} means at
// the top. The errors are [*Error], and what [Options.Partial] returns.
func (t *Template) Render(data any, o Options) ([]byte, error) {
	r := &renderer{Options: o, stack: []any{data}, out: make([]byte, 0, len(t.text)+len(t.text)/4)}
	if r.Text == nil {
		r.Text = func(v any) string { return fmt.Sprint(v) }
	}
	err := r.nodes(t, t.first, len(t.nodes))
	return r.out, err
}

// renderer is one rendering.
type renderer struct {
	Options
	out    []byte
	stack  []any // innermost last
	depth  int   // of partials
	steps  int
	parsed map[string]*Template // partials, by name and indent
}

// nodes renders those from first to before end.
func (r *renderer) nodes(t *Template, first, end int) error {
	for i := first; i < end; i++ {
		n := &t.nodes[i]
		text := n.text.of(t.text)
		if err := r.step(t, n, 1+len(r.stack)/4+len(text)/64); err != nil {
			return err
		}
		var err error
		switch n.kind {
		case 0:
			r.out = append(r.out, text...)
		case 'v', '&':
			v := r.lookup(text)
			if v == nil && r.Strict {
				return &Error{t.name, int(n.line), fmt.Sprintf("key %s is not in the metadata", text),
					"give it a value, or ask for it in a section: {{#KEY}}…{{/KEY}}"}
			}
			s := r.show(v)
			if n.kind == 'v' && r.Escape != nil {
				s = r.Escape(s)
			}
			r.out = append(r.out, s...)
		case '^':
			i = int(n.more.to) - 1
			if falsy(r.lookup(text)) {
				err = r.nodes(t, int(n.more.from), int(n.more.to))
			}
		case '#':
			i = int(n.more.to) - 1
			err = r.section(t, n)
		case '>':
			err = r.partial(t, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step bounds time and memory.
func (r *renderer) step(t *Template, n *node, steps int) error {
	if r.steps += steps; r.steps > maxSteps {
		return &Error{t.name, max(int(n.line), 1), fmt.Sprintf("rendering takes more than %d steps", maxSteps),
			"look for lists inside lists"}
	}
	if len(r.out) > maxOutput {
		return &Error{t.name, max(int(n.line), 1), fmt.Sprintf("renders to more than %d MiB", maxOutput>>20),
			"look for lists inside lists"}
	}
	return nil
}

func (r *renderer) section(t *Template, n *node) error {
	v := r.lookup(n.text.of(t.text))
	if falsy(v) {
		return nil
	}
	items, ok := v.([]any)
	if !ok {
		items = []any{v}
	}
	for _, item := range items {
		if err := r.step(t, n, 1); err != nil {
			return err
		}
		r.stack = append(r.stack, item)
		err := r.nodes(t, int(n.more.from), int(n.more.to))
		r.stack = r.stack[:len(r.stack)-1]
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *renderer) partial(t *Template, n *node) error {
	if r.Partial == nil {
		return nil
	}
	if r.depth == maxPartials {
		return &Error{t.name, int(n.line), fmt.Sprintf("partials include each other more than %d deep", maxPartials),
			"a partial that includes itself needs a section that ends it"}
	}
	name, blanks := n.text.of(t.text), n.more.of(t.text)
	id := blanks + name
	p := r.parsed[id]
	if p == nil {
		text, ok, err := r.Partial(name)
		if err != nil || !ok {
			return err
		}
		if err := r.step(t, n, len(text)); err != nil {
			return err
		}
		if p, err = parse(name, indent(text, blanks), t.original); err != nil {
			return err
		}
		if r.parsed == nil {
			r.parsed = map[string]*Template{}
		}
		r.parsed[id] = p
	}
	r.depth++
	err := r.nodes(p, p.first, len(p.nodes))
	r.depth--
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
		if b.Len() > maxText {
			break // parse says so
		}
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
