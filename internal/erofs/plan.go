package erofs

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/tree"
)

// node is one inode and where everything of it goes.
type node struct {
	entry  *tree.Entry
	parent *node // directories only; the root is its own
	ino    uint32
	nlink  uint32
	off    int64 // of the inode, in bytes
	size   int64
	block  uint32 // of the content, when it is not inline
	inline bool
	xattrs []byte
	names  []name // directories: what they hold, "." and ".." included, sorted
}

// name is one directory entry.
type name struct {
	name string
	node *node
}

func (n *node) nid() uint64 { return uint64(n.off) / nidUnit }

func (n *node) layout() int {
	if n.inline {
		return layoutInline
	}
	return layoutPlain
}

// plan is the whole image, laid out but not written.
type plan struct {
	inodes  []*node
	outside []*node // those with content of their own blocks, in block order
	blocks  uint32
	time    time.Time // for entries that have none
}

func newPlan(t *tree.Tree, fallback time.Time) (*plan, error) {
	p := &plan{time: fallback}
	byPath := make(map[string]*node, t.Len())
	for _, e := range t.All() {
		if err := p.add(byPath, e); err != nil {
			return nil, fmt.Errorf("erofs: %w", err)
		}
	}
	if len(p.inodes) == 0 || !p.inodes[0].entry.IsDir() || p.inodes[0].entry.Path != "." {
		return nil, fmt.Errorf("erofs: the tree has no root directory")
	}
	off := int64(firstInode)
	for _, n := range p.inodes {
		off = n.place(off)
	}
	return p, p.allocate(off)
}

func (p *plan) add(byPath map[string]*node, e *tree.Entry) error {
	if e.LinkTo != "" {
		n := byPath[e.LinkTo]
		if n == nil || n.entry.IsDir() {
			return fmt.Errorf("%s: hard link to %s, which is not an earlier file", e.Path, e.LinkTo)
		}
		n.nlink++
		return enter(byPath, e.Path, n)
	}
	n := &node{entry: e, ino: uint32(len(p.inodes) + 1), nlink: 1, size: e.Size}
	var err error
	if n.xattrs, err = encodeXattrs(e.Xattrs); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	switch e.Kind() {
	case tree.ModeDir:
		n.nlink, n.parent, n.size = 2, n, 0
		n.names = []name{{".", n}, {"..", n}}
	case tree.ModeSymlink:
		n.size = int64(len(e.Target))
		if n.size == 0 || n.size >= BlockSize {
			return fmt.Errorf("%s: link target of %d bytes", e.Path, n.size)
		}
	case tree.ModeRegular:
		if e.Size < 0 {
			return fmt.Errorf("%s: negative size", e.Path)
		}
	case tree.ModeChar, tree.ModeBlock, tree.ModeFIFO, tree.ModeSocket:
		n.size = 0
		if e.Major >= 1<<12 || e.Minor >= 1<<20 {
			return fmt.Errorf("%s: device number %d:%d is too large", e.Path, e.Major, e.Minor)
		}
	default:
		return fmt.Errorf("%s: unknown file type %#o", e.Path, e.Mode)
	}
	p.inodes = append(p.inodes, n)
	if e.Path == "." {
		byPath["."] = n
		return nil
	}
	return enter(byPath, e.Path, n)
}

// enter gives n a name in its directory.
func enter(byPath map[string]*node, p string, n *node) error {
	dir := byPath[path.Dir(p)]
	if dir == nil || !dir.entry.IsDir() {
		return fmt.Errorf("%s: its parent is not a directory", p)
	}
	base := path.Base(p)
	if len(base) > 255 || base == "." || base == ".." || strings.ContainsRune(base, 0) {
		return fmt.Errorf("%s: the name cannot be stored", p)
	}
	byPath[p] = n
	dir.names = append(dir.names, name{base, n})
	if n.entry.IsDir() {
		n.parent, n.names[1].node = dir, dir
		dir.nlink++
	}
	return nil
}

// place gives the inode its offset, at or after off, and returns where the
// next one may start. An inode, its attributes and its inline content share
// one block; only attributes longer than a block may leave it.
func (n *node) place(off int64) int64 {
	head := int64(inodeSize + len(n.xattrs))
	limit := int64(BlockSize)
	if n.entry.IsDir() {
		slices.SortFunc(n.names, func(a, b name) int { return strings.Compare(a.name, b.name) })
		n.size = dirSize(n.names)
	} else if n.entry.Kind() == tree.ModeRegular {
		limit = head + maxInline
	}
	n.inline = n.size > 0 && head+n.size <= min(limit, BlockSize)
	if n.inline {
		head += n.size
	}
	if left := BlockSize - off%BlockSize; head > left && left < BlockSize {
		off += left
	}
	n.off = off
	return (off + head + nidUnit - 1) / nidUnit * nidUnit
}

// allocate gives every content that is not inline its blocks, directories and
// links first: what a path walk reads lies together.
func (p *plan) allocate(metaEnd int64) error {
	next := (metaEnd + BlockSize - 1) / BlockSize
	for _, files := range []bool{false, true} {
		for _, n := range p.inodes {
			if n.inline || n.size == 0 || (n.entry.Kind() == tree.ModeRegular) != files {
				continue
			}
			p.outside = append(p.outside, n)
			n.block = uint32(next)
			next += (n.size + BlockSize - 1) / BlockSize
			if next > math.MaxUint32 || n.size > math.MaxInt64-BlockSize {
				return fmt.Errorf("erofs: the image would exceed 16 TiB")
			}
		}
	}
	p.blocks = uint32(next)
	return nil
}

// dirSize is the length of a directory's content. Each block starts with its
// entries and ends with their names; no name crosses into the next block.
func dirSize(names []name) int64 {
	blocks, used := int64(0), 0
	for _, d := range names {
		need := direntSize + len(d.name)
		if used+need > BlockSize {
			blocks++
			used = 0
		}
		used += need
	}
	return blocks*BlockSize + int64(used)
}

// directory renders a directory's content.
func (n *node) directory() []byte {
	out := make([]byte, 0, n.size)
	for rest := n.names; len(rest) > 0; {
		count, used := 0, 0
		for count < len(rest) && used+direntSize+len(rest[count].name) <= BlockSize {
			used += direntSize + len(rest[count].name)
			count++
		}
		at := count * direntSize
		for _, d := range rest[:count] {
			out = binary.LittleEndian.AppendUint64(out, d.node.nid())
			out = binary.LittleEndian.AppendUint16(out, uint16(at))
			out = append(out, fileType(d.node.entry.Kind()), 0)
			at += len(d.name)
		}
		for _, d := range rest[:count] {
			out = append(out, d.name...)
		}
		if rest = rest[count:]; len(rest) > 0 {
			out = append(out, make([]byte, BlockSize-used)...)
		}
	}
	return out
}

// fileType is the kernel's FT_* number of a kind.
func fileType(kind uint32) byte {
	switch kind {
	case tree.ModeRegular:
		return 1
	case tree.ModeDir:
		return 2
	case tree.ModeChar:
		return 3
	case tree.ModeBlock:
		return 4
	case tree.ModeFIFO:
		return 5
	case tree.ModeSocket:
		return 6
	case tree.ModeSymlink:
		return 7
	}
	return 0
}

// xattrPrefixes are the EROFS_XATTR_INDEX_* numbers. Names outside of these
// cannot be stored.
var xattrPrefixes = []struct {
	prefix string
	index  byte
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

const xattrHeader = 12

// encodeXattrs renders struct erofs_xattr_ibody_header and its entries.
func encodeXattrs(attrs map[string]string) ([]byte, error) {
	if len(attrs) == 0 {
		return nil, nil
	}
	b := make([]byte, xattrHeader)
	for _, full := range slices.Sorted(maps.Keys(attrs)) {
		rest, index := full, byte(0)
		for _, p := range xattrPrefixes {
			if after, ok := strings.CutPrefix(full, p.prefix); ok {
				rest, index = after, p.index
				break
			}
		}
		value := attrs[full]
		if index == 0 || len(rest) > 255 || len(value) > math.MaxUint16 {
			return nil, fmt.Errorf("attribute %q cannot be stored", full)
		}
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(append(b, rest...), value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	if (len(b)-xattrHeader)/4+1 > math.MaxUint16 {
		return nil, fmt.Errorf("attributes of %d bytes cannot be stored", len(b))
	}
	return b, nil
}

// xattrUnits is i_xattr_icount: how readers know where the attributes end.
func (n *node) xattrUnits() uint16 {
	if len(n.xattrs) == 0 {
		return 0
	}
	return uint16((len(n.xattrs)-xattrHeader)/4 + 1)
}
