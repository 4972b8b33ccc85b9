package ext4

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"goldsmith/internal/tree"
)

// Limits of what makes sense.
const (
	maxPath      = 4096    // bytes, Linux's PATH_MAX
	maxDirectory = 1 << 30 // bytes
	copySize     = 1 << 20
)

// Content is the content of a regular file. It must be used before the
// function returns that was given it.
type Content struct {
	fs  *FS
	ino *inode
}

// CopyTo writes the content to w, but for holes, which read as zeros.
func (c *Content) CopyTo(w io.WriterAt) error {
	if c.ino.flags&flagInline != 0 {
		s, err := c.ino.inline()
		if err != nil {
			return err
		}
		_, err = w.WriteAt([]byte(s), 0)
		return err
	}
	runs, err := c.fs.runs(c.ino)
	if err != nil {
		return err
	}
	buf := make([]byte, copySize)
	for _, r := range runs {
		at, end := r.logical*c.fs.blockSize, min((r.logical+r.count)*c.fs.blockSize, c.ino.size)
		src := io.NewSectionReader(c.fs.r, r.physical*c.fs.blockSize, end-at)
		n, err := io.CopyBuffer(io.NewOffsetWriter(w, at), src, buf)
		if err != nil {
			return err
		}
		if n != end-at {
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}

// Walk calls f for every name in the file system: each directory before what
// it holds, names sorted. A name for an inode that had one before is a hard
// link, with LinkTo set. Content is nil but for regular files that are no hard
// link. lost+found, which is the file system's own, is left out.
func (fs *FS) Walk(f func(e *tree.Entry, c *Content) error) error {
	fs.seen = 0
	w := &walker{fs: fs, f: f, first: map[uint32]string{}, dirs: map[uint32]bool{}}
	return w.visit(".", rootInode)
}

type walker struct {
	fs    *FS
	f     func(e *tree.Entry, c *Content) error
	first map[uint32]string // inodes with several names: the first of them
	dirs  map[uint32]bool   // directories that were entered
}

func (w *walker) visit(p string, number uint32) error {
	if len(p) > maxPath {
		return fmt.Errorf("ext4: a path longer than %d bytes: %.60s…", maxPath, p)
	}
	ino, err := w.fs.inode(number)
	if err != nil {
		return fmt.Errorf("ext4: %s: %w", p, err)
	}
	if p == "." && !ino.isDir() {
		return errors.New("ext4: the root is not a directory")
	}
	e, c, err := w.entry(p, ino)
	if err != nil {
		return fmt.Errorf("ext4: %s: %w", p, err)
	}
	if err := w.f(e, c); err != nil {
		return err
	}
	if !ino.isDir() {
		return nil
	}
	if w.dirs[number] {
		return fmt.Errorf("ext4: %s: a directory with two names", p)
	}
	w.dirs[number] = true
	list, err := w.fs.list(ino)
	if err != nil {
		return fmt.Errorf("ext4: %s: %w", p, err)
	}
	for _, d := range list {
		if p == "." && d.name == "lost+found" {
			continue
		}
		if err := w.visit(path.Join(p, d.name), d.inode); err != nil {
			return err
		}
	}
	return nil
}

// entry describes a name.
func (w *walker) entry(p string, ino *inode) (*tree.Entry, *Content, error) {
	e := &tree.Entry{Path: p, Mode: ino.mode, UID: ino.uid, GID: ino.gid, ModTime: ino.mtime, Xattrs: ino.xattrs}
	var c *Content
	switch ino.kind() {
	case tree.ModeRegular:
		e.Size, c = ino.size, &Content{w.fs, ino}
	case tree.ModeSymlink:
		var err error
		if e.Target, err = w.fs.target(ino); err != nil {
			return nil, nil, err
		}
		if strings.ContainsRune(e.Target, 0) {
			return nil, nil, errors.New("a symbolic link with a zero byte")
		}
	case tree.ModeChar, tree.ModeBlock:
		e.Major, e.Minor = ino.device()
	case tree.ModeDir, tree.ModeFIFO, tree.ModeSocket:
	default:
		return nil, nil, fmt.Errorf("inode %d: unknown kind of file %#o", ino.number, ino.kind())
	}
	if ino.links > 1 && !ino.isDir() {
		if first, ok := w.first[ino.number]; ok {
			e.LinkTo = first
			return e, nil, nil
		}
		w.first[ino.number] = p
	}
	return e, c, nil
}

// dirent is a name in a directory.
type dirent struct {
	name  string
	inode uint32
}

// list reads a directory, whether it has an index or not: the blocks of an
// index look like free space.
func (fs *FS) list(ino *inode) ([]dirent, error) {
	b, err := fs.content(ino, maxDirectory)
	if err != nil {
		return nil, err
	}
	var out []dirent
	if ino.flags&flagInline != 0 {
		// The first four bytes are the parent's number; then there are two
		// areas, in the inode and in an attribute.
		inside := min(len(b), len(ino.block))
		if inside < 4 {
			return nil, errors.New("a directory without its parent")
		}
		for _, part := range [][]byte{b[4:inside], b[inside:]} {
			if out, err = fs.dirents(out, part); err != nil {
				return nil, err
			}
		}
	} else {
		for ; len(b) > 0; b = b[min(int64(len(b)), fs.blockSize):] {
			if out, err = fs.dirents(out, b[:min(int64(len(b)), fs.blockSize)]); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(out, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(out); i++ {
		if out[i].name == out[i-1].name {
			return nil, fmt.Errorf("two names %q", out[i].name)
		}
	}
	return out, nil
}

// dirents adds the names of one block.
func (fs *FS) dirents(out []dirent, b []byte) ([]dirent, error) {
	for len(b) >= 8 {
		number, length := le.Uint32(b), int(le.Uint16(b[4:]))
		if length == 0 || length == 0xffff { // how 65536 is written
			length = 1 << 16
		}
		n := int(le.Uint16(b[6:]))
		if fs.incompat&featFiletype != 0 {
			n = int(b[6])
		}
		if length < 8 || length%4 != 0 || length > len(b) || number != 0 && 8+n > length {
			return nil, errors.New("a damaged directory")
		}
		name := string(b[8:min(len(b), 8+n)])
		b = b[length:]
		if number == 0 || name == "." || name == ".." {
			continue
		}
		if name == "" || strings.ContainsAny(name, "/\x00") {
			return nil, fmt.Errorf("a file named %q", name)
		}
		out = append(out, dirent{name, number})
	}
	return out, nil
}

// Exists tells whether there is a name at that path. Symbolic links are not
// followed.
func (fs *FS) Exists(p string) (bool, error) {
	number := uint32(rootInode)
	for name := range strings.SplitSeq(tree.Clean(p), "/") {
		fs.seen = 0
		ino, err := fs.inode(number)
		if err != nil {
			return false, err
		}
		if !ino.isDir() {
			return false, nil
		}
		list, err := fs.list(ino)
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(list, func(d dirent) bool { return d.name == name })
		if i < 0 {
			return false, nil
		}
		number = list[i].inode
	}
	return true, nil
}
