package disk

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/tree"
)

// DefaultState are the directories that outlive an update unless Config.State
// names others.
var DefaultState = []string{"/var", "/home", "/root", "/srv"}

// defaultKept is what every machine keeps of its /etc: who it is.
var defaultKept = []string{"/etc/.pwd.lock", "/etc/.updated", "/etc/adjtime", "/etc/hostname", "/etc/machine-id",
	"/etc/ssh/ssh_host_*"}

// StateDir is where packages and elements declare what machines may change: a
// file each, with a path a line; # starts a comment.
const StateDir = "usr/share/goldsmith/state.d"

// maxStateFile bounds such a file, in bytes.
const maxStateFile = 64 << 10

// CheckState tells whether paths may be declared as state, and which one may
// not. Directories lie outside of /etc. Below it are files and directories of
// /etc that a machine keeps when it starts, with *, ? and [ as in a shell in
// the last part; /etc itself keeps all of it.
func CheckState(paths []string) (at int, err error) {
	for i, p := range paths {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, " \t\n") {
			return i, fmt.Errorf("state %q: expected an absolute directory without blanks", p)
		}
		if inside(p, "/etc") {
			if strings.ContainsAny(path.Dir(p), `*?[\`) {
				return i, fmt.Errorf("state %q: *, ? and [ may be in the last part only", p)
			}
			if _, err := path.Match(path.Base(p), ""); err != nil {
				return i, fmt.Errorf("state %q: %w", p, err)
			}
			continue
		}
		for _, no := range []string{"/usr", "/proc", "/sys", "/dev", "/run"} {
			if inside(p, no) {
				return i, fmt.Errorf("state %q: %s cannot be kept on the state partition", p, no)
			}
		}
		for _, q := range paths[:i] {
			if !inside(q, "/etc") && (inside(p, q) || inside(q, p)) {
				return i, fmt.Errorf("state %q: overlaps %s", p, q)
			}
		}
	}
	return 0, nil
}

func inside(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// Kept is the whole list of what machines keep: what the definition says, what
// the image's files declare, and who a machine is.
func Kept(configured, declared []string) []string {
	all := configured
	if !slices.ContainsFunc(all, func(p string) bool { return !inside(p, "/etc") }) && (all == nil || len(all) > 0) {
		all = append(slices.Clone(DefaultState), all...)
	}
	for _, p := range slices.Concat(declared, defaultKept) {
		if !slices.ContainsFunc(all, func(q string) bool { return p == q || !inside(p, "/etc") && inside(p, q) }) {
			all = append(all, p)
		}
	}
	return all
}

// setState makes State the whole list.
func (c *Config) setState() error {
	declared, err := declaredState(c.Root)
	if err != nil {
		return err
	}
	all := Kept(c.State, declared)
	if _, err := CheckState(all); err != nil {
		return command.BadInput(err, "")
	}
	c.State = all
	for _, p := range c.directories() {
		if err := c.plainDirectory(p); err != nil {
			return command.BadInput(err, "")
		}
	}
	return nil
}

// directories are the state directories proper, without what is kept of /etc.
func (c *Config) directories() []string {
	return slices.DeleteFunc(slices.Clone(c.State), func(p string) bool { return inside(p, "/etc") })
}

// declaredState reads the image's own declarations.
func declaredState(t *tree.Tree) (paths []string, err error) {
	for _, e := range t.Below(StateDir) {
		if e.Kind() != tree.ModeRegular {
			continue
		}
		if e.Size > maxStateFile {
			return nil, command.BadInput(fmt.Errorf("/%s: more than %d bytes", e.Path, maxStateFile), "")
		}
		text, err := e.ReadFile()
		if err != nil {
			return nil, err
		}
		more, err := ParseDeclared("/"+e.Path, text)
		if err != nil {
			return nil, err
		}
		paths = append(paths, more...)
	}
	return paths, nil
}

// ParseDeclared reads what one file of StateDir declares.
func ParseDeclared(name string, text []byte) (paths []string, err error) {
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if _, err := CheckState([]string{line}); err != nil {
			return nil, command.BadInput(fmt.Errorf("%s, line %d: %w", name, n, err), "")
		}
		paths = append(paths, line)
	}
	return paths, nil
}

// plainDirectory fails when something else than a directory is where p or one
// of its parents should be.
func (c *Config) plainDirectory(p string) error {
	for ; p != "/"; p = path.Dir(p) {
		if e := c.Root.Lookup(p); e != nil && !e.IsDir() {
			return fmt.Errorf("state directory: %s is not a directory in the image", p)
		}
	}
	return nil
}
