package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// A reference in a value stands for another value: "${input.commit}",
// "${matrix.firmware}". "$${" is "${" itself. A value that is one reference and
// nothing else has the type of what it stands for; any other is text.

// scope is what references can name.
type scope struct {
	inputs map[string]*yaml.Node
	matrix map[string]*yaml.Node
	left   *int // nodes and bytes that may still be made
}

// maxExpanded bounds what all stages have together, in values and bytes of text.
const maxExpanded = 2 << 20

var errTooMuch = errors.New("aliases and matrices make too much of this file")

// text puts values into a text.
func (s *scope) text(in string) (string, error) {
	var b strings.Builder
	for rest := in; ; {
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			break
		}
		if i > 0 && rest[i-1] == '$' {
			b.WriteString(rest[:i-1] + "${")
			rest = rest[i+2:]
			continue
		}
		b.WriteString(rest[:i])
		name, after, ok := strings.Cut(rest[i+2:], "}")
		if !ok {
			return "", fmt.Errorf("%q: the reference does not end; \"$${\" is \"${\" itself", in)
		}
		v, err := s.value(name)
		if err != nil {
			return "", err
		}
		b.WriteString(v.Value)
		rest = after
		if *s.left < b.Len() {
			return "", errTooMuch
		}
	}
	*s.left -= b.Len()
	if *s.left < 0 {
		return "", errTooMuch
	}
	return b.String(), nil
}

// value is what a reference stands for.
func (s *scope) value(name string) (*yaml.Node, error) {
	of, key, _ := strings.Cut(name, ".")
	known := map[string]map[string]*yaml.Node{"input": s.inputs, "matrix": s.matrix}[of]
	if v := known[key]; v != nil {
		return v, nil
	}
	switch of {
	case "input":
		return nil, fmt.Errorf("${%s}: the file has no such input%s", name, among(known))
	case "matrix":
		return nil, fmt.Errorf("${%s}: the stage has no such axis%s", name, among(known))
	}
	return nil, fmt.Errorf("${%s}: expected input.NAME or matrix.NAME; \"$${\" is \"${\" itself", name)
}

func among(known map[string]*yaml.Node) string {
	if len(known) == 0 {
		return ""
	}
	return ", but " + strings.Join(slices.Sorted(maps.Keys(known)), ", ")
}

// texts is text for each of several.
func (s *scope) texts(in []string) (out []string, err error) {
	for _, t := range in {
		v, err := s.text(t)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// misplaced is an error at a line.
type misplaced struct {
	line int
	error
}

// node is a copy of a value with what its references and aliases stand for.
// Keys stay as they are.
func (s *scope) node(n *yaml.Node, open map[*yaml.Node]bool) (*yaml.Node, error) {
	if *s.left--; *s.left < 0 {
		return nil, misplaced{n.Line, errTooMuch}
	}
	if n.Kind == yaml.AliasNode {
		if open[n.Alias] {
			return nil, misplaced{n.Line, fmt.Errorf("alias *%s stands inside its own anchor", n.Value)}
		}
		return s.node(n.Alias, open)
	}
	out := *n
	out.Anchor, out.Content = "", nil
	if n.Kind == yaml.ScalarNode {
		return s.scalar(&out)
	}
	if n.Anchor != "" {
		open[n] = true
		defer delete(open, n)
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Kind == yaml.ScalarNode {
			key := *c
			key.Anchor = ""
			out.Content = append(out.Content, &key)
			continue
		}
		v, err := s.node(c, open)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, v)
	}
	return &out, nil
}

func (s *scope) scalar(n *yaml.Node) (*yaml.Node, error) {
	if n.Tag != "!!str" || !strings.Contains(n.Value, "${") {
		return n, nil
	}
	if name, ok := strings.CutPrefix(n.Value, "${"); ok && strings.IndexByte(name, '}') == len(name)-1 {
		v, err := s.value(name[:len(name)-1])
		if err != nil {
			return nil, misplaced{n.Line, err}
		}
		out := *v
		out.Line, out.Column = n.Line, n.Column
		*s.left -= len(v.Value)
		return &out, nil
	}
	t, err := s.text(n.Value)
	if err != nil {
		return nil, misplaced{n.Line, err}
	}
	n.Value, n.Style = t, yaml.DoubleQuotedStyle
	return n, nil
}
