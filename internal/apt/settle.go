package apt

import (
	"fmt"
	"slices"

	"goldsmith/internal/command"
	"goldsmith/internal/dpkg"
)

// repair looks again at packages whose needs were met by something that had to
// go for another's sake: what apt's problem resolver does in the simple cases.
func (s *solver) repair() {
	for range 10 {
		again := false
		for _, name := range s.names() {
			p := s.packages[name]
			if unmet := slices.ContainsFunc(s.deps(p).needs, func(a dpkg.Alternatives) bool { return !s.satisfied(a) }); unmet {
				again = s.satisfy(p, false, true, 0) || again
			}
		}
		if !again {
			return
		}
	}
}

// sweep drops what nobody asked for and nothing needs any more.
func (s *solver) sweep(asked []*pkg) {
	needed := map[*pkg]bool{}
	var visit func(p *pkg)
	visit = func(p *pkg) {
		if !p.marked || needed[p] {
			return
		}
		needed[p] = true
		for _, alts := range s.deps(p).needs {
			for _, r := range alts {
				for _, q := range s.targets(r) {
					visit(q)
				}
			}
		}
	}
	for _, p := range asked {
		visit(p)
	}
	for _, p := range s.packages {
		if p.installed {
			visit(p)
		}
	}
	for _, p := range s.packages {
		p.marked = needed[p]
	}
}

// complete checks the outcome: every need is met and nothing excludes another.
func (s *solver) complete() error {
	if s.err != nil {
		return s.err
	}
	for _, name := range s.names() {
		p := s.packages[name]
		for _, alts := range s.deps(p).needs {
			if !s.satisfied(alts) {
				return s.explain(p, alts, 0)
			}
		}
		for _, r := range s.deps(p).excludes {
			if q := s.excluded(p, r); q != nil {
				return fmt.Errorf("package %s%s cannot be installed with %s%s: it excludes %s",
					p.name, s.wanted(p), q.name, s.wanted(q), r)
			}
		}
	}
	return s.err
}

// wanted says who needs a package that nobody asked for.
func (s *solver) wanted(p *pkg) string {
	if !p.auto {
		return ""
	}
	for _, name := range s.names() {
		q := s.packages[name]
		for _, alts := range s.deps(q).needs {
			if q != p && slices.ContainsFunc(alts, func(r dpkg.Relation) bool { return slices.Contains(s.targets(r), p) }) {
				return " (for " + q.name + ")"
			}
		}
	}
	return ""
}

// explain says why a need is not met: it follows the first alternative to a
// package that is not there.
func (s *solver) explain(p *pkg, alts dpkg.Alternatives, depth int) error {
	r := alts[0]
	head := fmt.Sprintf("package %s%s depends on %s", p.name, s.wanted(p), alts)
	q := s.packages[r.Name]
	switch {
	case q == nil && len(s.providers[r.Name]) == 0:
		return command.BadInput(fmt.Errorf("%s, which no source has", head), "add the source that has it to the mirror")
	case q != nil && len(s.targets(r)) == 0 && !r.Allows(q.best().version):
		return command.BadInput(fmt.Errorf("%s, of which the sources have %s", head, q.best().version),
			"add the source that has it to the mirror")
	}
	if q != nil && depth < 8 {
		if q.cand == nil {
			q.cand = q.best()
		}
		for _, need := range s.deps(q).needs {
			if !s.satisfied(need) && q != p {
				return fmt.Errorf("%s: %w", head, s.explain(q, need, depth+1))
			}
		}
		for _, x := range s.deps(q).excludes {
			if other := s.excluded(q, x); other != nil {
				return fmt.Errorf("%s, which excludes %s, and %s is needed", head, x, other.name)
			}
		}
	}
	return fmt.Errorf("%s, which cannot be installed with the others", head)
}
