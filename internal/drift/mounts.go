package drift

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// own are the directories whose content no image brings.
var own = []string{"/dev", "/proc", "/run", "/sys", "/tmp"}

// Mounts compares what is mounted, a text as /proc/self/mountinfo (proc(5)),
// with what imginit mounts: a read-only root, an overlay over /etc, and the
// state directories. Other things may be mounted below those, and where the
// image, whose root is the directory image, has an empty directory.
func Mounts(mountinfo, image string, state []string) ([]Drift, error) {
	var found []Drift
	seen := map[string]bool{}
	for i, line := range strings.Split(strings.TrimSuffix(mountinfo, "\n"), "\n") {
		m, ok := parseMount(line)
		if !ok {
			return nil, fmt.Errorf("mountinfo, line %d: cannot read %q", i+1, line)
		}
		if wrong := m.wrong(image, state); wrong != "" {
			found = append(found, Drift{Mounted, m.at, wrong})
		}
		seen[m.at] = true
	}
	for _, dir := range append([]string{"/etc"}, state...) {
		if _, err := os.Lstat(filepath.Join(image, dir)); err == nil && !seen[dir] {
			found = append(found, Drift{Mounted, dir, "the state partition is not mounted there"})
		}
	}
	return found, nil
}

// mount is one line.
type mount struct {
	root, at, kind, source string
	options                []string // of the mount and of the file system
}

func parseMount(line string) (mount, bool) {
	mine, its, ok := strings.Cut(line, " - ")
	a, b := strings.Fields(mine), strings.Fields(its)
	if !ok || len(a) < 6 || len(b) < 3 {
		return mount{}, false
	}
	return mount{root: unescape(a[3]), at: unescape(a[4]), kind: b[0], source: unescape(b[1]),
		options: append(strings.Split(a[5], ","), strings.Split(b[2], ",")...)}, true
}

// unescape reads \040 and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (m mount) wrong(image string, state []string) string {
	what := fmt.Sprintf("%s of %s", m.kind, m.source)
	switch {
	case m.at == "/":
		if m.kind != "erofs" || !slices.Contains(m.options, "ro") {
			return what + ": want a read-only erofs"
		}
		return ""
	case m.at == "/etc":
		if m.kind != "overlay" || !slices.Contains(m.options, "upperdir=/run/goldsmith/state/etc/upper") {
			return what + ": want the overlay with the state partition's layer"
		}
		return ""
	case slices.Contains(state, m.at):
		if m.root != "/fs"+m.at {
			return what + " hides the state partition's"
		}
		return ""
	}
	for _, dir := range slices.Concat(own, state) {
		if inside(m.at, dir) {
			return ""
		}
	}
	if entries, err := os.ReadDir(filepath.Join(image, m.at)); err == nil && len(entries) == 0 &&
		!inside(m.at, "/etc") {
		return "" // nothing is hidden
	}
	return what + " hides what the image has"
}
