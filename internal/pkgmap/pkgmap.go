// Package pkgmap translates the names that elements use for packages into
// those of a distribution.
//
// An element says so in its file pkg-map: JSON with the sections default,
// family, distro and release, of which the later overrides the earlier. A
// package becomes one name, several with blanks between, or none. The format
// is diskimage-builder's; what else the file holds is ignored. In an image
// the maps lie in [Dir] under the names of their elements.
package pkgmap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"goldsmith/internal/command"
)

// Dir is where the maps lie in an image.
const Dir = "/usr/share/pkg-map"

// Map is one element's file. The zero value translates nothing.
type Map struct {
	path    string
	Default names
	Family  map[string]names
	Distro  map[string]names
	Release map[string]map[string]names // distribution → release
}

// names is package → what the distribution calls it. Nothing (null) means the
// same as "": no package is needed.
type names map[string]*string

// Read reads a map. An error for a file that is not there is an
// [fs.ErrNotExist]; others are bad input errors with the file's name.
func Read(path string) (*Map, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, b)
}

// Parse is Read for content that is already in memory.
func Parse(path string, content []byte) (*Map, error) {
	m := &Map{path: path}
	// Decoded in two steps: keys of JSON are matched exactly, and a key that
	// is no section may hold anything.
	var sections map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(content))
	err := dec.Decode(&sections)
	if err == nil && len(bytes.TrimSpace(content[dec.InputOffset():])) > 0 {
		err = errors.New("something follows the JSON value")
	}
	if err == nil && sections == nil {
		err = &json.UnmarshalTypeError{Value: "null", Type: reflect.TypeOf(sections), Offset: dec.InputOffset()}
	}
	if err != nil {
		return nil, bad(path, content, err)
	}
	for _, s := range []struct {
		name string
		into any
	}{{"default", &m.Default}, {"family", &m.Family}, {"distro", &m.Distro}, {"release", &m.Release}} {
		raw, ok := sections[s.name]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, s.into); err != nil {
			if u, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
				u.Offset += sectionStart(content, s.name)
			}
			return nil, bad(path, content, fmt.Errorf("section %s: %w", s.name, err))
		}
	}
	return m, nil
}

// sectionStart is where the value of a section begins in an object that has
// been read: the last one of the name counts.
func sectionStart(content []byte, section string) int64 {
	var start int64
	dec := json.NewDecoder(bytes.NewReader(content))
	_, _ = dec.Token() // the brace
	for dec.More() {
		key, _ := dec.Token()
		var value json.RawMessage
		if dec.Decode(&value) == nil && key == section {
			start = dec.InputOffset() - int64(len(value))
		}
	}
	return start
}

// lineAt is the line, from 1, at an offset in bytes.
func lineAt(content []byte, offset int64) int {
	return 1 + bytes.Count(content[:min(int(offset), len(content))], []byte("\n"))
}

func bad(path string, content []byte, err error) error {
	const hint = `expected {"default": {"package": "name"}, "family": {"debian": {…}}, "distro": {…}, "release": {"debian": {"12": {…}}}}`
	where, what := path, err.Error()
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		where += fmt.Sprintf(":%d", lineAt(content, s.Offset))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		what = "the JSON value is not complete"
	}
	if u, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		where += fmt.Sprintf(":%d", lineAt(content, u.Offset))
		found := "a " + u.Value
		if strings.ContainsAny(u.Value[:1], "ao") {
			found = "an " + u.Value
		}
		if u.Value == "null" {
			found = "nothing"
		}
		what = fmt.Sprintf("found %s where %s belongs", found, kind(u))
		if section, _, ok := strings.Cut(err.Error(), ": "); ok && strings.HasPrefix(section, "section ") {
			what = section + ": " + what
		}
	}
	return command.BadInput(fmt.Errorf("%s: %s", where, what), hint)
}

func kind(u *json.UnmarshalTypeError) string {
	if u.Type.Kind().String() == "string" {
		return "a name"
	}
	return "an object"
}

// families are the distributions that share package names.
var families = map[string][]string{
	"redhat": {"almalinux", "centos", "centos7", "fedora", "openeuler", "rhel", "rhel7", "rocky"},
	"debian": {"debian", "ubuntu"},
	"suse":   {"opensuse"},
	"gentoo": {"gentoo"},
}

// Family is the family of a distribution, or "".
func Family(distro string) string {
	for family, members := range families {
		if slices.Contains(members, distro) {
			return family
		}
	}
	return ""
}

// release is the key of a release in a map.
func release(name string) string {
	if name == "8-stream" {
		return "8"
	}
	return name
}

// Lookup is what a distribution calls a package: its name, names with blanks
// between, or "" for no package. Not ok means that the map does not say.
func (m *Map) Lookup(distro, rel, pkg string) (name string, ok bool) {
	for _, section := range []names{m.Release[distro][release(rel)], m.Distro[distro], m.Family[Family(distro)], m.Default} {
		if name, ok := section[pkg]; ok {
			if name == nil {
				return "", true
			}
			return *name, true
		}
	}
	return "", false
}

// Unmapped says that maps do not know packages.
type Unmapped struct {
	Map      string // the file
	Packages []string
}

func (u *Unmapped) Error() string {
	return fmt.Sprintf("%s has no valid mapping for package %s", u.Map, strings.Join(u.Packages, ", "))
}

// Translate looks up packages in the order given. Each mapped package that is
// not nothing adds one string. A package that the map does not know stays as
// it is when missingOK, and otherwise ends the translation with an [Unmapped]
// error beside what was found before it.
func (m *Map) Translate(distro, rel string, packages []string, missingOK bool) ([]string, error) {
	var out []string
	for _, pkg := range packages {
		switch name, ok := m.Lookup(distro, rel, pkg); {
		case ok && name != "":
			out = append(out, name)
		case ok:
		case missingOK:
			out = append(out, pkg)
		default:
			return out, &Unmapped{m.path, []string{pkg}}
		}
	}
	return out, nil
}

// ForElement translates an element's packages by its map in dir. Without a
// map every package keeps its name. The result is single names.
func ForElement(dir, element, distro, rel string, packages []string) ([]string, error) {
	if distro == "" {
		return nil, command.BadInput(errors.New("DISTRO_NAME is not set"), "an operating system element's environment.d sets it")
	}
	m, err := Read(filepath.Join(dir, filepath.Base(element)))
	if errors.Is(err, fs.ErrNotExist) {
		m, err = &Map{}, nil
	}
	if err != nil {
		return nil, err
	}
	lines, err := m.Translate(distro, rel, packages, true)
	return strings.Fields(strings.Join(lines, " ")), err
}

// Distributions returns those that the map names, sorted.
func (m *Map) Distributions() []string {
	set := map[string]bool{}
	for d := range m.Distro {
		set[d] = true
	}
	for d := range m.Release {
		set[d] = true
	}
	return slices.Sorted(maps.Keys(set))
}
