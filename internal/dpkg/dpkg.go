// Package dpkg knows what Debian's package manager writes down: the database of
// installed packages of a system, the file var/lib/dpkg/status, the order of
// versions and the form of dependencies. The formats are deb-control(5)'s and
// deb-version(7)'s.
package dpkg

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// StatusFile is where the database lies in a root file system.
const StatusFile = "var/lib/dpkg/status"

// Package is one installed package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
}

// maxLine bounds one line of a status file, in bytes.
const maxLine = 1 << 20

// Installed returns the packages whose state is installed, sorted by name and
// architecture: an empty list, not nil, when there are none.
func Installed(status io.Reader) ([]Package, error) {
	out := []Package{}
	var p Package
	installed := false
	flush := func() {
		if installed && p.Name != "" {
			out = append(out, p)
		}
		p, installed = Package{}, false
	}
	s := bufio.NewScanner(status)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	for s.Scan() {
		line := s.Text()
		if line == "" {
			flush()
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Arch = value
		case "Status":
			// "want flag state", dpkg(1)
			f := strings.Fields(value)
			installed = len(f) == 3 && f[2] == "installed"
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("dpkg status: %w", err)
	}
	flush()
	slices.SortFunc(out, func(a, b Package) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Arch, b.Arch))
	})
	return out, nil
}
