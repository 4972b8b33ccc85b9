package inventory

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Request says what somebody needs. The zero value is content with any node.
type Request struct {
	Node   string   `json:"node,omitempty"` // this one and no other
	Arch   string   `json:"arch,omitempty"`
	CPUs   int      `yaml:"cpus" json:"cpus,omitempty"` // at least
	Memory Bytes    `json:"memory,omitempty"`           // at least
	Disks  int      `json:"disks,omitempty"`            // at least so many,
	Size   Bytes    `json:"size,omitempty"`             // each of this size at least
	Tags   []string `json:"tags,omitempty"`             // all of them
	Boot   string   `json:"boot,omitempty"`             // BootLocal or BootNetwork; empty: either
}

// Refused says of each node why it was not granted.
type Refused struct {
	Reasons map[string][]string // by node
}

func (e *Refused) Error() string {
	if len(e.Reasons) == 0 {
		return "no node: the inventory is empty"
	}
	var t strings.Builder
	t.WriteString("no node fits:")
	for _, name := range slices.Sorted(maps.Keys(e.Reasons)) {
		fmt.Fprintf(&t, "\n    %s: %s", name, strings.Join(e.Reasons[name], "; "))
	}
	return t.String()
}

// Waiting tells whether one of the nodes would do if it were free: asking again
// later may help.
func (e *Refused) Waiting() bool {
	for _, reasons := range e.Reasons {
		if !slices.ContainsFunc(reasons, func(r string) bool { return !strings.HasPrefix(r, busyPrefix) }) {
			return true
		}
	}
	return false
}

// Infra tells whether one of the nodes would do if it were well or free: it is
// the testbed's fault then, and not of who asks.
func (e *Refused) Infra() bool {
	for _, reasons := range e.Reasons {
		if !slices.ContainsFunc(reasons, func(r string) bool {
			return !strings.HasPrefix(r, busyPrefix) && !strings.HasPrefix(r, deadPrefix) && !strings.HasPrefix(r, asidePrefix)
		}) {
			return true
		}
	}
	return false
}

// busyPrefix begins the reasons that pass with time; the others begin those that
// are faults of the testbed.
const (
	busyPrefix  = "not free: "
	deadPrefix  = "not alive: "
	asidePrefix = "in maintenance by "
)

// hardware is the part of what the agent found that requests are about
// (internal/deploy has the whole).
type hardware struct {
	Arch string `json:"arch"`
	CPU  struct {
		Count int `json:"count"`
	} `json:"cpu"`
	Memory Bytes `json:"memory"`
	Disks  []struct {
		Size Bytes `json:"size"`
	} `json:"disks"`
}

// facts are what is known of a node's hardware: what was found, or else what
// was declared.
func (n *Node) facts() hardware {
	h := hardware{Arch: n.Spec.Arch, Memory: n.Spec.Memory}
	h.CPU.Count = n.Spec.CPUs
	for _, d := range n.Spec.Disks {
		h.Disks = append(h.Disks, struct {
			Size Bytes `json:"size"`
		}{d})
	}
	var found hardware
	if n.Hardware == nil || json.Unmarshal(n.Hardware, &found) != nil {
		return h
	}
	return found
}

// Match says why a node does not fit, in the order of what can be done about
// it; nothing means that it fits and is free.
func (r Request) Match(n *Node) []string {
	var no []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			no = append(no, fmt.Sprintf(format, args...))
		}
	}
	h := n.facts()
	large := 0
	for _, d := range h.Disks {
		if d.Size >= r.Size {
			large++
		}
	}
	add(r.Node != "" && r.Node != n.Name, "another node is asked for")
	add(r.Arch != "" && r.Arch != h.Arch, "its architecture is %s", h.Arch)
	add(h.CPU.Count < r.CPUs, "%d CPUs of %d", h.CPU.Count, r.CPUs)
	add(h.Memory < r.Memory, "%v memory of %v", h.Memory, r.Memory)
	add(large < r.Disks, "%d disks of %d of at least %v", large, r.Disks, r.Size)
	for _, t := range r.Tags {
		add(!slices.Contains(n.Spec.Tags, t), "no tag %s", t)
	}
	add(r.Boot != "" && r.Boot != cmp.Or(n.Spec.Boot, BootLocal), "it is one of boot: %s", cmp.Or(n.Spec.Boot, BootLocal))
	if n.Aside != nil {
		add(true, asidePrefix+"%s: %s", n.Aside.Owner, n.Aside.Reason)
	}
	add(!n.Alive, deadPrefix+"%s", cmp.Or(n.AliveReason, "never observed"))
	switch {
	case n.Lease != nil:
		add(true, busyPrefix+"%s has it", n.Lease.Holder)
	case n.State == Cleaning:
		add(true, busyPrefix+"cleaning")
	case n.State.Failure():
		add(true, "%s: %s", n.State, n.Reason)
	case n.State == Discovered && n.Allowed:
		add(true, busyPrefix+"to be inspected")
	case n.State != Available && !n.Allowed:
		add(true, "%s; not allowed by an operator", n.State)
	case n.State != Available:
		add(true, "%s", n.State)
	}
	return no
}

// pick returns the smallest node that fits, so that larger ones stay for those
// who need them.
func (r Request) pick(nodes []*Node) (*Node, error) {
	no := &Refused{Reasons: map[string][]string{}}
	var fit []*Node
	for _, n := range nodes {
		if reasons := r.Match(n); len(reasons) > 0 {
			no.Reasons[n.Name] = reasons
		} else {
			fit = append(fit, n)
		}
	}
	if len(fit) == 0 {
		return nil, no
	}
	return slices.MinFunc(fit, func(a, b *Node) int {
		x, y := a.facts(), b.facts()
		return cmp.Or(cmp.Compare(len(a.Spec.Tags), len(b.Spec.Tags)), cmp.Compare(x.CPU.Count, y.CPU.Count), cmp.Compare(x.Memory, y.Memory),
			cmp.Compare(len(x.Disks), len(y.Disks)), cmp.Compare(a.Name, b.Name))
	}), nil
}
