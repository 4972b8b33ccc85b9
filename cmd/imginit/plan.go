package main

import (
	"fmt"
	"strings"
)

// plan is what internal/initramfs put into /imginit.conf; its format is
// described there. Reading it is done here, without that package and the
// compressors it needs.
type plan struct {
	kernel  string
	modules map[string]*module
	aliases []alias
	load    []string
	state   []string
	live    string // empty, or where a live system's root is: "disk" or "file"
}

type module struct {
	needs  []string // must be loaded before
	before []string // should be loaded before
}

type alias struct{ pattern, module string }

func parsePlan(text string) (*plan, error) {
	p := &plan{modules: map[string]*module{}}
	for i, line := range strings.Split(text, "\n") {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		if len(w) < 2 || !p.statement(w) {
			return nil, fmt.Errorf("%s, line %d: cannot read %q", planFile, i+1, line)
		}
	}
	return p, nil
}

func (p *plan) statement(w []string) bool {
	switch w[0] {
	case "kernel":
		p.kernel = w[1]
	case "module":
		p.modules[w[1]] = &module{needs: w[2:]}
	case "before":
		m := p.modules[w[1]]
		if m == nil {
			return false
		}
		m.before = w[2:]
	case "alias":
		if len(w) != 3 {
			return false
		}
		p.aliases = append(p.aliases, alias{w[1], w[2]})
	case "load":
		p.load = append(p.load, w[1])
	case "state":
		p.state = append(p.state, w[1])
	case "live":
		p.live = w[1]
		return w[1] == liveDisk || w[1] == liveFile
	default:
		return false
	}
	return true
}
