package template

// Use is a tag of a template that reads a key.
type Use struct {
	Key  string // as it is written: dotted, or "." for the current item
	Line int    // from 1
	// Kind is 'v' for a value, '#' for a section, '^' for an inverted one.
	Kind byte
	// Within is the innermost section around it; nil is none. Those that are
	// inverted are left out, as they give no frame.
	Within *Section
}

// Section is a section around a tag. All tags of a section share one.
type Section struct {
	Key   string
	Outer *Section // nil is none
}

// Uses lists the keys that a template reads, in the order of its text. What
// partials read is not among them.
func (t *Template) Uses() []Use { return t.uses(nil, t.first, len(t.nodes), nil) }

func (t *Template) uses(all []Use, first, end int, within *Section) []Use {
	for i := first; i < end; i++ {
		n := &t.nodes[i]
		use := Use{n.text.of(t.text), int(n.line), n.kind, within}
		switch n.kind {
		case 'v', '&':
			use.Kind = 'v'
			all = append(all, use)
		case '#', '^':
			inside := within
			if n.kind == '#' {
				inside = &Section{use.Key, within}
			}
			all = t.uses(append(all, use), int(n.more.from), int(n.more.to), inside)
			i = int(n.more.to) - 1
		}
	}
	return all
}
