// Package apt chooses the packages of a new Debian system and brings them here:
// what apt does on a system that has nothing yet, without one.
//
// [Resolve] reads the lists of packages of all sources, after it has checked
// their signatures, and returns a [Plan]: each package with its version, its
// SHA-256 and its URL. A plan is data; written as JSON it pins a system.
// [Plan.Fetch] brings the packages into a cache, where a file's name is its
// check sum; with that cache a plan needs no network.
//
// What is installed is the variant minbase of mmdebstrap and debootstrap, every
// essential package, apt, and those of priority required, and what was asked
// for, with all that these depend on. Recommended packages are not. A choice
// between packages falls as apt's would. Nothing is installed here: see package
// bootstrap.
package apt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"goldsmith/internal/command"
	"goldsmith/internal/dpkg"
)

// Options of Resolve.
type Options struct {
	Suite    string   // required: bookworm
	Arch     string   // required, Debian's name: amd64
	Sources  []Source // required
	Packages []string // asked for: NAME, or NAME=VERSION
	Keyrings []string // whose keys may sign a source; nil means DefaultKeyrings
	Cache    string   // required: directory of downloads, made when it is not there
	Offline  bool     // use lists of packages that are in the cache, and no network
	// Retrying is told of each failed download that is tried again; nil means
	// nobody is.
	Retrying func(error)
}

// Plan is the packages of a system.
type Plan struct {
	Suite    string    `json:"suite"`
	Arch     string    `json:"arch"`
	Sources  []string  `json:"sources"`  // lines as in sources.list(5)
	Packages []Package `json:"packages"` // sorted by name
}

// Package is one package of a plan.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`           // the plan's, or all
	Auto    bool   `json:"auto,omitempty"` // apt may remove it when nothing depends on it
	SHA256  string `json:"sha256"`         // hexadecimal, lower case
	Size    int64  `json:"size"`           // bytes of the file
	URL     string `json:"url"`
}

// Resolve makes a plan. A package that no source has, or that cannot be
// installed with the others, is a command.BadInput error that says why.
func Resolve(ctx context.Context, o Options) (*Plan, error) {
	if o.Keyrings == nil {
		o.Keyrings = DefaultKeyrings()
	}
	if len(o.Sources) == 0 {
		return nil, command.BadInput(errors.New("no package source for "+o.Arch), "name a mirror")
	}
	indexes, err := fetchIndexes(ctx, newStore(o.Cache, o.Offline, o.Retrying), o)
	if err != nil {
		return nil, err
	}
	u, err := newUniverse(indexes, o.Sources, o.Arch)
	if err != nil {
		return nil, err
	}
	return u.plan(o)
}

// plan chooses in the same two steps as mmdebstrap: what the first brings is
// there, and preferred, in the second.
func (u *universe) plan(o Options) (*Plan, error) {
	s := &solver{universe: u}
	asked, err := s.asked(o.Packages, o.Suite)
	if err != nil {
		return nil, err
	}
	var essential, rest []*pkg
	for _, p := range u.packages {
		switch {
		case p.cand.essential:
			essential = append(essential, p)
		case p.cand.priority == priorities["required"] || p.name == "apt":
			rest = append(rest, p)
		}
	}
	if len(essential) == 0 {
		return nil, command.BadInput(fmt.Errorf("the sources of %s have no essential packages for %s", o.Suite, o.Arch),
			"a source must be a whole distribution")
	}
	byNumber := func(a, b *pkg) int { return u.number(a.name) - u.number(b.name) }
	slices.SortFunc(essential, byNumber)
	slices.SortFunc(rest, byNumber)
	if err := s.install(essential); err != nil {
		return nil, err
	}
	for _, p := range u.packages {
		p.auto = false // they come before apt, which knows nothing of them
	}
	if err := s.install(append(asked, rest...)); err != nil {
		return nil, err
	}
	return s.result(o), nil
}

// asked finds the packages that are asked for by name.
func (s *solver) asked(names []string, suite string) ([]*pkg, error) {
	var out []*pkg
	for _, ask := range names {
		name, want, pinned := strings.Cut(ask, "=")
		p := s.packages[name]
		if p == nil {
			// As apt does: a name that one package alone provides is that package.
			if by := s.targets(dpkg.Relation{Name: name}); len(by) == 1 {
				p = by[0]
			} else if len(by) > 1 {
				return nil, command.BadInput(fmt.Errorf("package %s: several packages provide it", name),
					"name one of them: "+providerNames(by))
			} else {
				return nil, command.BadInput(fmt.Errorf("package %s: not in %s", name, suite),
					"look at its name, and whether the mirror's lines have the component it is in")
			}
		}
		if pinned {
			i := slices.IndexFunc(p.versions, func(v *version) bool { return v.version == want })
			if i < 0 {
				return nil, command.BadInput(fmt.Errorf("package %s: version %s is not in %s", name, want, suite),
					"it has "+p.cand.version)
			}
			p.cand = p.versions[i]
		}
		out = append(out, p)
	}
	return out, nil
}

func providerNames(list []*pkg) string {
	var names []string
	for _, p := range list {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (s *solver) result(o Options) *Plan {
	plan := &Plan{Suite: o.Suite, Arch: o.Arch}
	for _, src := range o.Sources {
		plan.Sources = append(plan.Sources, src.String())
	}
	for _, name := range s.names() {
		p := s.packages[name]
		v := p.cand
		plan.Packages = append(plan.Packages, Package{
			Name: v.name, Version: v.version, Arch: v.arch, Auto: p.auto,
			SHA256: v.sha256, Size: v.size, URL: v.source.URI + "/" + escapePath(v.filename),
		})
	}
	return plan
}

// escapePath writes a file name as a URL's path.
func escapePath(name string) string { return (&url.URL{Path: name}).EscapedPath() }

// maxPackages bounds what a plan may list.
const maxPackages = 100_000

// ParsePlan reads a plan from JSON and checks it.
func ParsePlan(b []byte) (*Plan, error) {
	p := &Plan{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, command.BadInput(fmt.Errorf("package plan: %w", err), "")
	}
	return p, p.check()
}

func (p *Plan) check() error {
	bad := func(format string, args ...any) error {
		return command.BadInput(fmt.Errorf("package plan: "+format, args...), "make it anew")
	}
	if len(p.Packages) > maxPackages || len(p.Packages) == 0 {
		return bad("%d packages", len(p.Packages))
	}
	for i, k := range p.Packages {
		u, err := url.Parse(k.URL)
		switch {
		case k.Name == "" || strings.ContainsAny(k.Name+k.Version+k.Arch, "/ \n") || k.Version == "":
			return bad("package %q, version %q: bad name", k.Name, k.Version)
		case k.Arch != p.Arch && k.Arch != "all":
			return bad("package %s is for %s, not %s", k.Name, k.Arch, p.Arch)
		case !isSum(k.SHA256) || k.Size <= 0:
			return bad("package %s: no check sum or size", k.Name)
		case err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file":
			return bad("package %s: %q is not the URL of a file", k.Name, k.URL)
		case i > 0 && p.Packages[i-1].Name >= k.Name:
			return bad("package %s is out of order", k.Name)
		}
	}
	return nil
}

// Size is the sum of the packages' sizes in bytes.
func (p *Plan) Size() int64 {
	var n int64
	for _, k := range p.Packages {
		n += k.Size
	}
	return n
}

// FetchOptions are how Fetch goes about it.
type FetchOptions struct {
	Offline  bool            // fail when something is not in the cache
	Retrying func(error)     // told of failures that are tried again; may be nil
	Done     func(p Package) // told of each package that is there; may be nil, is called by several goroutines
}

// Fetch brings the packages that are missing into the cache directory, and
// checks all of them.
func (p *Plan) Fetch(ctx context.Context, cache string, o FetchOptions) error {
	st := newStore(cache, o.Offline, o.Retrying)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, k := range p.Packages {
		g.Go(func() error {
			if _, err := st.get(ctx, poolDir, k.URL, fileSum{k.SHA256, k.Size}); err != nil {
				return fmt.Errorf("package %s %s: %w", k.Name, k.Version, err)
			}
			if o.Done != nil {
				o.Done(k)
			}
			return nil
		})
	}
	return g.Wait()
}

const poolDir = "pool"

// File is where Fetch puts the package in a cache directory.
func (k Package) File(cache string) string {
	return filepath.Join(cache, poolDir, k.SHA256[:2], k.SHA256)
}
