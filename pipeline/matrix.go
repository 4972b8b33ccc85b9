package pipeline

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxStages bounds the stages of a pipeline, matrices multiplied out.
const maxStages = 500

// axis is one dimension of a matrix.
type axis struct {
	name   string
	values []*yaml.Node
}

// cell is one place in a matrix: its axes in their order, and a value of each.
type cell struct {
	axes   []string
	values map[string]*yaml.Node
}

// with is the cell and one more axis.
func (c cell) with(name string, v *yaml.Node) cell {
	out := cell{append(slices.Clone(c.axes), name), maps.Clone(c.values)}
	if out.values == nil {
		out.values = map[string]*yaml.Node{}
	}
	out.values[name] = v
	return out
}

// fits tells whether the cell has all these values.
func (c cell) fits(values map[string]string) bool {
	for name, v := range values {
		if n := c.values[name]; n == nil || n.Value != v {
			return false
		}
	}
	return true
}

// agrees tells whether two cells have the same values on the axes of both.
func (c cell) agrees(d cell) bool {
	for _, name := range c.axes {
		if v := d.values[name]; v != nil && v.Value != c.values[name].Value {
			return false
		}
	}
	return true
}

// texts are the cell's values; nil without a matrix.
func (c cell) texts() map[string]string {
	if len(c.axes) == 0 {
		return nil
	}
	out := map[string]string{}
	for name, v := range c.values {
		out[name] = v.Value
	}
	return out
}

var unnamed = regexp.MustCompile(`[^a-z0-9]+`)

// of is the name of a stage's cell: smoke-bookworm-uefi.
func (c cell) of(stage string) string {
	for _, name := range c.axes {
		stage += "-" + strings.Trim(unnamed.ReplaceAllString(strings.ToLower(c.values[name].Value), "-"), "-")
	}
	return stage
}

func (c cell) String() string {
	var parts []string
	for _, name := range c.axes {
		parts = append(parts, name+"="+c.values[name].Value)
	}
	return strings.Join(parts, " ")
}

var (
	axisRE  = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	valueRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$`)
)

// axes reads the axes of a matrix, in the file's order.
func (r *reader) axes(m *matrix, at []any) (list []axis) {
	n := resolved(&m.Axes)
	if n.Kind == 0 {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.failLine(n.Line, "axes: expected a mapping from names to lists of values")
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, values := n.Content[i], resolved(n.Content[i+1])
		a := axis{name: key.Value}
		switch {
		case !axisRE.MatchString(key.Value):
			r.failLine(key.Line, "axis %q: a name has lower case letters, digits, '-' and '_', up to 32", key.Value)
			continue
		case slices.ContainsFunc(list, func(b axis) bool { return a.name == b.name }):
			r.failLine(key.Line, "axis %s: there are two", a.name)
			continue
		case values.Kind != yaml.SequenceNode || len(values.Content) == 0:
			r.failLine(key.Line, "axis %s: expected a list of values", a.name)
			continue
		}
		seen := map[string]bool{}
		for _, v := range values.Content {
			v = resolved(v)
			if v.Kind != yaml.ScalarNode || !valueRE.MatchString(v.Value) {
				r.failLine(v.Line, "axis %s: a value has letters, digits, '.', '_', '+' and '-', up to 63", a.name)
				continue
			}
			if seen[v.Value] {
				r.failLine(v.Line, "axis %s: %s is there twice", a.name, v.Value)
				continue
			}
			seen[v.Value] = true
			a.values = append(a.values, v)
		}
		list = append(list, a)
	}
	return list
}

// resolved is what an alias stands for, and any other node itself.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// multiply makes the cells of a matrix: of each of those before, one for every
// value of its axes, less what it excludes, and what it includes.
func (r *reader) multiply(cells []cell, m *matrix, at []any) []cell {
	for _, a := range r.axes(m, at) {
		if len(cells) > 0 && cells[0].values[a.name] != nil {
			r.fail(append(slices.Clone(at), "axes", a.name), "axis %s: the pipeline's matrix has it already", a.name)
			continue
		}
		if len(cells)*len(a.values) > maxStages {
			r.fail(append(slices.Clone(at), "axes", a.name), "the matrix has more than %d cells", maxStages)
			return nil
		}
		var next []cell
		for _, c := range cells {
			for _, v := range a.values {
				next = append(next, c.with(a.name, v))
			}
		}
		cells = next
	}
	if len(cells) == 0 || len(cells[0].axes) == 0 {
		if len(m.Exclude)+len(m.Include) > 0 {
			r.fail(at, "the matrix has no axes")
		}
		return cells
	}
	axes := cells[0].axes
	for i, e := range m.Exclude {
		before := len(cells)
		cells = slices.DeleteFunc(cells, func(c cell) bool { return len(e) > 0 && c.fits(e) })
		if len(cells) == before {
			r.fail(append(slices.Clone(at), "exclude", i), "no cell of the matrix is %s", described(e))
		}
	}
	for i, e := range m.Include {
		c, why := included(axes, e)
		switch {
		case why != "":
			r.fail(append(slices.Clone(at), "include", i), "%s", why)
		case slices.ContainsFunc(cells, func(d cell) bool { return d.fits(e) }):
			r.fail(append(slices.Clone(at), "include", i), "the matrix has the cell %s already", c)
		default:
			cells = append(cells, c)
		}
	}
	if len(cells) == 0 {
		r.fail(at, "the matrix excludes all its cells")
	}
	return cells
}

// included is a further cell, which has a value of every axis.
func included(axes []string, values map[string]string) (cell, string) {
	var c cell
	for _, name := range axes {
		v, ok := values[name]
		if !ok || !valueRE.MatchString(v) || len(values) != len(axes) {
			return c, fmt.Sprintf("a cell to include has a value of each axis and nothing else: %s", strings.Join(axes, ", "))
		}
		n := &yaml.Node{}
		n.SetString(v)
		if numberRE.MatchString(v) {
			n.Tag = "!!int"
		}
		c = c.with(name, n)
	}
	return c, ""
}

func described(values map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		parts = append(parts, name+"="+values[name])
	}
	return strings.Join(parts, " ")
}
