package refreshcfg

import (
	"fmt"
	"slices"
	"strings"

	"goldsmith/internal/command"
)

// node is a hook among those of its phase.
type node struct {
	name string
	head Header
	// after are the indices of the hooks that must have ended before, each
	// smaller or larger than the node's own; sorted.
	after []int
	// beside tells whether other hooks may run at the same time.
	beside bool
}

// newGraph orders the hooks of a phase, which are given as they would run one
// by one; dir is their directory. Where serial is set nothing runs beside anything: what a hook says
// it is after only moves it.
func newGraph(dir string, names []string, heads []Header, serial bool) ([]node, error) {
	nodes := make([]node, len(names))
	for i, name := range names {
		n := node{name: name, head: heads[i]}
		if n.head.After == nil {
			for j := range i {
				n.after = append(n.after, j)
			}
		}
		for _, a := range n.head.After {
			if j := slices.Index(names, a); j >= 0 && !slices.Contains(n.after, j) {
				n.after = append(n.after, j)
			}
		}
		slices.Sort(n.after)
		nodes[i] = n
	}
	if loop := findLoop(nodes); loop != nil {
		return nil, command.BadInput(fmt.Errorf("%s: hooks wait for each other: %s", dir, strings.Join(loop, " after ")),
			`mend "after" in their headers; a hook without it is after all hooks before it`)
	}
	if serial {
		chain(nodes)
	}
	if slices.ContainsFunc(heads, func(h Header) bool { return h.After != nil }) {
		r := closure(nodes)
		for i := range nodes {
			for j := range nodes {
				nodes[i].beside = nodes[i].beside || i != j && !r[i][j] && !r[j][i]
			}
		}
	}
	return nodes, nil
}

// chain makes one line of the graph: of those that may run, the first by name.
func chain(nodes []node) {
	last := -1
	done := make([]bool, len(nodes))
	for range nodes {
		for i := range nodes {
			if done[i] || slices.ContainsFunc(nodes[i].after, func(a int) bool { return !done[a] }) {
				continue
			}
			done[i] = true
			if last >= 0 && !slices.Contains(nodes[i].after, last) {
				nodes[i].after = append(nodes[i].after, last)
				slices.Sort(nodes[i].after)
			}
			last = i
			break
		}
	}
}

// closure tells of each hook which ones it waits for, if only by way of others.
func closure(nodes []node) [][]bool {
	r := make([][]bool, len(nodes))
	for i, n := range nodes {
		r[i] = make([]bool, len(nodes))
		for _, a := range n.after {
			r[i][a] = true
		}
	}
	for k := range nodes {
		for i := range nodes {
			for j := range nodes {
				r[i][j] = r[i][j] || r[i][k] && r[k][j]
			}
		}
	}
	return r
}

// findLoop returns the names of hooks that wait for each other, the first one
// again at the end, or nil.
func findLoop(nodes []node) []string {
	const open, closed = 1, 2
	state := make([]int, len(nodes))
	var trail []int
	var visit func(i int) []string
	visit = func(i int) []string {
		if state[i] == closed {
			return nil
		}
		trail = append(trail, i)
		if state[i] == open {
			var loop []string
			for _, j := range trail[slices.Index(trail, i):] {
				loop = append(loop, nodes[j].name)
			}
			return loop
		}
		state[i] = open
		for _, a := range nodes[i].after {
			if loop := visit(a); loop != nil {
				return loop
			}
		}
		state[i] = closed
		trail = trail[:len(trail)-1]
		return nil
	}
	for i := range nodes {
		if loop := visit(i); loop != nil {
			return loop
		}
	}
	return nil
}

// needs are the hooks that each one waits for directly: those that no other
// that it waits for waits for.
func needs(nodes []node) [][]string {
	r := closure(nodes)
	all := make([][]string, len(nodes))
	for i, n := range nodes {
		for _, a := range n.after {
			if !slices.ContainsFunc(n.after, func(o int) bool { return r[o][a] }) {
				all[i] = append(all[i], nodes[a].name)
			}
		}
	}
	return all
}
