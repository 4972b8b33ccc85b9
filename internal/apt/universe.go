package apt

import (
	"fmt"
	"slices"
	"strings"

	"goldsmith/internal/dpkg"
)

// pkg is a package by its name, with the state that the solver gives it.
type pkg struct {
	name     string
	versions []*version // as the indexes list them
	cand     *version   // what would be installed; nil means nothing can be
	deps     *relations // of cand; nil until they are asked for

	installed bool // before the present step
	marked    bool // is there afterwards
	protected bool // its state may not be changed any more
	auto      bool // nobody asked for it by name
}

// relations are the dependencies of a version.
type relations struct {
	needs    []dpkg.Alternatives // Pre-Depends, then Depends
	excludes []dpkg.Relation     // Conflicts, then Breaks
}

// provider is a package whose candidate provides a name.
type provider struct {
	p       *pkg
	version string // empty means none, which satisfies no versioned dependency
}

// universe is what can be installed.
type universe struct {
	arch      string
	packages  map[string]*pkg
	providers map[string][]provider
	order     []*version     // as the indexes list them
	numbers   map[string]int // see number
}

// newUniverse reads the indexes.
func newUniverse(indexes [][]index, sources []Source, arch string) (*universe, error) {
	u := &universe{arch: arch, packages: map[string]*pkg{}, providers: map[string][]provider{}}
	for i, list := range indexes {
		for _, x := range list {
			err := parseIndex(x.text, arch, func(v *version) error {
				v.source, v.pin = &sources[i], x.pin
				u.add(v)
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", x.url, err)
			}
		}
	}
	for _, p := range u.packages {
		p.cand = p.best()
	}
	return u, u.readProvides()
}

func (u *universe) add(v *version) {
	p := u.packages[v.name]
	if p == nil {
		p = &pkg{name: v.name}
		u.packages[v.name] = p
	}
	p.versions = append(p.versions, v)
	u.order = append(u.order, v)
}

// best is apt's candidate: of the sources that are preferred the newest, the
// first of equal ones.
func (p *pkg) best() *version {
	var best *version
	for _, v := range p.versions {
		if best == nil || v.pin > best.pin || v.pin == best.pin && dpkg.CompareVersions(v.version, best.version) > 0 {
			best = v
		}
	}
	return best
}

func (u *universe) readProvides() error {
	for _, v := range u.order {
		p := u.packages[v.name]
		if p.cand != v {
			continue
		}
		list, err := dpkg.ParseRelations(v.provides)
		if err != nil {
			return fmt.Errorf("package %s: Provides: %w", v.name, err)
		}
		for _, alts := range list {
			u.providers[alts[0].Name] = append(u.providers[alts[0].Name], provider{p, alts[0].Version})
		}
	}
	return nil
}

// relations returns the dependencies of a package's candidate.
func (u *universe) relations(p *pkg) (*relations, error) {
	if p.deps != nil {
		return p.deps, nil
	}
	r := &relations{}
	for _, f := range []struct{ name, value string }{
		{"Pre-Depends", p.cand.preDepends}, {"Depends", p.cand.depends},
		{"Conflicts", p.cand.conflicts}, {"Breaks", p.cand.breaks},
	} {
		list, err := dpkg.ParseRelations(f.value)
		if err != nil {
			return nil, fmt.Errorf("package %s: %s: %w", p.name, f.name, err)
		}
		for _, alts := range list {
			if strings.HasSuffix(f.name, "Depends") {
				r.needs = append(r.needs, alts)
			} else {
				r.excludes = append(r.excludes, alts...)
			}
		}
	}
	p.deps = r
	return r, nil
}

// meets tells whether a version of the relation's own package suffices.
func (u *universe) meets(v *version, r dpkg.Relation) bool {
	switch r.Arch {
	case "", "native", v.arch, u.arch:
	case "any":
		if v.multiArch != "allowed" {
			return false
		}
	default:
		return false
	}
	return r.Allows(v.version)
}

// targets returns the packages whose candidates satisfy a relation, the named
// one first.
func (u *universe) targets(r dpkg.Relation) []*pkg {
	var out []*pkg
	if p := u.packages[r.Name]; p != nil && p.cand != nil && u.meets(p.cand, r) {
		out = append(out, p)
	}
	for _, pr := range u.providers[r.Name] {
		if pr.p.cand != nil && r.Arch != "any" && !slices.Contains(out, pr.p) &&
			(r.Op == "" || pr.version != "" && r.Allows(pr.version)) {
			out = append(out, pr.p)
		}
	}
	return out
}

// number is the order in which apt gets to know a package's name: from its own
// stanza or from another's dependency, whichever comes first. Apt takes the
// last of several providers that are equal otherwise.
func (u *universe) number(name string) int {
	if u.numbers == nil {
		u.numbers = map[string]int{}
		for _, v := range u.order {
			u.meet(v.name)
			for _, field := range []string{v.preDepends, v.depends, v.conflicts, v.breaks,
				v.recommends, v.suggests, v.replaces, v.enhances, v.provides} {
				u.meetAll(field)
			}
		}
	}
	return u.numbers[name]
}

func (u *universe) meet(name string) {
	if _, known := u.numbers[name]; !known {
		u.numbers[name] = len(u.numbers)
	}
}

// meetAll takes the names from a dependency field.
func (u *universe) meetAll(field string) {
	for field != "" {
		i := strings.IndexAny(field, ",|")
		part := field
		if i < 0 {
			field = ""
		} else {
			part, field = field[:i], field[i+1:]
		}
		part = strings.TrimSpace(part)
		if j := strings.IndexAny(part, " (:\n"); j >= 0 {
			part = part[:j]
		}
		if part != "" {
			u.meet(part)
		}
	}
}
