package initramfs

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Plan tells /init which modules there are and what the state partition
// holds. Module names are spelled with underscores, as the kernel prints them.
//
// Its file form has one statement a line, words separated by single spaces:
//
//	kernel VERSION              that the modules are for
//	module NAME [DEP…]          a module in /modules/NAME.ko and what it needs
//	before NAME [DEP…]          what should be loaded before it but may fail
//	alias PATTERN NAME          devices it drives, as in modules.alias
//	load NAME                   load it whatever the devices are
//	state PATH                  a directory kept on the state partition
//	live WHERE                  a live system, whose root is WHERE: see [Live]
type Plan struct {
	Kernel  string
	Modules map[string]*Module
	Aliases []Alias // in the order of modules.alias
	Load    []string
	State   []string
	Live    Live // empty: not a live system
}

// Module is what one module needs, by direct dependency.
type Module struct {
	Needs  []string // must be loaded before
	Before []string // should be loaded before (softdep)
}

// Alias says that a module drives the devices whose modalias matches Pattern,
// an fnmatch(3) pattern.
type Alias struct {
	Pattern string
	Module  string
}

// Marshal renders the file form.
func (p *Plan) Marshal() []byte {
	var b bytes.Buffer
	line := func(words ...string) { fmt.Fprintln(&b, strings.Join(words, " ")) }
	line("kernel", p.Kernel)
	for _, name := range slices.Sorted(maps.Keys(p.Modules)) {
		m := p.Modules[name]
		line(append([]string{"module", name}, m.Needs...)...)
		if len(m.Before) > 0 {
			line(append([]string{"before", name}, m.Before...)...)
		}
	}
	for _, a := range p.Aliases {
		line("alias", a.Pattern, a.Module)
	}
	for _, l := range p.Load {
		line("load", l)
	}
	for _, s := range p.State {
		line("state", s)
	}
	if p.Live != "" {
		line("live", string(p.Live))
	}
	return b.Bytes()
}

func (p *Plan) path(module string) string { return "modules/" + module + ".ko" }
