package apt

import (
	"cmp"
	"slices"

	"goldsmith/internal/dpkg"
)

// solver chooses what is installed the way apt 2.6's MarkInstall does
// (apt-pkg/depcache.cc), on a system that has nothing but what an earlier step
// chose. What apt leaves to its problem resolver afterwards is an error here.
type solver struct {
	*universe
	err error // a dependency that cannot be read; ends the work
}

// maxDepth bounds a chain of dependencies.
const maxDepth = 2000

// install is one apt-get install on top of what is installed, with packages in
// the order of its command line.
func (s *solver) install(asked []*pkg) error {
	for _, p := range asked {
		p.protected, p.marked, p.auto = true, true, false
	}
	for _, p := range asked {
		s.mark(p, true, 0)
	}
	s.repair()
	s.sweep(asked)
	if err := s.complete(); err != nil {
		return err
	}
	for _, p := range s.packages {
		p.installed, p.protected = p.marked, false
	}
	return nil
}

// satisfied tells whether something that is there, or will be, suffices.
func (s *solver) satisfied(alts dpkg.Alternatives) bool {
	return slices.ContainsFunc(alts, func(r dpkg.Relation) bool {
		return slices.ContainsFunc(s.targets(r), func(p *pkg) bool { return p.marked })
	})
}

// broken tells whether a need of p is not met, or something that it excludes
// is there.
func (s *solver) broken(p *pkg) bool {
	deps := s.deps(p)
	return slices.ContainsFunc(deps.needs, func(a dpkg.Alternatives) bool { return !s.satisfied(a) }) ||
		slices.ContainsFunc(deps.excludes, func(r dpkg.Relation) bool { return s.excluded(p, r) != nil })
}

func (s *solver) deps(p *pkg) *relations {
	deps, err := s.relations(p)
	if err != nil {
		s.err = cmp.Or(s.err, err)
		return &relations{}
	}
	return deps
}

// excluded returns a package that is there and that p must not be with.
func (s *solver) excluded(p *pkg, r dpkg.Relation) *pkg {
	for _, q := range s.targets(r) {
		if q != p && q.marked {
			return q
		}
	}
	return nil
}

// mark has p installed with all that it needs. It returns false, and p is not
// marked, when that cannot be; one that was asked for stays marked.
func (s *solver) mark(p *pkg, asked bool, depth int) bool {
	switch {
	case s.err != nil || p.cand == nil || depth > maxDepth:
		return false
	case p.protected && !p.marked:
		return false
	case !p.protected && p.marked && !s.broken(p):
		return true
	}
	firm, failed := p.protected, false
	gone, ok := s.exclude(p, firm, asked, depth)
	if !ok {
		if !firm && !asked {
			return false
		}
		failed = true
	}
	if !p.marked {
		p.marked, p.auto = true, !asked
	}
	p.protected = true
	defer func() { p.protected = firm }()
	if !s.satisfy(p, firm, asked, depth) {
		if !firm && !asked {
			s.discard(p)
			return false
		}
		failed = true
	}
	for _, q := range gone {
		if !q.protected && !q.cand.essential {
			q.marked = false
		}
	}
	return !failed
}

// discard gives up a package for good: nothing tries it again.
func (s *solver) discard(p *pkg) {
	p.marked = p.installed
	if !p.installed {
		p.cand = nil
	}
}

// exclude takes away what p must not be with, and where p stays for sure also
// from what could be chosen later. What is installed is returned: it goes when
// p's needs are met.
func (s *solver) exclude(p *pkg, firm, asked bool, depth int) (gone []*pkg, ok bool) {
	ok = true
	for _, r := range s.deps(p).excludes {
		if s.excluded(p, r) == nil && !firm {
			continue
		}
		for _, q := range s.sorted(r) {
			switch {
			case q == p:
			case !s.drop(q, firm, &gone):
				if !firm && !asked {
					return nil, false
				}
				ok = false
			}
		}
	}
	return gone, ok
}

func (s *solver) drop(q *pkg, firm bool, gone *[]*pkg) bool {
	switch {
	case q.marked && (q.protected || q.installed && q.cand.essential):
		return false
	case q.installed && q.marked && !firm:
		*gone = append(*gone, q)
		return true
	}
	q.marked = false
	if firm {
		q.protected = true
		if !q.installed {
			q.cand = nil
		}
	}
	return true
}

// satisfy has what p needs installed.
func (s *solver) satisfy(p *pkg, firm, asked bool, depth int) bool {
	ok := true
	// Needs that were met in the beginning are only looked at for what follows
	// from them for sure.
	var todo []dpkg.Alternatives
	for _, alts := range s.deps(p).needs {
		if firm || !s.satisfied(alts) {
			todo = append(todo, alts)
		}
	}
	for _, alts := range todo {
		if s.satisfied(alts) {
			if firm && !s.propagate(alts, depth) {
				ok = false
			}
			continue
		}
		if !s.choose(alts, firm, depth) {
			ok = false
			if !firm && !asked {
				return false
			}
		}
	}
	return ok
}

// propagate protects the only package that meets a need.
func (s *solver) propagate(alts dpkg.Alternatives, depth int) bool {
	all := s.solutions(alts)
	only := all[0]
	if only.protected || slices.ContainsFunc(all, func(p *pkg) bool { return p != only }) {
		return true
	}
	only.protected = true
	return s.mark(only, false, depth+1)
}

// choose tries the packages that meet a need in their order.
func (s *solver) choose(alts dpkg.Alternatives, firm bool, depth int) bool {
	solutions := s.solutions(alts)
	for _, q := range solutions {
		if q.cand == nil {
			continue
		}
		if firm && len(solutions) == 1 {
			if q.protected && !q.marked {
				continue
			}
			if !q.marked {
				q.marked, q.auto = true, true
			}
			q.protected = true
		}
		if s.mark(q, false, depth+1) {
			return true
		}
	}
	return false
}

// solutions are the packages that meet a need: those that are installed first,
// each alternative's own order kept.
func (s *solver) solutions(alts dpkg.Alternatives) []*pkg {
	var have, others []*pkg
	for _, r := range alts {
		for _, p := range s.sorted(r) {
			if p.installed {
				have = append(have, p)
			} else {
				others = append(others, p)
			}
		}
	}
	return slices.DeleteFunc(slices.Compact(append(have, others...)), func(p *pkg) bool {
		return p.protected && !p.marked
	})
}

// sorted is the order of apt's CompareProviders.
func (s *solver) sorted(r dpkg.Relation) []*pkg {
	list := s.targets(r)
	if len(list) < 2 {
		return list
	}
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	slices.SortFunc(list, func(a, b *pkg) int {
		return cmp.Or(
			first(a.protected, b.protected),
			first(a.installed && a.cand.multiArch == "same", b.installed && b.cand.multiArch == "same"),
			first(a.installed, b.installed),
			first(a.name == r.Name, b.name == r.Name),
			first(a.cand.essential, b.cand.essential),
			first(a.cand.important, b.cand.important),
			cmp.Compare(a.cand.priority, b.cand.priority),
			cmp.Compare(s.number(b.name), s.number(a.name)),
		)
	})
	return list
}

// names of what is there, sorted.
func (s *solver) names() []string {
	var out []string
	for name, p := range s.packages {
		if p.marked {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
