package bootstrap

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"goldsmith/internal/apt"
	"goldsmith/internal/deb"
	"goldsmith/internal/dpkg"
)

// pkg is one package that is installed.
type pkg struct {
	apt.Package
	order     int // among all
	file      *deb.File
	control   *deb.Control
	needs     []dpkg.Alternatives // Pre-Depends and Depends
	before    []dpkg.Alternatives // Pre-Depends
	replaces  []dpkg.Relation
	provides  []dpkg.Relation
	conffiles map[string]bool // by path

	list       []string // what it holds, for dpkg's list
	sums       []string // of files, where the package has no md5sums of its own
	lost       []string // files that went to a package that replaces them
	unpacked   bool
	configured bool
}

// validName is dpkg's idea of a package's name and architecture.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.-]*$`)

// open reads the control files of all packages.
func (s *system) open(cache string) error {
	s.clock("open")
	for i, k := range s.plan.Packages {
		p := &pkg{Package: k, order: i}
		var err error
		if p.file, err = deb.Open(k.File(cache)); err != nil {
			return fmt.Errorf("package %s: %w", k.Name, err)
		}
		s.packages = append(s.packages, p)
		if p.control, err = p.file.Control(); err != nil {
			return fmt.Errorf("package %s: %w", k.Name, err)
		}
		if err := p.check(); err != nil {
			return fmt.Errorf("package %s: %w", k.Name, err)
		}
	}
	return nil
}

func (s *system) closePackages() {
	for _, p := range s.packages {
		_ = p.file.Close() // only read from
	}
}

// check compares the package with the plan, and reads its relations.
func (p *pkg) check() error {
	f := p.control.Fields
	for _, x := range []struct{ field, want string }{
		{"Package", p.Name}, {"Version", p.Version}, {"Architecture", p.Arch},
	} {
		if f[x.field] != x.want {
			return fmt.Errorf("the file has %s %q, the plan %q", x.field, f[x.field], x.want)
		}
	}
	if !validName.MatchString(p.Name) || !validName.MatchString(p.Arch) {
		return fmt.Errorf("bad name")
	}
	var replaces, provides []dpkg.Alternatives
	var depends []dpkg.Alternatives
	for _, x := range []struct {
		field string
		to    *[]dpkg.Alternatives
	}{{"Pre-Depends", &p.before}, {"Depends", &depends}, {"Replaces", &replaces}, {"Provides", &provides}} {
		var err error
		if *x.to, err = dpkg.ParseRelations(f[x.field]); err != nil {
			return fmt.Errorf("%s: %w", x.field, err)
		}
	}
	p.needs = append(slices.Clone(p.before), depends...)
	p.replaces, p.provides = flat(replaces), flat(provides)
	p.conffiles = map[string]bool{}
	for line := range strings.Lines(string(p.control.Files["conffiles"])) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "/") { // others begin with a flag and a space
			p.conffiles[line] = true
		}
	}
	return nil
}

// flat are relations of a field that knows no alternatives.
func flat(groups []dpkg.Alternatives) []dpkg.Relation {
	var out []dpkg.Relation
	for _, g := range groups {
		out = append(out, g...)
	}
	return out
}

// id is the package's name in the names of dpkg's files.
func (p *pkg) id() string {
	if p.control.Fields["Multi-Arch"] == "same" {
		return p.Name + ":" + p.Arch
	}
	return p.Name
}

// has tells whether the package has a control file.
func (p *pkg) has(name string) bool { return p.control.Files[name] != nil }

// is tells whether the package satisfies a relation.
func (p *pkg) is(r dpkg.Relation) bool {
	if p.Name == r.Name && r.Allows(p.Version) {
		return true
	}
	return slices.ContainsFunc(p.provides, func(v dpkg.Relation) bool {
		return v.Name == r.Name && (r.Op == "" || v.Version != "" && r.Allows(v.Version))
	})
}

// mayReplace tells whether p may take over q's files.
func (p *pkg) mayReplace(q *pkg) bool {
	return slices.ContainsFunc(p.replaces, func(r dpkg.Relation) bool { return q.Name == r.Name && r.Allows(q.Version) })
}

// meeting returns the packages that satisfy a need.
func (s *system) meeting(alts dpkg.Alternatives) []*pkg {
	var out []*pkg
	for _, p := range s.packages {
		if slices.ContainsFunc(alts, p.is) {
			out = append(out, p)
		}
	}
	return out
}

// essential returns the essential packages and all that they need, in the
// order of the plan.
func (s *system) essential() []*pkg {
	in := map[*pkg]bool{}
	var add func(p *pkg)
	add = func(p *pkg) {
		if in[p] {
			return
		}
		in[p] = true
		for _, need := range p.needs {
			for _, q := range s.meeting(need) {
				add(q)
			}
		}
	}
	for _, p := range s.packages {
		if p.control.Fields["Essential"] == "yes" {
			add(p)
		}
	}
	return slices.DeleteFunc(slices.Clone(s.packages), func(p *pkg) bool { return !in[p] })
}
