package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Name is what a hook's name must match; anything else in a hook directory
// (README.md, 10-x~, 10-x.dpkg-old) is no hook.
var Name = regexp.MustCompile(`^[0-9A-Za-z_-]+$`)

// snippetName is what a file of environment.d must match.
var snippetName = regexp.MustCompile(`^[0-9A-Za-z_.-]+$`)

// List returns the names of the hooks in dir, in the order they run.
//
// A hook is a regular file, or a link to one, that the caller may execute and
// whose whole name matches [Name].
func List(dir string) ([]string, error) { return list(dir, Name, isExecutable, Compare) }

// Snippets returns the names of the files of an environment.d directory in
// the order they are sourced, which is plainly bytewise: 10-x, 100-z, 9-y. The
// execute bit does not matter. A directory that is not there has none, nor has a file.
func Snippets(dir string) ([]string, error) {
	names, err := list(dir, snippetName, func(string) bool { return true }, strings.Compare)
	if os.IsNotExist(err) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return names, err
}

func list(dir string, match *regexp.Regexp, want func(path string) bool, order func(a, b string) int) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !match.MatchString(e.Name()) {
			continue
		}
		if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() || !want(path) {
			continue
		}
		names = append(names, e.Name())
	}
	slices.SortFunc(names, order)
	return names, nil
}

// isExecutable asks the kernel, as find -executable does.
func isExecutable(path string) bool {
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) == nil
}

// Compare orders names as "sort -n" does in the C locale: by the number they
// begin with (none counts as 0, a leading "-" makes it negative), then by
// bytes. Numbers may be of any length.
func Compare(a, b string) int {
	if c := number(a).compare(number(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// leading is the number at the start of a name.
type leading struct {
	negative    bool
	whole, frac string // without leading and trailing zeros
}

func number(s string) leading {
	s = strings.TrimLeft(s, " \t")
	rest, neg := strings.CutPrefix(s, "-")
	whole := digits(rest)
	var frac string
	if r, ok := strings.CutPrefix(rest[len(whole):], "."); ok {
		frac = strings.TrimRight(digits(r), "0")
	}
	n := leading{neg, strings.TrimLeft(whole, "0"), frac}
	if n.whole == "" && n.frac == "" {
		n.negative = false // -0 is 0
	}
	return n
}

func digits(s string) string {
	for i, c := range []byte(s) {
		if c < '0' || c > '9' {
			return s[:i]
		}
	}
	return s
}

func (n leading) compare(m leading) int {
	if n.negative != m.negative {
		if n.negative {
			return -1
		}
		return 1
	}
	c := len(n.whole) - len(m.whole)
	if c == 0 {
		c = strings.Compare(n.whole, m.whole)
	}
	if c == 0 {
		c = strings.Compare(n.frac, m.frac)
	}
	if n.negative {
		return -c
	}
	return c
}

// needsShell says that a hook is a script without a "#!" line, which the
// kernel refuses and bash, the original runner, runs itself.
func needsShell(path string) (bool, error) {
	f, err := os.Open(path)
	if os.IsPermission(err) {
		return false, nil // may be executed without being readable
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, 4)
	n, err := f.Read(head)
	if n == 0 {
		return true, nil // empty: bash does nothing, successfully
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return !strings.HasPrefix(string(head[:n]), "#!") && string(head[:n]) != "\x7fELF", nil
}
