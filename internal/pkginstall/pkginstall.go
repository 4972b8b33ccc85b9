// Package pkginstall decides which packages elements add to an image and
// which they take away again, phase by phase.
//
// An element says so in package-installs.yaml or package-installs.json: a
// mapping of package names to nothing, to options, or to a list of options.
// The options phase, installtype, arch, not-arch, dib_python_version and when
// narrow an entry down; uninstall and build-only make it go away again. Older
// elements have plain lists, PHASE/package-installs-NAME. [Squash] reads them
// all into one [Plan], which does not depend on the order of the elements: a
// package that any of them wants to stay does stay.
//
// The names are those of elements; what a distribution calls them is not this
// package's to know, and it installs nothing. The format is
// diskimage-builder's, package-installs-squash's result too.
package pkginstall

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/pkgmap"
	"goldsmith/internal/yaml11"
)

// Phases are those in which packages are installed.
var Phases = []string{"pre-install.d", "install.d", "post-install.d"}

// DefaultPhase is the phase of an entry that names none.
const DefaultPhase = "install.d"

// nameForm is what a package can be called, in some distribution and with a
// version or a group's "@": nothing that could be an option of a package
// manager, or separate names in a list.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9@][A-Za-z0-9@+._:/~=*^()-]*$`)

// PackageName tells whether name can be a distribution's package. It then
// begins no option and holds neither blanks nor commas.
func PackageName(name string) bool { return nameForm.MatchString(name) }

// Entry is a package in the words of the element that asks for it.
type Entry struct{ Package, Element string }

// Phase is what one phase does: install when it begins, uninstall when it
// ends. Both are sorted by element and package.
type Phase struct {
	Install   []Entry `json:"install,omitempty"`
	Uninstall []Entry `json:"uninstall,omitempty"`
}

// Plan is what all phases do, by the phase's name. Its JSON form is what
// package-installs-v2 reads. A phase that diskimage-builder does not know may
// be there; nothing ever runs it.
type Plan map[string]Phase

// MarshalJSON makes the list [package, element].
func (e Entry) MarshalJSON() ([]byte, error) { return json.Marshal([2]string{e.Package, e.Element}) }

// UnmarshalJSON reads the list [package, element].
func (e *Entry) UnmarshalJSON(b []byte) error {
	var pair []string
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("expected [package, element], found %d words", len(pair))
	}
	e.Package, e.Element = pair[0], pair[1]
	return nil
}

// ReadPlan reads a plan that was written as JSON.
func ReadPlan(path string) (Plan, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var p Plan
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: %w", path, err), "expected what package-installs-squash writes")
	}
	return p, nil
}

// Install returns what the known phases install, under the names of the
// distribution that the environment's DISTRO_NAME and DIB_RELEASE say, each
// once, sorted. The elements' own pkg-map files translate; a name that they do
// not have stays. It is for installing everything in one transaction.
func (p Plan) Install(elements []*element.Element, env Environment) ([]string, error) {
	dirs := map[string]string{}
	for _, e := range elements {
		dirs[e.Name] = e.Dir
	}
	by := map[string][]string{}
	for _, phase := range Phases {
		for _, e := range p[phase].Install {
			by[e.Element] = append(by[e.Element], e.Package)
		}
	}
	set := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		m := &pkgmap.Map{}
		if dir, ok := dirs[name]; ok {
			read, err := pkgmap.Read(filepath.Join(dir, "pkg-map"))
			switch {
			case err == nil:
				m = read
			case !errors.Is(err, fs.ErrNotExist):
				return nil, err
			}
		}
		lines, err := m.Translate(env["DISTRO_NAME"], env["DIB_RELEASE"], by[name], true)
		if err != nil {
			return nil, err
		}
		for word := range strings.FieldsSeq(strings.Join(lines, " ")) {
			if !PackageName(word) {
				return nil, command.BadInput(fmt.Errorf("%s: %q is not a package name", filepath.Join(dirs[name], "pkg-map"), word), "")
			}
			set[word] = true
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// Environment holds the variables that entries are chosen by: ARCH,
// DIB_PYTHON_VERSION, DIB_DEFAULT_INSTALLTYPE, DIB_INSTALLTYPE_element, and
// whatever the elements' when options name.
type Environment map[string]string

// installType is how an element's software gets into the image; the variable
// has "_" where the element's name has "-".
func (env Environment) installType(element string) string {
	for _, name := range []string{"DIB_INSTALLTYPE_" + strings.ReplaceAll(element, "-", "_"), "DIB_DEFAULT_INSTALLTYPE"} {
		if t, ok := env[name]; ok {
			return t
		}
	}
	return "source"
}

// Squash reads what the elements ask for. Warnings are about what is without
// effect and probably meant to have one; each begins with "file:line: ".
// Errors are bad input errors that do too.
func Squash(elements []*element.Element, env Environment) (plan Plan, warnings []string, err error) {
	s := squasher{env: env, asked: map[string]map[string]*asked{}}
	for _, e := range elements {
		for _, name := range []string{"package-installs.json", "package-installs.yaml"} {
			if err := s.file(e, name); err != nil {
				return nil, nil, err
			}
		}
		for _, phase := range Phases {
			if err := s.lists(e, phase); err != nil {
				return nil, nil, err
			}
		}
	}
	return s.plan(), s.warnings, nil
}

// Check reads what one element asks for as [Squash] does, but looks at every
// option, whatever the architecture, and at conditions without asking what the
// variables are. It is for holding an element to its form.
func Check(e *element.Element) (warnings []string, err error) {
	s := squasher{env: Environment{"ARCH": "any"}, checking: true, asked: map[string]map[string]*asked{}}
	for _, name := range []string{"package-installs.json", "package-installs.yaml"} {
		if err := s.file(e, name); err != nil {
			return nil, err
		}
	}
	for _, phase := range Phases {
		if err := s.lists(e, phase); err != nil {
			return nil, err
		}
	}
	return s.warnings, nil
}

type squasher struct {
	env      Environment
	checking bool                         // look at everything
	asked    map[string]map[string]*asked // phase → package → who asked
	warnings []string
}

// asked is which elements want a package, and to what end.
type asked struct {
	stay  map[string]bool // installed
	build map[string]bool // installed, and uninstalled when the phase ends
	leave map[string]bool // uninstalled
}

func (s *squasher) ask(phase, pkg string) *asked {
	if s.asked[phase] == nil {
		s.asked[phase] = map[string]*asked{}
	}
	if s.asked[phase][pkg] == nil {
		s.asked[phase][pkg] = &asked{map[string]bool{}, map[string]bool{}, map[string]bool{}}
	}
	return s.asked[phase][pkg]
}

func (s *squasher) plan() Plan {
	out := Plan{}
	for phase, packages := range s.asked {
		var p Phase
		for pkg, a := range packages {
			install, uninstall := maps.Clone(a.stay), map[string]bool{}
			maps.Copy(install, a.build)
			if len(a.stay) == 0 {
				maps.Copy(uninstall, a.build)
				maps.Copy(uninstall, a.leave)
			}
			for e := range install {
				p.Install = append(p.Install, Entry{pkg, e})
			}
			for e := range uninstall {
				p.Uninstall = append(p.Uninstall, Entry{pkg, e})
			}
		}
		slices.SortFunc(p.Install, compare)
		slices.SortFunc(p.Uninstall, compare)
		out[phase] = p
	}
	return out
}

func compare(a, b Entry) int {
	if c := strings.Compare(a.Element, b.Element); c != 0 {
		return c
	}
	return strings.Compare(a.Package, b.Package)
}

// file reads package-installs.yaml or .json.
func (s *squasher) file(e *element.Element, name string) error {
	path := filepath.Join(e.Dir, name)
	root, err := yaml11.ReadJSONFirst(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch root.Kind {
	case yaml11.Null:
		return nil
	case yaml11.Mapping:
	default:
		return command.BadInput(fmt.Errorf("%s:%d: expected a mapping of package names, found %v", path, root.Line, root.Kind), "")
	}
	for _, p := range root.Pairs {
		r := reader{squasher: s, element: e.Name, path: path, pkg: p.Key.Text}
		if !PackageName(r.pkg) {
			return command.BadInput(fmt.Errorf("%s:%d: %q is not a package name", path, p.Key.Line, r.pkg), "")
		}
		if err := r.value(p.Value); err != nil {
			return err
		}
	}
	return nil
}
