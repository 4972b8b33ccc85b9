// Package vmdk writes disk images in VMware's format, and reads them: one file
// with the descriptor in it, "monolithicSparse" (VMware, "Virtual Disk Format
// 5.0", hosted sparse extents). It is what qemu-img makes by default; VMware's
// desktop products, VirtualBox and QEMU take it.
//
// The same disk under the same name always gives the same bytes: grains are
// written in the order of the disk, and the content identifier is a digest of
// them. Grains of zeros take no space.
package vmdk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/sparse"
)

const (
	sectorSize   = 512
	grainSectors = 128 // as most writers have it
	grainSize    = grainSectors * sectorSize
	tableEntries = 512 // grains that one grain table leads to
	tableSectors = tableEntries * 4 / sectorSize
	// The descriptor's place, which holds more than is ever written.
	descriptorAt      = 1
	descriptorSectors = 20

	// MaxSize is the largest disk the format holds, in bytes: grains are found
	// by 32-bit sector numbers.
	MaxSize = 2<<40 - 1<<30
)

// Write writes the raw disk src as a VMDK to dst, which must be empty. name is
// the file name that the descriptor has for the file itself. The virtual size
// is rounded up to a multiple of 512.
func Write(ctx context.Context, dst, src *os.File, name string) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if fi.Size() > MaxSize {
		return fmt.Errorf("vmdk: a disk of %d bytes is larger than the format's %d", fi.Size(), int64(MaxSize))
	}
	if strings.ContainsAny(name, "\"\r\n") || len(name) > 255 {
		return fmt.Errorf("vmdk: file name %q cannot stand in a descriptor", name)
	}
	r, err := sparse.NewReader(src)
	if err != nil {
		return err
	}
	l := newLayout((fi.Size() + sectorSize - 1) / sectorSize)
	w := &writer{dst: dst, layout: l, end: l.overhead, grains: make([]uint32, l.tables*tableEntries), sum: sha256.New()}
	if err := w.data(command.Reader(ctx, r)); err != nil {
		return err
	}
	return w.head(name)
}

// layout is where the parts of the file lie. All numbers are sectors, but
// tables.
type layout struct {
	capacity  int64 // of the disk
	tables    int64 // grain tables
	redundant int64 // the copy of the directory, its tables behind it
	directory int64 // the same once more
	overhead  int64 // what lies before the first grain
}

func newLayout(capacity int64) layout {
	l := layout{capacity: capacity, redundant: descriptorAt + descriptorSectors}
	l.tables = ceil(capacity, tableEntries*grainSectors)
	each := l.directorySectors() + l.tables*tableSectors
	l.directory = l.redundant + each
	l.overhead = ceil(l.directory+each, grainSectors) * grainSectors
	return l
}

func (l layout) directorySectors() int64 { return ceil(l.tables*4, sectorSize) }

func ceil(a, b int64) int64 { return (a + b - 1) / b }

type writer struct {
	dst    *os.File
	layout layout
	end    int64     // sector behind the last grain written
	grains []uint32  // sector of each grain of the disk; 0 for zeros
	sum    hash.Hash // of the grains and their numbers
}

// data writes the grains that are not zeros.
func (w *writer) data(r io.Reader) error {
	buf, zeros := make([]byte, grainSize), make([]byte, grainSize)
	for i := range int(ceil(w.layout.capacity, grainSectors)) {
		n, err := io.ReadFull(r, buf)
		if err != nil && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("read grain %d: %w", i, err)
		}
		clear(buf[n:])
		if bytes.Equal(buf, zeros) {
			continue
		}
		if _, err := w.dst.WriteAt(buf, w.end*sectorSize); err != nil {
			return err
		}
		w.grains[i] = uint32(w.end)
		w.end += grainSectors
		_ = binary.Write(w.sum, binary.LittleEndian, uint64(i)) // a hash takes everything
		w.sum.Write(buf)
	}
	return nil
}

// head writes what lies before the grains.
func (w *writer) head(name string) error {
	l := w.layout
	b := make([]byte, l.overhead*sectorSize)
	le := binary.LittleEndian
	copy(b, Magic)
	le.PutUint32(b[4:], 1) // version
	le.PutUint32(b[8:], 3) // line ends can be checked; there is a redundant directory
	le.PutUint64(b[12:], uint64(l.capacity))
	le.PutUint64(b[20:], grainSectors)
	le.PutUint64(b[28:], descriptorAt)
	le.PutUint64(b[36:], descriptorSectors)
	le.PutUint32(b[44:], tableEntries)
	le.PutUint64(b[48:], uint64(l.redundant))
	le.PutUint64(b[56:], uint64(l.directory))
	le.PutUint64(b[64:], uint64(l.overhead))
	copy(b[73:], "\n \r\n") // a transfer as text would change them
	copy(b[descriptorAt*sectorSize:], w.descriptor(name))
	for _, at := range []int64{l.redundant, l.directory} {
		tables := at + l.directorySectors()
		for i := range l.tables {
			le.PutUint32(b[at*sectorSize+i*4:], uint32(tables+i*tableSectors))
		}
		for i, g := range w.grains {
			le.PutUint32(b[tables*sectorSize+int64(i)*4:], g)
		}
	}
	_, err := w.dst.WriteAt(b, 0)
	return err
}

// descriptor describes the disk in words.
func (w *writer) descriptor(name string) string {
	// The last two values mean "no content" and are never taken.
	cid := binary.LittleEndian.Uint32(w.sum.Sum(nil)) &^ (1 << 31)
	const heads, sectors = 16, 63
	cylinders := min(w.layout.capacity/(heads*sectors), 16383)
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.adapterType = "ide"
`, cid, w.layout.capacity, name, cylinders, heads, sectors)
}
