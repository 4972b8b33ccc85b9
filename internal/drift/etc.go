package drift

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Etc is what /etc should be.
type Etc struct {
	Upper string   // the directory with what differs from the image's: an overlay's upper layer
	Image string   // the image's root
	Kept  []string // paths and patterns that are the machine's own
	// Rendered are the files that configuration makes, by their whole path: what
	// is wrong with them, or "".
	Rendered map[string]string
}

// Check compares. Findings are sorted as directories are walked, those of
// Rendered come first.
func (e Etc) Check() ([]Drift, error) {
	c := &checker{Etc: e}
	for _, p := range slices.Sorted(maps.Keys(e.Rendered)) {
		if wrong := e.Rendered[p]; wrong != "" && !keeps(e.Kept, p) {
			c.add(Rendered, p, wrong)
		}
	}
	var now, was unix.Stat_t
	if err := errors.Join(lstat(c.upper("/etc"), &now), lstat(c.image("/etc"), &was)); err != nil {
		return nil, err
	}
	if detail := attributes(&now, &was); detail != "" && !keeps(c.Kept, "/etc") {
		c.add(Changed, "/etc", detail)
	}
	err := c.directory("/etc")
	return c.found, err
}

type checker struct {
	Etc
	found []Drift
}

func (c *checker) add(k Kind, path, detail string) {
	c.found = append(c.found, Drift{k, path, detail})
}

// upper is where the upper layer has a path of the machine.
func (c *checker) upper(path string) string { return filepath.Join(c.Upper, path[len("/etc"):]) }

func (c *checker) image(path string) string { return filepath.Join(c.Image, path) }

func (c *checker) directory(dir string) error {
	entries, err := os.ReadDir(c.upper(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := dir + "/" + e.Name()
		_, rendered := c.Rendered[path]
		if rendered || keeps(c.Kept, path) {
			continue
		}
		if err := c.entry(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // the machine goes on meanwhile
			return err
		}
	}
	return nil
}

func (c *checker) entry(path string) error {
	var now, was unix.Stat_t
	if err := lstat(c.upper(path), &now); err != nil {
		return err
	}
	inImage := unix.Lstat(c.image(path), &was) == nil
	switch {
	case now.Mode&unix.S_IFMT == unix.S_IFCHR && now.Rdev == 0: // removed from what lies below
		if inImage {
			c.add(Removed, path, "")
		}
		return nil
	case now.Mode&unix.S_IFMT == unix.S_IFDIR:
		return c.subdirectory(path, &now, &was, inImage)
	case !inImage:
		c.add(Added, path, "")
		return nil
	}
	detail, err := c.differs(path, &now, &was)
	if detail != "" {
		c.add(Changed, path, detail)
	}
	return err
}

func lstat(path string, st *unix.Stat_t) error {
	if err := unix.Lstat(path, st); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return nil
}

// subdirectory looks at a directory of the upper layer. One that the image has
// not is told when nothing is in it that should be, or is told itself.
func (c *checker) subdirectory(path string, now, was *unix.Stat_t, inImage bool) error {
	switch {
	case inImage && was.Mode&unix.S_IFMT != unix.S_IFDIR:
		c.add(Changed, path, "is a directory now")
	case inImage:
		if detail := attributes(now, was); detail != "" {
			c.add(Changed, path, detail)
		}
		if err := c.hidden(path); err != nil {
			return err
		}
	default:
		if entries, err := os.ReadDir(c.upper(path)); err == nil && len(entries) == 0 {
			c.add(Added, path, "a directory")
		}
	}
	return c.directory(path)
}

// hidden tells what the image has in a directory that was removed and made
// again: an opaque one, in the terms of overlayfs.
func (c *checker) hidden(dir string) error {
	var value [1]byte
	n, err := unix.Lgetxattr(c.upper(dir), "trusted.overlay.opaque", value[:])
	if err != nil || n != 1 || value[0] != 'y' {
		return nil
	}
	entries, err := os.ReadDir(c.image(dir))
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if _, err := os.Lstat(c.upper(path)); errors.Is(err, fs.ErrNotExist) && !keeps(c.Kept, path) {
			c.add(Removed, path, "")
		}
	}
	return err
}

// differs says how a file is not the image's.
func (c *checker) differs(path string, now, was *unix.Stat_t) (string, error) {
	if now.Mode&unix.S_IFMT != was.Mode&unix.S_IFMT {
		return "another type of file", nil
	}
	same := true
	var err error
	switch now.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if same = now.Size == was.Size; same {
			same, err = equal(c.upper(path), c.image(path))
		}
	case unix.S_IFLNK:
		var a, b string
		a, err = os.Readlink(c.upper(path))
		if err == nil {
			b, err = os.Readlink(c.image(path))
		}
		same = a == b
		now.Mode = was.Mode // of a link it means nothing
	}
	if err != nil {
		return "", err
	}
	if !same {
		return "content", nil
	}
	return attributes(now, was), nil
}

// attributes says which of mode and owner differ.
func attributes(now, was *unix.Stat_t) string {
	switch {
	case now.Mode != was.Mode:
		return "mode"
	case now.Uid != was.Uid || now.Gid != was.Gid:
		return "owner"
	}
	return ""
}

// equal compares two files.
func equal(a, b string) (bool, error) {
	f, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer g.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(f, x)
		m, other := io.ReadFull(g, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if err != nil || other != nil { // at the end of either
			return ended(err) && ended(other), nil
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
