// Package element finds elements and decides which of them make an image.
//
// An element is a directory that adds one thing to an image: hooks by phase,
// packages, files, templates. Elements depend on each other (element-deps)
// and may stand for a name that others depend on (element-provides). The
// format is diskimage-builder's, so that its elements can be used unchanged.
//
// Everything here is pure: it reads directories and returns values, and runs
// nothing. Resolution does not depend on the order of sets: a name that some
// chosen element provides is never itself pulled in, whatever the order in
// which dependencies are seen (diskimage-builder's result depends on hash
// seeds).
package element

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// OperatingSystem is the name that exactly one element of an image provides.
const OperatingSystem = "operating-system"

// Element is one element's directory.
type Element struct {
	Name     string
	Dir      string   // where it lies, symbolic links resolved
	Deps     []string // sorted
	Provides []string // sorted
}

// Path is a list of directories that hold elements, the first one wins.
type Path []string

// ParsePath splits a colon-separated list and checks that each part is a
// directory. An empty list gives an empty path.
func ParsePath(list string) (Path, error) {
	if list == "" {
		return nil, nil
	}
	p := Path(filepath.SplitList(list))
	for _, dir := range p {
		if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
			return nil, command.BadInput(fmt.Errorf("elements path: %q is not a directory", dir),
				"--elements-path and ELEMENTS_PATH are colon-separated directories that hold elements")
		}
	}
	return p, nil
}

// SearchPath joins where elements may lie: the list given on a command line,
// the environment's ELEMENTS_PATH, and goldsmith's own, which lie beside the
// directory of its programs, bin.
func SearchPath(flag, bin string) (Path, error) {
	return searchPath([]string{flag, os.Getenv("ELEMENTS_PATH")}, directories{bin, "elements"})
}

// CompatPath is where programs called by diskimage-builder's names look: the
// environment's ELEMENTS_PATH, goldsmith's glue elements, those of an installed
// diskimage-builder in the directory original, and the rest of goldsmith's own.
func CompatPath(bin, original string) (Path, error) {
	return searchPath([]string{os.Getenv("ELEMENTS_PATH")}, directories{bin, "glue"}, directories{"", original}, directories{bin, "elements"})
}

// directories is a directory beside the programs' own, in the source tree or
// where it is installed.
type directories struct{ bin, name string }

func searchPath(lists []string, own ...directories) (Path, error) {
	var path Path
	for _, list := range lists {
		p, err := ParsePath(list)
		if err != nil {
			return nil, err
		}
		path = append(path, p...)
	}
	for _, d := range own {
		if dir := d.find(); dir != "" && !slices.Contains(path, dir) {
			path = append(path, dir)
		}
	}
	return path, nil
}

func (d directories) find() string {
	places := []string{filepath.Join(d.bin, "..", d.name), filepath.Join(d.bin, "../share/goldsmith", d.name)}
	if filepath.IsAbs(d.name) {
		places = []string{d.name}
	}
	for _, dir := range places {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir
		}
	}
	return ""
}

// Find returns the element called name, or nil when there is none. An
// element's name is that of the directory that a link to it leads to; where no
// element has the name, a link's own will do.
func (p Path) Find(name string) (*Element, error) {
	if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return nil, command.BadInput(fmt.Errorf("element %q: not a valid name", name), "")
	}
	for _, dir := range p {
		if d := directory(filepath.Join(dir, name)); filepath.Base(d) == name {
			return read(d)
		}
		d, err := linked(dir, name)
		if err != nil {
			return nil, err
		}
		if d != "" {
			return read(d)
		}
	}
	for _, dir := range p {
		if d := directory(filepath.Join(dir, name)); d != "" {
			return read(d)
		}
	}
	return nil, nil
}

// broken tells whether a path is a symbolic link without an end.
func broken(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode()&os.ModeSymlink == 0 {
		return false
	}
	_, err = os.Stat(path)
	return err != nil
}

// directory is the directory that path leads to, or "".
func directory(path string) string {
	d, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	if fi, err := os.Stat(d); err != nil || !fi.IsDir() {
		return ""
	}
	return d
}

// linked looks for a link in dir to a directory called name.
func linked(dir, name string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("elements path: %w", err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink == 0 {
			continue
		}
		if d := directory(filepath.Join(dir, e.Name())); filepath.Base(d) == name {
			return d, nil
		}
	}
	return "", nil
}

// read reads the element that lies in a directory.
func read(dir string) (*Element, error) {
	e := &Element{Name: filepath.Base(dir), Dir: dir}
	var err error
	if e.Deps, err = names(filepath.Join(dir, "element-deps")); err != nil {
		return nil, fmt.Errorf("element %s: %w", e.Name, err)
	}
	if e.Provides, err = names(filepath.Join(dir, "element-provides")); err != nil {
		return nil, fmt.Errorf("element %s: %w", e.Name, err)
	}
	if slices.Contains(e.Provides, e.Name) {
		return nil, command.BadInput(fmt.Errorf("element %s: provides its own name", e.Name),
			"remove it from "+filepath.Join(dir, "element-provides")+": an element need not provide itself")
	}
	return e, nil
}

// names reads one name a line. There is no comment syntax, as in the original.
func names(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, brokenLink(err)
	}
	set := map[string]bool{}
	for l := range strings.Lines(string(b)) {
		if n := strings.TrimSpace(l); n != "" {
			set[n] = true
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// brokenLink says what is to be mended where a symbolic link of an element
// leads in a circle or nowhere. err must be that of a call on the link.
func brokenLink(err error) error {
	pe, ok := errors.AsType[*fs.PathError](err)
	switch {
	case !ok:
		return err
	case errors.Is(err, unix.ELOOP):
		return command.BadInput(fmt.Errorf("%s: %w", pe.Path, pe.Err), "the link leads in a circle: mend or remove it")
	case errors.Is(err, fs.ErrNotExist):
		return command.BadInput(fmt.Errorf("%s: %w", pe.Path, pe.Err), "the link leads nowhere: mend or remove it")
	}
	return err
}

// checkLinks fails when a symbolic link directly in the element, such as to a
// list of packages that several share, leads in a circle or nowhere. Names
// that start with a dot are no part of an element.
func (e *Element) checkLinks() error {
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		return err
	}
	for _, d := range entries {
		if d.Type()&fs.ModeSymlink == 0 || strings.HasPrefix(d.Name(), ".") {
			continue
		}
		if _, err := os.Stat(filepath.Join(e.Dir, d.Name())); err != nil {
			return fmt.Errorf("element %s: %w", e.Name, brokenLink(err))
		}
	}
	return nil
}

// Names returns the names of all elements in the path, sorted.
func (p Path) Names() []string {
	set := map[string]bool{}
	for _, dir := range p {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if fi, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && fi.IsDir() {
				set[e.Name()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// Resolve returns the elements that the wanted names lead to, sorted by name.
// It fails when a name is unknown, when two elements provide the same name,
// when a wanted element is also provided by another, when nothing provides the
// operating system, and when a symbolic link of an element is broken.
func (p Path) Resolve(wanted []string) ([]*Element, error) {
	r := resolver{path: p, chosen: map[string]*Element{}, provider: map[string]string{}, wantedBy: map[string]string{}}
	for {
		again, err := r.pass(wanted)
		if err != nil {
			return nil, err
		}
		if !again {
			break
		}
	}
	for _, w := range wanted {
		if by, ok := r.provider[w]; ok {
			return nil, command.BadInput(fmt.Errorf("element %s: already provided by %s", w, by),
				"name only one of the two")
		}
	}
	if r.provider[OperatingSystem] == "" {
		return nil, command.BadInput(fmt.Errorf("no element provides %s", OperatingSystem),
			"add an operating system element, such as debian")
	}
	chosen := slices.SortedFunc(maps.Values(r.chosen), func(a, b *Element) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range chosen {
		if err := e.checkLinks(); err != nil {
			return nil, err
		}
	}
	return chosen, nil
}

type resolver struct {
	path     Path
	chosen   map[string]*Element
	provider map[string]string // provided name → element
	wantedBy map[string]string // name → who asked first
}

// pass walks from the wanted names with what the previous pass learned of
// providers. Another pass is needed when a new provider has been found: a
// name walked into before may be provided now, and what it alone pulled in
// must go. Who provides an asked-for name stays, even where only that name's
// own element led to it. Providers only accumulate, so this ends.
func (r *resolver) pass(wanted []string) (again bool, err error) {
	clear(r.chosen)
	queue := slices.Clone(wanted)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if by := r.provider[name]; by != "" {
			queue = append(queue, by)
			continue
		}
		if r.chosen[name] != nil {
			continue
		}
		e, err := r.path.Find(name)
		if err != nil {
			return false, err
		}
		if e == nil {
			// A later element may still provide it.
			r.chosen[name] = &Element{Name: name}
			continue
		}
		if r.chosen[e.Name] != nil {
			continue
		}
		r.chosen[e.Name] = e
		for _, prov := range e.Provides {
			switch by := r.provider[prov]; by {
			case "":
				r.provider[prov] = e.Name
				again = true
			case e.Name:
			default:
				return false, command.BadInput(fmt.Errorf("element %s: %s is already provided by %s", e.Name, prov, by),
					"an image can have only one of the two")
			}
		}
		for _, d := range e.Deps {
			if r.wantedBy[d] == "" {
				r.wantedBy[d] = e.Name
			}
			queue = append(queue, d)
		}
	}
	if again {
		return true, nil
	}
	return false, r.checkFound()
}

func (r *resolver) checkFound() error {
	for _, name := range slices.Sorted(maps.Keys(r.chosen)) {
		if r.chosen[name].Dir != "" {
			continue
		}
		for _, dir := range r.path {
			if link := filepath.Join(dir, name); broken(link) {
				return command.BadInput(fmt.Errorf("element %q: %s is a link that leads nowhere, or in a circle", name, link),
					"let it lead to the element's directory, or remove it")
			}
		}
		msg := fmt.Sprintf("element %q: not found", name)
		if by := r.wantedBy[name]; by != "" {
			msg += fmt.Sprintf(" (a dependency of %s)", by)
		}
		hint := "searched in " + strings.Join(r.path, ", ")
		if near := nearest(name, r.path.Names()); near != "" {
			hint = fmt.Sprintf("did you mean %q? %s", near, hint)
		}
		return command.BadInput(fmt.Errorf("%s", msg), hint)
	}
	return nil
}

// nearest returns the name at the smallest edit distance, if it is small.
func nearest(name string, among []string) string {
	best, dist := "", len(name)/2+1
	for _, c := range among {
		if d := distance(name, c); d < dist {
			best, dist = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two short names.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}
