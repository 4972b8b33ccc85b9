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
func (t *Template) Uses() []Use { return uses(nil, t.nodes, nil) }

func uses(all []Use, nodes []node, within *Section) []Use {
	for i := range nodes {
		n := &nodes[i]
		switch n.kind {
		case 'v', '&':
			all = append(all, Use{n.text, n.line, 'v', within})
		case '^':
			all = append(all, Use{n.text, n.line, '^', within})
			all = uses(all, n.inner, within)
		case '#':
			all = append(all, Use{n.text, n.line, '#', within})
			all = uses(all, n.inner, &Section{n.text, within})
		}
	}
	return all
}
