// Package fat writes FAT12, FAT16 and FAT32 file systems: EFI system
// partitions and seed disks. A [Reader] reads single files of such volumes,
// whoever made them.
//
// It writes only whole volumes: a [tree.Tree] goes in, the bytes of
// a volume come out, the same bytes for the same tree and options. Every file
// and directory is one contiguous run of clusters, in path order, so files
// can be streamed and a volume is written in one pass.
//
// The format is that of Microsoft's "FAT32 File System Specification"
// (fatgen103). Names that are not plain upper-case 8.3 names get a VFAT long
// name beside their short one. Owners and permissions have no place in FAT
// and are left out; a hard link becomes a copy; anything else that FAT cannot
// hold is an error.
package fat

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"goldsmith/internal/tree"
)

// Options describes the volume. The zero value is usable.
type Options struct {
	// Label is the volume's name: up to 11 ASCII characters, stored in upper
	// case. Empty means no name.
	Label string
	// VolumeID is the serial number that blkid shows as UUID.
	VolumeID uint32
	// Size of the volume in bytes, rounded down to whole 512-byte sectors; 0
	// means as small as the content fits.
	Size int64
	// Type is 12, 16 or 32. 0 means by size: FAT12 below 4 MiB, FAT16 below
	// 33 MiB, FAT32 from there.
	Type int
	// Time is given to the label and to entries that have no time of their
	// own. FAT holds 1980 to 2107 in steps of two seconds; other times are
	// moved to the nearest it can hold. All times are stored as UTC.
	Time time.Time
}

const sectorSize = 512

// copySize is how much of a file is moved at once.
const copySize = 1 << 20

// Write makes a volume of t on w, which must read as zeros where the volume
// will be: blocks of zeros are skipped. It returns the volume's size in bytes;
// w is at least that long afterwards.
func Write(w io.WriterAt, t *tree.Tree, o Options) (int64, error) {
	v, root, err := arrange(t, o)
	if err != nil {
		return 0, err
	}
	v.w = w
	if err := v.write(root); err != nil {
		return 0, err
	}
	return v.layout.total * sectorSize, nil
}

// Offset tells where in the volume that Write makes of t the content of the
// file at path begins, in bytes. It lies there in one piece.
func Offset(t *tree.Tree, o Options, path string) (int64, error) {
	v, root, err := arrange(t, o)
	if err != nil {
		return 0, err
	}
	at := int64(-1)
	_ = root.walk(func(n *node) error {
		if n.entry.Path == path && !n.isDir() && n.entry.Size > 0 {
			at = v.sectorOf(n) * sectorSize
		}
		return nil
	})
	if at < 0 {
		return 0, fmt.Errorf("%s: no file with content", path)
	}
	return at, nil
}

// arrange decides where everything goes.
func arrange(t *tree.Tree, o Options) (*volume, *node, error) {
	label, err := labelBytes(o.Label)
	if err != nil {
		return nil, nil, err
	}
	root, err := newNodes(t)
	if err != nil {
		return nil, nil, err
	}
	root.labelled = o.Label != ""
	l, err := plan(o, root)
	if err != nil {
		return nil, nil, err
	}
	return &volume{layout: l, options: o, label: label, used: place(l, root)}, root, nil
}

// volume is one volume while it is written.
type volume struct {
	w       io.WriterAt
	layout  layout
	options Options
	label   [11]byte
	used    int64  // allocated clusters
	buf     []byte // for file contents
}

func (v *volume) write(root *node) error {
	if err := v.at(v.layout.total-1, make([]byte, sectorSize)); err != nil {
		return err
	}
	if err := v.writeBoot(root); err != nil {
		return err
	}
	if err := v.writeTables(root); err != nil {
		return err
	}
	v.buf = make([]byte, copySize)
	return root.walk(func(n *node) error {
		if n.isDir() {
			return v.at(v.sectorOf(n), v.directory(n))
		}
		if err := v.copy(n); err != nil {
			return fmt.Errorf("%s: %w", n.entry.Path, err)
		}
		return nil
	})
}

func (v *volume) at(sector int64, b []byte) error {
	_, err := v.w.WriteAt(b, sector*sectorSize)
	return err
}

// sectorOf is where the content of n begins.
func (v *volume) sectorOf(n *node) int64 {
	if n.cluster == 0 { // the fixed root directory of FAT12 and FAT16
		return v.layout.reserved + fatCopies*v.layout.fatSectors
	}
	return v.layout.dataStart() + (int64(n.cluster)-2)*v.layout.perCluster
}

// copy moves the content of a file to its place.
func (v *volume) copy(n *node) error {
	if n.entry.Size == 0 {
		return nil
	}
	r, err := n.entry.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	off := v.sectorOf(n) * sectorSize
	for done := int64(0); ; {
		k, err := io.ReadFull(r, v.buf)
		if k > 0 && !allZero(v.buf[:k]) {
			if _, err := v.w.WriteAt(v.buf[:k], off+done); err != nil {
				return err
			}
		}
		done += int64(k)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			if done != n.entry.Size {
				return fmt.Errorf("read %d bytes of %d", done, n.entry.Size)
			}
			return nil
		case err != nil:
			return err
		}
	}
}

func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
