package blockdevice

import (
	"encoding/binary"
	"io"
	"strconv"
)

// disk is what a table is written to.
type disk interface {
	io.ReaderAt
	io.WriterAt
}

// What a master boot record and an extended boot record have in common.
const (
	mbrDiskID    = 440
	mbrEntries   = 446
	mbrSignature = 510

	typeExtended    = 0x05 // of a link from one extended boot record to the next
	typeExtendedLBA = 0x0f // of the extended partition
)

// mbrRecord is a boot record's first sector.
type mbrRecord []byte

func newRecord(sector int) mbrRecord {
	r := make(mbrRecord, sector)
	r[mbrSignature], r[mbrSignature+1] = 0x55, 0xaa
	return r
}

// entry writes one of the four entries.
func (r mbrRecord) entry(i int, boot bool, kind byte, start, length int64) {
	e := r[mbrEntries+16*i:]
	if boot {
		e[0] = 0x80
	}
	copy(e[1:], chs(start))
	e[4] = kind
	copy(e[5:], chs(start+length-1))
	binary.LittleEndian.PutUint32(e[8:], uint32(start))
	binary.LittleEndian.PutUint32(e[12:], uint32(length))
}

// chs is a sector's number as cylinder, head and sector of the largest
// geometry there is but one: 254 heads, as the original has it.
func chs(lba int64) []byte {
	const heads, sectors = 254, 63
	c, h, s := lba/(heads*sectors), lba/sectors%heads, lba%sectors+1
	if c > 1023 {
		c, h, s = 1023, heads-1, sectors
	}
	return []byte{byte(h), byte(s) | byte(c>>8<<6), byte(c)}
}

// writeMBR writes the table of a disk of total sectors. The code area of the
// first sector is left as it is.
func writeMBR(w disk, slots []slot, total int64, sector int, id uint32) error {
	mbr := newRecord(sector)
	if _, err := w.ReadAt(mbr[:mbrDiskID], 0); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(mbr[mbrDiskID:], id)
	var last mbrRecord // the newest extended record, which has to point to the next one
	var lastAt, extended int64
	for i, s := range slots {
		kind, err := strconv.ParseUint(s.kind, 16, 8)
		if err != nil {
			return err
		}
		if s.ebr == 0 {
			mbr.entry(i, s.boot, byte(kind), s.start, s.length)
			continue
		}
		if last == nil {
			extended = s.ebr
			mbr.entry(i, false, typeExtendedLBA, extended, min(total-extended, 1<<32-1))
		} else {
			last.entry(1, false, typeExtended, s.ebr-extended, s.next-s.ebr)
			if _, err := w.WriteAt(last, lastAt*int64(sector)); err != nil {
				return err
			}
		}
		last, lastAt = newRecord(sector), s.ebr
		last.entry(0, s.boot, byte(kind), s.start-s.ebr, s.length)
	}
	if last != nil {
		if _, err := w.WriteAt(last, lastAt*int64(sector)); err != nil {
			return err
		}
	}
	_, err := w.WriteAt(mbr, 0)
	return err
}
