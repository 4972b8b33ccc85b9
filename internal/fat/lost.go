package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Volume is where a volume lies: a file or a device that nobody has mounted.
type Volume interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// errOdd says that a volume needs more than its lost clusters freed.
var errOdd = errors.New("damaged")

const (
	maxTable   = 1 << 22 // clusters of a volume that is looked at
	maxDepth   = 16      // of directories
	clusterBad = 0x0ffffff7
	clusterEnd = 0x0ffffff8
	valueMask  = 0x0fffffff // the upper four bits of a value are to be kept
)

// Lost counts the clusters of a FAT32 volume that are taken and belong to no
// file: what a driver leaves that is stopped between the table and a directory.
// It returns them, ascending. Any other damage is an error, as is a file with
// more clusters than its size needs: what seems lost may belong to what is
// damaged. Another kind of FAT has none.
func Lost(r io.ReaderAt) ([]uint32, error) {
	t, err := readTable(r)
	if err != nil || t == nil {
		return nil, err
	}
	return t.lost()
}

// FreeLost gives the lost clusters of a FAT32 volume back, and returns how many
// bytes these are. Nothing is changed where there is other damage. Cut short, it
// leaves clusters that are lost still: the first table, which drivers read, is
// written when all else is on the disk.
func FreeLost(f Volume) (int64, error) {
	t, err := readTable(f)
	if err != nil || t == nil {
		return 0, err
	}
	lost, err := t.lost()
	if err != nil || len(lost) == 0 {
		return 0, err
	}
	dirty := map[int64]bool{} // sectors of a table
	for _, c := range lost {
		t.set(c, 0)
		dirty[int64(c)*4/t.sector] = true
	}
	if err := t.writeInfo(f); err != nil {
		return 0, err
	}
	for i := t.copies - 1; i >= 0; i-- {
		for s := range dirty {
			if _, err := f.WriteAt(t.b[s*t.sector:(s+1)*t.sector], t.fatStart+i*t.size+s*t.sector); err != nil {
				return 0, err
			}
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	return int64(len(lost)) * t.clusterSize, nil
}

// table is the first allocation table of a FAT32 volume, in memory.
type table struct {
	*Reader
	b      []byte
	sector int64 // in bytes
	copies int64
	size   int64 // of one copy, in bytes
	info   int64 // where the FSInfo sector is, in bytes
	owned  []bool
}

// readTable reads it; nil is another kind of FAT.
func readTable(r io.ReaderAt) (*table, error) {
	v, err := Open(r)
	if err != nil || v.kind != 32 {
		return nil, err
	}
	boot := make([]byte, sectorSize)
	if _, err := r.ReadAt(boot, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	t := &table{Reader: v, sector: int64(le.Uint16(boot[11:])), copies: int64(boot[16])}
	t.size, t.info = int64(le.Uint32(boot[36:]))*t.sector, int64(le.Uint16(boot[48:]))*t.sector
	all := int64(v.clusters) + 2
	switch {
	case le.Uint16(boot[40:]) != 0:
		return nil, fmt.Errorf("%w: its tables are not alike", errOdd)
	case all > maxTable || all*4 > t.size:
		return nil, fmt.Errorf("%w: %d clusters, tables of %d bytes", errOdd, v.clusters, t.size)
	}
	t.b = make([]byte, ceil(all*4, t.sector)*t.sector)
	t.owned = make([]bool, all)
	_, err = r.ReadAt(t.b, v.fatStart)
	return t, err
}

func (t *table) value(c uint32) uint32 { return binary.LittleEndian.Uint32(t.b[c*4:]) & valueMask }

func (t *table) set(c, value uint32) {
	old := binary.LittleEndian.Uint32(t.b[c*4:])
	binary.LittleEndian.PutUint32(t.b[c*4:], old&^valueMask|value)
}

// lost walks through all directories. A lost chain that leads into a file is
// damage: the file may have come there by a value that is not as it was written,
// and what was lost may be its own.
func (t *table) lost() ([]uint32, error) {
	if err := t.walk(t.rootCluster, 0); err != nil {
		return nil, err
	}
	var lost []uint32
	for c := uint32(2); int(c) < len(t.owned); c++ {
		v := t.value(c)
		if v == 0 || v == clusterBad || t.owned[c] {
			continue
		}
		if int(v) < len(t.owned) && t.owned[v] {
			return nil, fmt.Errorf("%w: the lost cluster %d leads to %d, of a file", errOdd, c, v)
		}
		lost = append(lost, c)
	}
	return lost, nil
}

// own takes a chain for a file, and returns its clusters. A cluster has one
// owner, which also ends a chain that has no end.
func (t *table) own(first uint32) ([]uint32, error) {
	var chain []uint32
	for c := first; c < clusterEnd; c = t.value(c) {
		if c < 2 || int(c) >= len(t.owned) || t.owned[c] {
			return nil, fmt.Errorf("%w: the chain from cluster %d leads to %d", errOdd, first, c)
		}
		t.owned[c] = true
		chain = append(chain, c)
	}
	return chain, nil
}

// walk owns a directory and all that is below it. Unlike a reader it looks behind
// the first entry that was never used: not all drivers end there.
func (t *table) walk(first uint32, depth int) error {
	chain, err := t.own(first)
	if err != nil {
		return err
	}
	if depth > maxDepth || len(chain) == 0 || int64(len(chain))*t.clusterSize > maxSlots*entrySize {
		return fmt.Errorf("%w: directory at cluster %d", errOdd, first)
	}
	dir := make([]byte, t.clusterSize)
	n := 0
	for _, c := range chain {
		if _, err := t.r.ReadAt(dir, t.dataStart+int64(c-2)*t.clusterSize); err != nil {
			return err
		}
		for e := range slices.Chunk(dir, entrySize) {
			if depth > 0 && n < 2 {
				err = dot(e, n, first)
			} else {
				err = t.entry(e, depth)
			}
			if err != nil {
				return err
			}
			n++
		}
	}
	return nil
}

// dot refuses the nth entry of a directory below the root that is not "." or
// "..": what is there is none.
func dot(e []byte, n int, dir uint32) error {
	if text(e[:11]) != "..."[:n+1] || e[11]&(attrDir|attrVolume) != attrDir || n == 0 && firstCluster(e) != dir {
		return fmt.Errorf("%w: the directory at cluster %d does not begin as one", errOdd, dir)
	}
	return nil
}

func firstCluster(e []byte) uint32 {
	return uint32(binary.LittleEndian.Uint16(e[20:]))<<16 | uint32(binary.LittleEndian.Uint16(e[26:]))
}

// entry owns what an entry names. It is strict: an entry that is not what it was
// may hide files, or a directory with all that is below it.
func (t *table) entry(e []byte, depth int) error {
	attr, first, size := e[11], firstCluster(e), int64(binary.LittleEndian.Uint32(e[28:]))
	switch {
	case e[0] == 0 || e[0] == 0xe5:
		return nil
	case attr == attrLong && e[26]|e[27] == 0: // where characters of a long name are in the other fields
		return nil
	case attr&attrVolume != 0 && (first != 0 || size != 0):
		return fmt.Errorf("%w: a label with content at cluster %d", errOdd, first)
	case attr&attrVolume != 0:
		return nil
	case attr&attrDir != 0:
		return t.walk(first, depth+1)
	case first == 0 && size == 0:
		return nil
	}
	chain, err := t.own(first)
	if err == nil && int64(len(chain)) != ceil(size, t.clusterSize) {
		err = fmt.Errorf("%w: %d clusters from %d for a file of %d bytes", errOdd, len(chain), first, size)
	}
	return err
}

// writeInfo notes how many clusters are free, where that is noted.
func (t *table) writeInfo(f Volume) error {
	le := binary.LittleEndian
	b := make([]byte, sectorSize)
	if _, err := f.ReadAt(b, t.info); err != nil {
		return err
	}
	if t.info == 0 || le.Uint32(b) != 0x41615252 || le.Uint32(b[484:]) != 0x61417272 {
		return nil
	}
	free := uint32(0)
	for c := 2; c < len(t.owned); c++ {
		if t.value(uint32(c)) == 0 {
			free++
		}
	}
	le.PutUint32(b[488:], free)
	_, err := f.WriteAt(b, t.info)
	return err
}
