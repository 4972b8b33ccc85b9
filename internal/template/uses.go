package template

// Use is a tag of a template that reads a key.
type Use struct {
	Key  string // as it is written: dotted, or "." for the current item
	Line int    // from 1
	// Kind is 'v' for a value, '#' for a section, '^' for an inverted one.
	Kind byte
	// Within are the keys of the sections around it, the outermost first; those
	// that are inverted are left out, as they give no frame.
	Within []string
}

// Uses lists the keys that a template reads, in the order of its text. What
// partials read is not among them.
func (t *Template) Uses() []Use { return uses(nil, t.nodes, nil) }

func uses(all []Use, nodes []node, within []string) []Use {
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
			all = uses(all, n.inner, append(within[:len(within):len(within)], n.text))
		}
	}
	return all
}
