// Package blocklog reads what a machine wrote to its disk, in order, and makes
// of it what the disk may hold after a power cut at any moment.
//
// QEMU records the writes (its driver blklogwrites) in the format of Linux's
// dm-log-writes: a superblock, then entries of one sector each, with the data
// after them (Documentation/admin-guide/device-mapper/log-writes.rst,
// drivers/md/dm-log-writes.c; QEMU's block/blklogwrites.c).
package blocklog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// Magic is the log's first field, little-endian.
const Magic = 0x6a736677736872

// Flags of an entry.
const (
	Flush   = 1 << 0 // all writes that were complete before it are on the disk
	FUA     = 1 << 1 // this write is on the disk when it is complete
	Discard = 1 << 2 // the content is not needed any more
	Mark    = 1 << 3 // a name, not a write
)

// Entry is one request of the machine.
type Entry struct {
	Start int64  // in bytes
	Size  int64  // in bytes; 0 for a flush
	Flags uint64 // of the constants above
	data  int64  // where its data are in the log
}

// Log is a recording.
type Log struct {
	Entries []Entry
	r       io.ReaderAt
}

// maxEntries bounds a log: sixteen million requests.
const maxEntries = 1 << 24

// Read reads the entries of a log of size bytes. A machine that is killed
// leaves a log without an end, of which what is whole counts.
func Read(r io.ReaderAt, size int64) (*Log, error) {
	super := make([]byte, 28)
	if _, err := r.ReadAt(super, 0); err != nil {
		return nil, fmt.Errorf("log of writes: %w", err)
	}
	le := binary.LittleEndian
	sector := int64(le.Uint32(super[24:]))
	if le.Uint64(super) != Magic || le.Uint64(super[8:]) != 1 || sector < 512 || sector > 1<<16 ||
		sector&(sector-1) != 0 {
		return nil, errors.New("log of writes: not a log of version 1")
	}
	l := &Log{r: r}
	head := make([]byte, 32)
	for at := sector; at+sector <= size; {
		if _, err := r.ReadAt(head, at); err != nil {
			return nil, fmt.Errorf("log of writes, byte %d: %w", at, err)
		}
		e := Entry{Flags: le.Uint64(head[16:]), data: at + sector}
		from, n := le.Uint64(head), le.Uint64(head[8:])
		if e.Flags == 0 && n == 0 || e.Flags > 31 || from > 1<<50 || n > 1<<40 {
			break // what was never written, or not whole
		}
		// QEMU counts in sectors of the log, 512 bytes unless told otherwise.
		e.Start, e.Size = int64(from)*sector, int64(n)*sector
		at = e.data
		if e.Flags&(Discard|Mark) == 0 {
			at += e.Size
		}
		if at > size {
			break
		}
		if len(l.Entries) == maxEntries {
			return nil, errors.New("log of writes: too many entries")
		}
		l.Entries = append(l.Entries, e)
	}
	return l, nil
}

// Data returns what an entry wrote.
func (l *Log) Data(e Entry) ([]byte, error) {
	if e.Flags&(Discard|Mark) != 0 || e.Size == 0 {
		return nil, nil
	}
	b := make([]byte, e.Size)
	_, err := l.r.ReadAt(b, e.data)
	return b, err
}

// Disk is what a disk holds while a log is replayed on it.
type Disk interface {
	io.ReaderAt
	io.WriterAt
}

// Replay is a disk between power on and the next power cut. What is on the disk
// for good has been written to it; the rest is in the disk's memory, from which
// a power cut saves what it likes.
type Replay struct {
	log      *Log
	disk     Disk
	next     int   // entry
	volatile []int // entries that may be lost, in order
}

// NewReplay begins at the first entry, on a disk as it was then.
func NewReplay(l *Log, d Disk) *Replay { return &Replay{log: l, disk: d} }

// Next goes on to the next entry, and says which it is; false is the end.
func (r *Replay) Next() (Entry, bool, error) {
	if r.next == len(r.log.Entries) {
		return Entry{}, false, nil
	}
	e := r.log.Entries[r.next]
	if e.Flags&Flush != 0 {
		for _, i := range r.volatile {
			if err := r.write(r.log.Entries[i], 0, r.log.Entries[i].Size); err != nil {
				return e, false, err
			}
		}
		r.volatile = r.volatile[:0]
	}
	if e.Size > 0 && e.Flags&(Discard|Mark) == 0 {
		if e.Flags&FUA == 0 {
			r.volatile = append(r.volatile, r.next)
		} else if err := r.durable(e); err != nil {
			return e, false, err
		}
	}
	r.next++
	return e, true, nil
}

// durable writes an entry over all that was written before it.
func (r *Replay) durable(e Entry) error {
	// What lies in the disk's memory for the same place must not come after it.
	kept := r.volatile[:0]
	for _, i := range r.volatile {
		v := r.log.Entries[i]
		if v.Start < e.Start+e.Size && e.Start < v.Start+v.Size {
			if err := r.write(v, 0, v.Size); err != nil {
				return err
			}
			continue
		}
		kept = append(kept, i)
	}
	r.volatile = kept
	return r.write(e, 0, e.Size)
}

func (r *Replay) write(e Entry, from, to int64) error {
	b, err := r.log.Data(e)
	if err != nil {
		return err
	}
	_, err = r.disk.WriteAt(b[from:to], e.Start+from)
	return err
}

// sector is what a disk writes whole or not at all, in bytes.
const sector = 512

// Crash cuts the power: of what may be lost it writes some, each with the
// probability that is given, and of one in eight only the first sectors. The
// returned function takes that back, so that the replay can go on.
func (r *Replay) Crash(random *rand.Rand, probability float64) (undo func() error, err error) {
	type saved struct {
		at  int64
		was []byte
	}
	var old []saved
	undo = func() error {
		for i := len(old) - 1; i >= 0; i-- {
			if _, err := r.disk.WriteAt(old[i].was, old[i].at); err != nil {
				return err
			}
		}
		return nil
	}
	for _, i := range r.volatile {
		e := r.log.Entries[i]
		if random.Float64() >= probability {
			continue
		}
		n := e.Size
		if n > sector && random.IntN(8) == 0 {
			n = (1 + random.Int64N(n/sector-1)) * sector
		}
		was := make([]byte, n)
		if _, err := r.disk.ReadAt(was, e.Start); err != nil && err != io.EOF {
			return nil, errors.Join(err, undo())
		}
		old = append(old, saved{e.Start, was})
		if err := r.write(e, 0, n); err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	return undo, nil
}

// Volatile are the writes that a power cut now may lose.
func (r *Replay) Volatile() []Entry {
	var list []Entry
	for _, i := range r.volatile {
		list = append(list, r.log.Entries[i])
	}
	return list
}
