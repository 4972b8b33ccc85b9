package tree

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FromDir reads the tree below dir: owners, modes, times, hard links, devices
// and extended attributes but those that this machine gave (hostAttribute). It
// never follows a symbolic link. Contents are read only when a writer opens an
// entry, so dir must stay as it is until then.
func FromDir(dir string) (*Tree, error) {
	t := &Tree{entries: map[string]*Entry{}}
	links := map[[2]uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return fmt.Errorf("lstat %s: %w", p, err)
		}
		e := &Entry{
			Path: rel, Mode: st.Mode, UID: st.Uid, GID: st.Gid,
			ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec).UTC(),
		}
		if err := e.fill(p, &st); err != nil {
			return err
		}
		if st.Nlink > 1 && !d.IsDir() {
			id := [2]uint64{st.Dev, st.Ino}
			if first, ok := links[id]; ok {
				e.LinkTo = first
			} else {
				links[id] = rel
			}
		}
		t.Add(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.orderLinks()
	return t, nil
}

// orderLinks makes every hard link point to the first path of its group in
// tree order; a directory walk visits names in another order.
func (t *Tree) orderLinks() {
	first := map[string]string{}
	group := func(e *Entry) string {
		if e.LinkTo != "" {
			return e.LinkTo
		}
		return e.Path
	}
	for _, e := range t.All() {
		g := group(e)
		switch f, seen := first[g]; {
		case !seen:
			first[g] = e.Path
			e.LinkTo = ""
		default:
			e.LinkTo = f
		}
	}
}

func (e *Entry) fill(p string, st *unix.Stat_t) error {
	switch e.Kind() {
	case ModeRegular:
		e.Size = st.Size
		e.stamp = fmt.Sprintf("%d %d %d.%d %d.%d", st.Size, st.Ino, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
		e.open = func() (io.ReadCloser, error) { return os.Open(p) }
	case ModeSymlink:
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		e.Target = target
	case ModeChar, ModeBlock:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return e.readXattrs(p)
}

// hostAttribute tells whether an extended attribute is of the machine that
// holds the directory, not of the tree: an overlay's own marks, and the labels
// that a machine with SELinux gives every file that is made on it. With them,
// the same image built there would have other bytes.
func hostAttribute(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || name == "security.selinux"
}

func (e *Entry) readXattrs(p string) error {
	size, err := unix.Llistxattr(p, nil)
	if err == unix.ENOTSUP || size == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes of %s: %w", p, err)
	}
	buf := make([]byte, size)
	if size, err = unix.Llistxattr(p, buf); err != nil {
		return fmt.Errorf("list attributes of %s: %w", p, err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:size]), "\x00"), "\x00") {
		// An overlay counts the attributes it hides, so the list may be empty.
		if name == "" || hostAttribute(name) {
			continue
		}
		n, err := unix.Lgetxattr(p, name, nil)
		if err != nil {
			return fmt.Errorf("attribute %s of %s: %w", name, p, err)
		}
		val := make([]byte, n)
		if n > 0 {
			if n, err = unix.Lgetxattr(p, name, val); err != nil {
				return fmt.Errorf("attribute %s of %s: %w", name, p, err)
			}
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = string(val[:n])
	}
	return nil
}

// AddFrom puts the host's regular file src into the tree as p.
func (t *Tree) AddFrom(p string, perm uint32, src string) (*Entry, error) {
	fi, err := os.Stat(src)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", src)
	}
	p = Clean(p)
	t.AddParents(p)
	e := &Entry{Path: p, Mode: ModeRegular | perm, Size: fi.Size(),
		open: func() (io.ReadCloser, error) { return os.Open(src) }}
	t.Add(e)
	return e, nil
}
