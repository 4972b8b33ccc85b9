package fat

import (
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"time"

	"goldsmith/internal/tree"
)

const (
	entrySize   = 32
	longPerSlot = 13 // UTF-16 units in one long name entry
	// A directory may not be longer than 2 MiB.
	maxSlots = 65535
)

const (
	attrVolume  = 0x08
	attrDir     = 0x10
	attrArchive = 0x20
	attrLong    = 0x0f
)

// node is a tree entry on its way to the volume.
type node struct {
	entry    *tree.Entry
	name     string
	short    [11]byte
	long     []uint16 // nil when short says it all
	parent   *node    // nil for the root
	children []*node
	labelled bool // the root: begins with the volume label
	// Where the content is. An empty file and the fixed root directory have
	// cluster 0.
	cluster  uint32
	clusters int64
}

func (n *node) isDir() bool { return n.entry.IsDir() }

// newNodes makes the nodes of a tree and names them.
func newNodes(t *tree.Tree) (*node, error) {
	var root *node
	byPath := map[string]*node{}
	for _, e := range t.All() {
		n := &node{entry: e, name: path.Base(e.Path)}
		switch e.Kind() {
		case tree.ModeDir:
			byPath[e.Path] = n
		case tree.ModeRegular:
			if e.Size > math.MaxUint32 {
				return nil, fmt.Errorf("%s: %d bytes are more than a file on FAT can have", e.Path, e.Size)
			}
		case tree.ModeSymlink:
			return nil, fmt.Errorf("%s: FAT cannot hold a symbolic link", e.Path)
		default:
			return nil, fmt.Errorf("%s: FAT holds files and directories only", e.Path)
		}
		if e.Path == "." {
			root = n
			continue
		}
		if n.parent = byPath[path.Dir(e.Path)]; n.parent == nil {
			return nil, fmt.Errorf("%s: its directory is not in the tree", e.Path)
		}
		n.parent.children = append(n.parent.children, n)
	}
	for _, e := range t.All() {
		n := byPath[e.Path]
		if n == nil {
			continue
		}
		if err := nameAll(n.children); err != nil {
			return nil, err
		}
		if n.slots() > maxSlots {
			return nil, fmt.Errorf("%s: more entries than a directory on FAT can have", e.Path)
		}
	}
	return root, nil
}

// walk calls f for n and everything below it in path order.
func (n *node) walk(f func(*node) error) error {
	if err := f(n); err != nil {
		return err
	}
	for _, c := range n.children {
		if err := c.walk(f); err != nil {
			return err
		}
	}
	return nil
}

// slots is how many 32-byte entries the directory n has.
func (n *node) slots() int64 {
	s := int64(0)
	switch {
	case n.parent != nil:
		s = 2 // "." and ".."
	case n.labelled:
		s = 1
	}
	for _, c := range n.children {
		s += 1 + ceil(int64(len(c.long)), longPerSlot)
	}
	return s
}

// own is how many clusters n itself takes.
func (n *node) own(l layout) int64 {
	switch {
	case !n.isDir():
		return ceil(n.entry.Size, l.clusterSize())
	case n.parent == nil && l.kind != 32:
		return 0
	}
	return max(1, ceil(n.slots()*entrySize, l.clusterSize()))
}

// need is how many clusters n and everything below it take.
func (n *node) need(l layout) int64 {
	sum := n.own(l)
	for _, c := range n.children {
		sum += c.need(l)
	}
	return sum
}

// place gives every node its clusters and returns how many there are.
func place(l layout, root *node) int64 {
	next := int64(2)
	_ = root.walk(func(n *node) error {
		if n.clusters = n.own(l); n.clusters > 0 {
			n.cluster = uint32(next)
			next += n.clusters
		}
		return nil
	})
	return next - 2
}

// directory is the content of the directory n.
func (v *volume) directory(n *node) []byte {
	b := make([]byte, 0, n.slots()*entrySize)
	if n.parent != nil {
		b = v.entry(b, [11]byte([]byte(".          ")), attrDir, n, n.cluster)
		up := n.parent.cluster
		if n.parent.parent == nil {
			up = 0 // the root directory is always 0 here
		}
		b = v.entry(b, [11]byte([]byte("..         ")), attrDir, n.parent, up)
	} else if n.labelled {
		b = v.entry(b, v.label, attrVolume, nil, 0)
	}
	for _, c := range n.children {
		b = longEntries(b, c)
		attr := byte(attrArchive)
		if c.isDir() {
			attr = attrDir
		}
		b = v.entry(b, c.short, attr, c, c.cluster)
	}
	return b
}

// entry appends one short entry. n is nil for the volume label.
func (v *volume) entry(b []byte, name [11]byte, attr byte, n *node, cluster uint32) []byte {
	when, size := v.options.Time, uint32(0)
	if n != nil && !n.entry.ModTime.IsZero() {
		when = n.entry.ModTime
	}
	if n != nil && !n.isDir() {
		size = uint32(n.entry.Size)
	}
	date, clock := stamp(when)
	le := binary.LittleEndian
	b = append(b, name[:]...)
	b = append(b, attr, 0, 0)
	b = le.AppendUint16(b, clock) // created
	b = le.AppendUint16(b, date)
	b = le.AppendUint16(b, date) // accessed
	b = le.AppendUint16(b, uint16(cluster>>16))
	b = le.AppendUint16(b, clock) // written
	b = le.AppendUint16(b, date)
	b = le.AppendUint16(b, uint16(cluster))
	return le.AppendUint32(b, size)
}

// longEntries appends the long name of n, last part first.
func longEntries(b []byte, n *node) []byte {
	le := binary.LittleEndian
	sum := checksum(n.short)
	parts := int(ceil(int64(len(n.long)), longPerSlot))
	for part := parts; part > 0; part-- {
		var units [longPerSlot]uint16
		for i := range units {
			switch k := (part-1)*longPerSlot + i; {
			case k < len(n.long):
				units[i] = n.long[k]
			case k > len(n.long):
				units[i] = 0xffff // after the terminating zero
			}
		}
		order := byte(part)
		if part == parts {
			order |= 0x40
		}
		b = append(b, order)
		for i, u := range units {
			switch i {
			case 5:
				b = append(b, attrLong, 0, sum)
			case 11:
				b = append(b, 0, 0)
			}
			b = le.AppendUint16(b, u)
		}
	}
	return b
}

// checksum ties long name entries to their short name.
func checksum(short [11]byte) byte {
	var s byte
	for _, c := range short {
		s = s>>1 | s<<7
		s += c
	}
	return s
}

// stamp is a time as FAT holds it.
func stamp(t time.Time) (date, clock uint16) {
	t = t.UTC()
	switch {
	case t.Year() < 1980:
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	case t.Year() > 2107:
		t = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	}
	y, m, d := t.Date()
	return uint16(y-1980)<<9 | uint16(m)<<5 | uint16(d),
		uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}
