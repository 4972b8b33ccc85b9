package pkginstall

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
)

// listPrefix begins the names of plain lists; the rest of the name says whose
// words the list uses, mostly the element's own name.
const listPrefix = "package-installs-"

// lists reads the plain lists of one phase: words that are packages, "-" in
// front of those that go away when the phase ends, comments from "#" on. The
// original drops a last line without an end; here it counts.
func (s *squasher) lists(e *element.Element, phase string) error {
	dir := filepath.Join(e.Dir, phase)
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, ok := strings.CutPrefix(entry.Name(), listPrefix)
		path := filepath.Join(dir, entry.Name())
		if fi, err := os.Stat(path); !ok || err != nil || !fi.Mode().IsRegular() {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if slices.Contains(b[:min(len(b), 512)], 0) || strings.HasPrefix(string(b), "#!") {
			continue // a program of that name
		}
		if err := s.list(path, phase, name, string(b)); err != nil {
			return err
		}
	}
	return nil
}

func (s *squasher) list(path, phase, of, content string) error {
	n := 0
	for line := range strings.Lines(content) {
		n++
		for word := range strings.FieldsSeq(line) {
			if strings.HasPrefix(word, "#") {
				break
			}
			pkg, away := strings.CutPrefix(word, "-")
			if !PackageName(pkg) {
				return command.BadInput(fmt.Errorf("%s:%d: %q is not a package name", path, n, word), "")
			}
			if away {
				s.ask(phase, pkg).build[of] = true
			} else {
				s.ask(phase, pkg).stay[of] = true
			}
		}
	}
	return nil
}
