package agent

import (
	"errors"
	"fmt"
)

// edge is how much of a disk's beginning and end is kept back, in bytes: it has
// everything that firmware looks at first, and partition tables.
const edge = 1 << 20

// staged is a disk whose first and last MiB stay in memory until commit: while
// an image is written, no firmware finds anything to start on it.
type staged struct {
	dev        *device
	head, tail []byte
}

// stage wipes the edges of a disk and flushes that, before anything else.
func stage(dev *device) (*staged, error) {
	s := &staged{dev, make([]byte, edge), make([]byte, edge)}
	// By writing: it must be gone when this returns, whatever the disk makes of
	// other commands.
	err := errors.Join(dev.writeZeros(0, edge), dev.writeZeros(dev.size-edge, edge), dev.Sync())
	if err != nil {
		return nil, fmt.Errorf("wipe %s: %w", dev.Name(), err)
	}
	return s, nil
}

// ranges splits n bytes at off by where they are kept: in memory or on the disk.
func (s *staged) ranges(off, n int64, f func(memory []byte, at, n int64) error) error {
	for n > 0 {
		memory, most := []byte(nil), s.dev.size-edge-off
		switch {
		case off < edge:
			memory, most = s.head[off:], edge-off
		case most <= 0:
			at := off - (s.dev.size - edge)
			if at+n > edge {
				return fmt.Errorf("%s: what is written goes beyond its end", s.dev.Name())
			}
			memory, most = s.tail[at:], n
		}
		most = min(most, n)
		if err := f(memory, off, most); err != nil {
			return err
		}
		off, n = off+most, n-most
	}
	return nil
}

// WriteAt implements io.WriterAt.
func (s *staged) WriteAt(b []byte, off int64) (int, error) {
	err := s.ranges(off, int64(len(b)), func(memory []byte, at, n int64) (err error) {
		part := b[at-off:][:n]
		if memory != nil {
			copy(memory, part)
			return nil
		}
		_, err = s.dev.WriteAt(part, at)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// ReadAt implements io.ReaderAt.
func (s *staged) ReadAt(b []byte, off int64) (int, error) {
	err := s.ranges(off, int64(len(b)), func(memory []byte, at, n int64) (err error) {
		part := b[at-off:][:n]
		if memory != nil {
			copy(part, memory)
			return nil
		}
		_, err = s.dev.ReadAt(part, at)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Zero makes n bytes from off on zeros.
func (s *staged) Zero(off, n int64) error {
	return s.ranges(off, n, func(memory []byte, at, n int64) error {
		if memory != nil {
			clear(memory[:n])
			return nil
		}
		return s.dev.Zero(at, n)
	})
}

// commit makes the disk bootable: everything else is on it. The backup table
// comes first, then what lies behind the first sector, and the first sector,
// without which nothing looks at the rest, last.
func (s *staged) commit() error {
	for _, w := range []struct {
		b  []byte
		at int64
	}{{s.tail, s.dev.size - edge}, {s.head[512:], 512}, {s.head[:512], 0}} {
		if _, err := s.dev.WriteAt(w.b, w.at); err != nil {
			return err
		}
		if err := s.dev.Sync(); err != nil {
			return err
		}
	}
	s.dev.reread()
	return nil
}
