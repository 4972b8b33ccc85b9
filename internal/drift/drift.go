// Package drift finds where a running machine is not what its image and its
// configuration say: files of /etc, mounts, the root's device. What a machine
// may change, its state, is nobody's to compare.
package drift

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Drift is one thing that is not as it should be.
type Drift struct {
	Kind   Kind   `json:"kind"`
	Path   string `json:"path"`
	Detail string `json:"detail,omitempty"` // for people
}

// Kind says what is wrong with a path.
type Kind string

// The kinds. The first three are about files below /etc, beside what is
// configured and what the image declares as the machine's own.
const (
	Added    Kind = "added"
	Changed  Kind = "changed"  // content, mode, owner or type
	Removed  Kind = "removed"  // the image has it
	Rendered Kind = "rendered" // not what its template and the metadata make
	Mounted  Kind = "mounted"  // something hides what the image has there, or the state is not there
	Root     Kind = "root"     // the root file system is not verified
	Boot     Kind = "boot"     // kernel image or boot loader on the EFI partition
)

func (d Drift) String() string {
	s := fmt.Sprintf("%s %s", d.Kind, d.Path)
	if d.Detail != "" {
		s += ": " + d.Detail
	}
	return s
}

// inside says that a path is a directory or below it.
func inside(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// keeps says that the machine may have a path as it likes: one of the patterns,
// as internal/disk.CheckState has them, matches it or a directory above it.
func keeps(patterns []string, p string) bool {
	for ; p != "/" && p != "."; p = path.Dir(p) {
		for _, pattern := range patterns {
			if ok, _ := filepath.Match(pattern, p); ok {
				return true
			}
		}
	}
	return false
}
