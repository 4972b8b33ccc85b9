// Package tree is a file tree in memory: what a root file system, an
// initramfs or an EFI system partition will hold, before any of them is
// written.
//
// A tree is read from a directory with [FromDir] or put together with
// [Tree.Add], edited, and handed to a writer (erofs, fat, initramfs). File
// contents stay where they are until a writer asks for them. Entries are kept
// sorted by path, so that the same tree always gives the same bytes; nothing
// of the machine that read it (inode numbers, access times, directory order)
// is kept.
package tree

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Kinds of entries: the file type bits of st_mode, inode(7).
const (
	ModeType    = 0o170000
	ModeRegular = 0o100000
	ModeDir     = 0o040000
	ModeSymlink = 0o120000
	ModeChar    = 0o020000
	ModeBlock   = 0o060000
	ModeFIFO    = 0o010000
	ModeSocket  = 0o140000
)

// Entry is one name in a tree.
type Entry struct {
	Path    string // slash-separated, relative to the root, clean; "." is the root itself
	Mode    uint32 // type and permission bits as in st_mode
	UID     uint32
	GID     uint32
	ModTime time.Time
	Size    int64             // regular files: length in bytes
	Target  string            // symbolic links: where to
	Major   uint32            // devices
	Minor   uint32            // devices
	Xattrs  map[string]string // full names such as "security.capability"; nil when there are none
	// LinkTo is the path of the entry that this one is a hard link to; all
	// other fields of a hard link but Path are those of that entry. Hard
	// links are always to an earlier path.
	LinkTo string

	open  func() (io.ReadCloser, error)
	stamp string
}

// Stamp says what stat(2) told of the file that the content comes from: size,
// inode number, and when it was last changed. While it is the same, so is the
// content, but for a restart of the machine. Empty where the content is not a
// file's. It is of this machine, and must not reach an output.
func (e *Entry) Stamp() string { return e.stamp }

// Kind returns the type bits of Mode.
func (e *Entry) Kind() uint32 { return e.Mode & ModeType }

// IsDir tells whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Kind() == ModeDir }

// Open returns a regular file's content; the caller closes it. The content is
// Size bytes long: a file that changed since it was read into the tree is an
// error when it is read.
func (e *Entry) Open() (io.ReadCloser, error) {
	if e.Kind() != ModeRegular {
		return nil, fmt.Errorf("%s: not a regular file", e.Path)
	}
	if e.open == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	rc, err := e.open()
	if err != nil {
		return nil, err
	}
	return &exact{rc: rc, left: e.Size, path: e.Path}, nil
}

// ReadFile returns a regular file's whole content.
func (e *Entry) ReadFile() ([]byte, error) {
	rc, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b := make([]byte, e.Size)
	if n, err := io.ReadFull(rc, b); err != nil && err != io.EOF {
		return b[:n], err
	}
	// What is there beyond Size is an error.
	if _, err := rc.Read(make([]byte, 1)); err != io.EOF {
		return b, err
	}
	return b, nil
}

// exact reads exactly left bytes and fails when there are fewer or more.
type exact struct {
	rc   io.ReadCloser
	left int64
	path string
}

func (x *exact) Read(p []byte) (int, error) {
	if x.left == 0 {
		var one [1]byte
		if n, _ := x.rc.Read(one[:]); n > 0 {
			return 0, fmt.Errorf("%s: grew while it was read", x.path)
		}
		return 0, io.EOF
	}
	if int64(len(p)) > x.left {
		p = p[:x.left]
	}
	n, err := x.rc.Read(p)
	x.left -= int64(n)
	if err == io.EOF && x.left > 0 {
		return n, fmt.Errorf("%s: shrank while it was read", x.path)
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (x *exact) Close() error { return x.rc.Close() }

// Tree is a set of entries by path. The zero value is not usable; see New.
type Tree struct {
	entries map[string]*Entry
	sorted  []*Entry // nil when an entry was added or removed since
}

// New returns a tree that holds only its root directory, mode 0755.
func New() *Tree {
	t := &Tree{entries: map[string]*Entry{}}
	t.Add(&Entry{Path: ".", Mode: ModeDir | 0o755})
	return t
}

// Add puts an entry into the tree in place of any entry of that path. Other
// hard links to a replaced file keep what it was. Add does not look at the
// parent: writers fail where that is no directory.
func (t *Tree) Add(e *Entry) {
	if old := t.entries[e.Path]; old != nil && old != e && t.linked(old) {
		delete(t.entries, e.Path)
		t.sorted = nil
		t.relink()
	}
	t.entries[e.Path] = e
	t.sorted = nil
}

// linked tells whether another entry is a hard link to e.
func (t *Tree) linked(e *Entry) bool {
	if e.IsDir() || e.LinkTo != "" {
		return false
	}
	for _, other := range t.entries {
		if other.LinkTo == e.Path {
			return true
		}
	}
	return false
}

// AddFile puts a regular file with the given content into the tree, and its
// parent directories (mode 0755) where nothing has their names; see Add.
func (t *Tree) AddFile(p string, perm uint32, data []byte) *Entry {
	p = Clean(p)
	t.AddParents(p)
	e := &Entry{Path: p, Mode: ModeRegular | perm, Size: int64(len(data)),
		open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
	t.Add(e)
	return e
}

// AddParents adds the missing parent directories of p, mode 0755.
func (t *Tree) AddParents(p string) {
	for d := path.Dir(p); d != "." && t.entries[d] == nil; d = path.Dir(d) {
		t.Add(&Entry{Path: d, Mode: ModeDir | 0o755})
	}
}

// Lookup returns the entry at p, or nil. It does not follow symbolic links.
func (t *Tree) Lookup(p string) *Entry { return t.entries[Clean(p)] }

// Len is the number of entries, the root included.
func (t *Tree) Len() int { return len(t.entries) }

// Remove takes p and everything below it out of the tree.
func (t *Tree) Remove(p string) {
	p = Clean(p)
	t.RemoveFunc(func(e *Entry) bool { return e.Path == p || strings.HasPrefix(e.Path, p+"/") })
}

// RemoveFunc takes every entry out of the tree for which drop is true, and
// everything below it; the root stays. Another hard link to a removed file
// becomes the file itself.
func (t *Tree) RemoveFunc(drop func(*Entry) bool) {
	gone := "" // the directory that was dropped last, with a slash
	left := make([]*Entry, 0, len(t.entries))
	for _, e := range t.All() {
		if e.Path == "." || (gone == "" || !strings.HasPrefix(e.Path, gone)) && !drop(e) {
			left = append(left, e)
			continue
		}
		if e.IsDir() && (gone == "" || !strings.HasPrefix(e.Path, gone)) {
			gone = e.Path + "/"
		}
		delete(t.entries, e.Path)
	}
	if len(left) == len(t.sorted) {
		return
	}
	t.sorted = left
	t.relink()
}

// relink gives each group of hard links whose first path is gone a new first.
func (t *Tree) relink() {
	heir := map[string]string{}
	for _, e := range t.All() {
		if e.LinkTo == "" || t.entries[e.LinkTo] != nil {
			continue
		}
		if h, ok := heir[e.LinkTo]; ok {
			e.LinkTo = h
			continue
		}
		heir[e.LinkTo] = e.Path
		e.LinkTo = ""
	}
}

// All yields every entry in path order, the root first and each directory
// before what it holds. The tree must not be changed by the loop's body.
func (t *Tree) All() iter.Seq2[int, *Entry] {
	if t.sorted == nil {
		t.sorted = slices.SortedFunc(maps.Values(t.entries), func(a, b *Entry) int { return Compare(a.Path, b.Path) })
	}
	return slices.All(t.sorted)
}

// Below returns the entries of the directory p and everything under it, p
// itself not included, in path order.
func (t *Tree) Below(p string) []*Entry {
	p = Clean(p)
	var out []*Entry
	for _, e := range t.All() {
		if e.Path != "." && (p == "." || strings.HasPrefix(e.Path, p+"/")) {
			out = append(out, e)
		}
	}
	return out
}

// ClampTimes makes every modification time that is later than limit equal to
// it; an entry without a time gets limit too.
func (t *Tree) ClampTimes(limit time.Time) {
	for _, e := range t.entries {
		if e.ModTime.After(limit) || e.ModTime.IsZero() {
			e.ModTime = limit
		}
	}
}

// Clean makes a path the kind that Entry.Path is: relative, slash-separated,
// without "." or "..". ".." never leaves the tree.
func Clean(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

// Compare orders paths so that a directory comes right before what it holds:
// it compares name by name, each bytewise.
func Compare(a, b string) int {
	if a == "." || b == "." {
		switch {
		case a == b:
			return 0
		case a == ".":
			return -1
		}
		return 1
	}
	n := min(len(a), len(b))
	for i := range n {
		switch {
		case a[i] == b[i]:
		case a[i] == '/': // where a name ends, one that goes on is greater
			return -1
		case b[i] == '/':
			return 1
		default:
			return cmp.Compare(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}
