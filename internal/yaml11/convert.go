package yaml11

import (
	"fmt"
	"math"
	"math/big"
	"slices"

	"gopkg.in/yaml.v3"
)

// converter turns the library's nodes, whose idea of scalars is YAML 1.2's,
// into ours.
type converter struct {
	done map[*yaml.Node]*Node // nil while a node is being converted
	work int                  // pairs that merge keys have copied
}

func newConverter() *converter { return &converter{done: map[*yaml.Node]*Node{}} }

// plain says that a scalar has neither quotes nor a tag.
func plain(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Style == 0 }

func (c *converter) node(n *yaml.Node) (*Node, error) {
	if n.Kind == yaml.AliasNode {
		return c.alias(n)
	}
	if n.Anchor != "" {
		c.done[n] = nil
	}
	out, err := c.fresh(n)
	if err != nil {
		return nil, err
	}
	if out.size > maxValues {
		return nil, at(n.Line, fmt.Sprintf("aliases make more than %d values of this", maxValues), "")
	}
	if n.Anchor != "" {
		c.done[n] = out
	}
	return out, nil
}

func (c *converter) alias(n *yaml.Node) (*Node, error) {
	out, known := c.done[n.Alias]
	if !known || out == nil {
		return nil, at(n.Line, fmt.Sprintf("alias *%s stands inside its own anchor", n.Value), "")
	}
	return out, nil
}

func (c *converter) fresh(n *yaml.Node) (*Node, error) {
	tagged := n.Style&yaml.TaggedStyle != 0
	switch n.Kind {
	case yaml.ScalarNode:
		kind := Text
		if tagged {
			k, ok := tagKinds[n.Tag]
			if !ok {
				return nil, badTag(n)
			}
			kind = k
		} else if plain(n) {
			kind = resolve(n.Value)
		}
		return scalar(kind, n.Value, n.Line)
	case yaml.SequenceNode:
		if tagged && n.Tag != "!!seq" {
			return nil, badTag(n)
		}
		return c.list(n)
	case yaml.MappingNode:
		if tagged && n.Tag != "!!map" {
			return nil, badTag(n)
		}
		return c.mapping(n)
	}
	return nil, at(n.Line, "unexpected kind of node", "")
}

func badTag(n *yaml.Node) error {
	return at(n.Line, fmt.Sprintf("tag %q does not go here", n.Tag), "leave the tag out")
}

func (c *converter) list(n *yaml.Node) (*Node, error) {
	out := &Node{Kind: List, Line: n.Line, size: 1}
	for _, item := range n.Content {
		v, err := c.node(item)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, v)
		out.size = sum(out.size, v.size)
	}
	return out, nil
}

// mapping puts what merge keys bring first, as the original does: a key of
// the mapping itself overrides it and keeps its place.
func (c *converter) mapping(n *yaml.Node) (*Node, error) {
	out := &Node{Kind: Mapping, Line: n.Line, index: map[string]int{}, size: 1}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			continue
		}
		if err := c.merge(out, n.Content[i+1]); err != nil {
			return nil, err
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if isMerge(n.Content[i]) {
			continue
		}
		key, err := c.node(n.Content[i])
		if err != nil {
			return nil, err
		}
		if key.Kind >= List {
			return nil, at(key.Line, key.Kind.String()+" cannot be a key", "quote braces and brackets that are meant as text")
		}
		value, err := c.node(n.Content[i+1])
		if err != nil {
			return nil, err
		}
		out.put(Pair{key, value})
	}
	return out, nil
}

func isMerge(key *yaml.Node) bool {
	return plain(key) && key.Value == "<<" || key.Tag == "!!merge"
}

// merge adds what one "<<" brings: a mapping, or a list of them of which an
// earlier one overrides a later.
func (c *converter) merge(out *Node, value *yaml.Node) error {
	v, err := c.node(value)
	if err != nil {
		return err
	}
	from := []*Node{v}
	if v.Kind == List {
		from = slices.Clone(v.Items)
		slices.Reverse(from)
	}
	for _, m := range from {
		if m.Kind != Mapping {
			return at(m.Line, "<< merges mappings only, this is "+m.Kind.String(), `quote "<<" if it is meant as text`)
		}
		if c.work = sum(c.work, len(m.Pairs)); c.work > maxValues {
			return at(value.Line, fmt.Sprintf("merge keys bring more than %d values", maxValues), "")
		}
		for _, p := range m.Pairs {
			out.put(p)
		}
	}
	return nil
}

// put adds a pair, or replaces the value of the same key.
func (n *Node) put(p Pair) {
	id := p.Key.identity()
	if i, ok := n.index[id]; ok {
		n.size = sum(n.size-n.Pairs[i].Value.size, p.Value.size)
		n.Pairs[i].Value = p.Value
		return
	}
	n.index[id] = len(n.Pairs)
	n.Pairs = append(n.Pairs, p)
	n.size = sum(sum(n.size, 1), p.Value.size)
}

// identity is the same for keys that Python takes for equal: 1, 1.0 and true
// are.
func (n *Node) identity() string {
	var f float64
	switch n.Kind {
	case Null:
		return "null"
	case Bool:
		if n.Bool {
			return "n1"
		}
		return "n0"
	case Int:
		return "n" + n.Int.String()
	case Float:
		f = n.Float
	default:
		return fmt.Sprintf("%d %s", n.Kind, n.Text)
	}
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0) || f != math.Trunc(f):
		return fmt.Sprintf("f%v", f)
	}
	whole, _ := big.NewFloat(f).Int(nil)
	return "n" + whole.String()
}

// sum adds without running over.
func sum(a, b int) int { return int(min(int64(a)+int64(b), math.MaxInt32)) }
