package ext4

import (
	"errors"
	"fmt"
)

// run is a stretch of a file that lies in one piece. What no run covers are
// zeros. Numbers are of blocks.
type run struct{ logical, physical, count int64 }

// runs returns where a file lies, in the file's order.
func (fs *FS) runs(ino *inode) ([]run, error) {
	m := &mapper{fs: fs, limit: (ino.size + fs.blockSize - 1) / fs.blockSize}
	var err error
	if ino.flags&flagExtents != 0 {
		err = m.extents(ino.block, -1)
	} else {
		err = m.pointers(ino.block)
	}
	return m.runs, err
}

// mapper collects runs.
type mapper struct {
	fs    *FS
	limit int64 // blocks of the file
	next  int64 // the first block of the file that has not been seen
	runs  []run
}

// add adds a run, which must lie behind all others.
func (m *mapper) add(logical, physical, count int64, written bool) error {
	if logical < m.next || count <= 0 {
		return fmt.Errorf("block %d of the file is there twice", logical)
	}
	if physical <= 0 || physical+count > m.fs.blocks {
		return fmt.Errorf("blocks %d to %d are outside of the file system", physical, physical+count)
	}
	if err := m.fs.take(count); err != nil {
		return err
	}
	m.next = logical + count
	count = min(count, m.limit-logical) // blocks behind the end may be kept for later
	if !written || count <= 0 {
		return nil
	}
	if n := len(m.runs); n > 0 {
		if last := &m.runs[n-1]; last.logical+last.count == logical && last.physical+last.count == physical {
			last.count += count
			return nil
		}
	}
	m.runs = append(m.runs, run{logical, physical, count})
	return nil
}

// The extent tree.
const (
	extentMagic = 0xf30a
	extentSize  = 12
	maxDepth    = 5
	// unwritten is added to the length of an extent whose content is zeros.
	unwritten = 32768
)

// extents reads a node of the extent tree, which must have the given depth;
// -1 is for the root, which says it.
func (m *mapper) extents(b []byte, depth int) error {
	count, got := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	switch {
	case le.Uint16(b) != extentMagic:
		return errors.New("not an extent tree")
	case (count+1)*extentSize > len(b):
		return fmt.Errorf("%d extents in a node", count)
	case got > maxDepth || depth >= 0 && (got != depth || count == 0):
		return fmt.Errorf("an extent tree of depth %d", got)
	}
	for i := range count {
		if err := m.extent(b[(i+1)*extentSize:][:extentSize], got); err != nil {
			return err
		}
	}
	return nil
}

func (m *mapper) extent(e []byte, depth int) error {
	logical := int64(le.Uint32(e))
	if depth > 0 {
		if logical < m.next {
			return fmt.Errorf("block %d of the file is there twice", logical)
		}
		if err := m.fs.take(1); err != nil {
			return err
		}
		node, err := m.fs.readBlock(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return err
		}
		return m.extents(node, depth-1)
	}
	count, written := int64(le.Uint16(e[4:])), true
	if count > unwritten {
		count, written = count-unwritten, false
	}
	return m.add(logical, int64(le.Uint32(e[8:]))|int64(le.Uint16(e[6:]))<<32, count, written)
}

// pointers reads the block map of ext2 and ext3: twelve blocks, then blocks of
// pointers in one, two and three levels.
func (m *mapper) pointers(b []byte) error {
	logical := int64(0)
	for i := range 15 {
		level := max(0, i-11)
		span := int64(1)
		for range level {
			span *= m.fs.blockSize / 4
		}
		if err := m.pointer(int64(le.Uint32(b[i*4:])), logical, span, level); err != nil {
			return err
		}
		logical += span
	}
	return nil
}

// pointer follows one pointer that stands for span blocks of the file.
func (m *mapper) pointer(block, logical, span int64, level int) error {
	if block == 0 || logical >= m.limit {
		return nil
	}
	if level == 0 {
		return m.add(logical, block, 1, true)
	}
	if err := m.fs.take(1); err != nil {
		return err
	}
	b, err := m.fs.readBlock(block)
	if err != nil {
		return err
	}
	span /= m.fs.blockSize / 4
	for i := range m.fs.blockSize / 4 {
		if err := m.pointer(int64(le.Uint32(b[i*4:])), logical+i*span, span, level-1); err != nil {
			return err
		}
	}
	return nil
}
