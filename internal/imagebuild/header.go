package imagebuild

import (
	"fmt"
	"path"
	"slices"

	"goldsmith/internal/hook"
)

// header is what a hook says of itself in a line "## goldsmith: JSON".
type header struct {
	// Reads are the files of other elements that the hook reads, as patterns
	// of path.Match for a file or a directory above it.
	Reads []string `json:"reads"`
}

func readHeader(text []byte) (header, error) {
	var h header
	if err := hook.Header(text, &h); err != nil {
		return h, err
	}
	for _, p := range h.Reads {
		if _, err := path.Match(p, ""); err != nil {
			return h, fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	return h, nil
}

// counts tells whether a file is among those that the hook reads.
func (h header) counts(rel string) bool {
	if h.Reads == nil {
		return true
	}
	for p := rel; p != "."; p = path.Dir(p) {
		if h.matches(p) {
			return true
		}
	}
	return false
}

func (h header) matches(p string) bool {
	return slices.ContainsFunc(h.Reads, func(pattern string) bool {
		ok, _ := path.Match(pattern, p)
		return ok
	})
}
