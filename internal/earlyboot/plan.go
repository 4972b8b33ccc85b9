package earlyboot

import (
	"fmt"
	"strings"
)

// PlanFile is where an initramfs has its plan.
const PlanFile = "/imginit.conf"

// Where a live system's root is; internal/initramfs writes these words.
const (
	LiveDisk = "disk"
	LiveFile = "file"
)

// Plan is what internal/initramfs put into /imginit.conf; its format is
// described there. Reading it is done here, without that package and the
// compressors it needs.
type Plan struct {
	Kernel  string // version that the modules are for
	Modules map[string]*Module
	Aliases []Alias
	Load    []string // modules that every machine loads
	State   []string // directories that the state partition holds
	Live    string   // empty, or where a live system's root is: LiveDisk or LiveFile
}

// Module is what a module wants to have loaded before it.
type Module struct {
	Needs  []string // must be
	Before []string // should be
}

// Alias names the module of devices whose modalias matches the pattern.
type Alias struct{ Pattern, Module string }

// ParsePlan reads a plan.
func ParsePlan(text string) (*Plan, error) {
	p := &Plan{Modules: map[string]*Module{}}
	for i, line := range strings.Split(text, "\n") {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		if len(w) < 2 || !p.statement(w) {
			return nil, fmt.Errorf("%s, line %d: cannot read %q", PlanFile, i+1, line)
		}
	}
	return p, nil
}

func (p *Plan) statement(w []string) bool {
	switch w[0] {
	case "kernel":
		p.Kernel = w[1]
	case "module":
		p.Modules[w[1]] = &Module{Needs: w[2:]}
	case "before":
		m := p.Modules[w[1]]
		if m == nil {
			return false
		}
		m.Before = w[2:]
	case "alias":
		if len(w) != 3 {
			return false
		}
		p.Aliases = append(p.Aliases, Alias{w[1], w[2]})
	case "load":
		p.Load = append(p.Load, w[1])
	case "state":
		p.State = append(p.State, w[1])
	case "live":
		p.Live = w[1]
		return w[1] == LiveDisk || w[1] == LiveFile
	default:
		return false
	}
	return true
}
