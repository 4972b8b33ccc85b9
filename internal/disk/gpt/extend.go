package gpt

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Device is a disk that can be changed.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

const extendUnit = 1 << 20

// Extend moves the backup table to the disk's end and gives the partition with
// that number all the space behind it, in whole MiB. It returns the partition's
// new size, or 0 when there was nothing to gain and nothing was written. The
// partition must be the last one, and the primary table sound.
//
// The new backup is written before the primary table, which is one write, so
// that a power cut leaves a sound table of one kind or the other.
func Extend(d Device, size int64, sector, number int) (int64, error) {
	t, err := Read(d, size, sector)
	if err != nil {
		return 0, err
	}
	if t.Backup {
		return 0, errors.New("the primary partition table is damaged")
	}
	p, err := t.last(number)
	if err != nil {
		return 0, err
	}
	h := make([]byte, sector)
	if _, err := d.ReadAt(h, int64(sector)); err != nil {
		return 0, err
	}
	array, each, err := readArray(d, h, size/int64(sector), sector)
	if err != nil {
		return 0, err
	}
	if le.Uint64(h[72:]) != 2 {
		return 0, errors.New("the partition entries are not behind the header")
	}
	room := int64(len(array)+sector-1) / int64(sector)
	lastBlock := size/int64(sector) - 1
	end := (lastBlock - room) * int64(sector) / extendUnit * extendUnit
	gain := end - (p.Start + p.Size)
	if gain < extendUnit {
		return 0, nil
	}
	le.PutUint64(array[(number-1)*each+40:], uint64(end/int64(sector)-1))
	le.PutUint64(h[48:], uint64(lastBlock-room-1)) // last usable block
	le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
	return p.Size + gain, writeTables(d, h, array, lastBlock, room, sector)
}

// last returns the partition of that number, which no other may follow.
func (t *Table) last(number int) (*Partition, error) {
	p := t.numbered(number)
	if p == nil {
		return nil, fmt.Errorf("there is no partition %d", number)
	}
	for _, q := range t.Partitions {
		if q.Start > p.Start {
			return nil, fmt.Errorf("partition %d lies behind partition %d", q.Number, number)
		}
	}
	return p, nil
}

func writeTables(d Device, h, array []byte, lastBlock, room int64, sector int) error {
	seal := func(own, other, entries int64) []byte {
		le.PutUint64(h[24:], uint64(own))
		le.PutUint64(h[32:], uint64(other))
		le.PutUint64(h[72:], uint64(entries))
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:le.Uint32(h[12:])]))
		return h
	}
	entries := make([]byte, room*int64(sector))
	copy(entries, array)
	backup := append(append([]byte(nil), entries...), seal(lastBlock, 1, lastBlock-room)...)
	if err := writeSynced(d, backup, (lastBlock-room)*int64(sector)); err != nil {
		return err
	}
	primary := append(append([]byte(nil), seal(1, lastBlock, 2)...), entries...)
	if err := writeSynced(d, primary, int64(sector)); err != nil {
		return err
	}
	// The protective partition of the MBR covers the disk, or what of it its
	// 32 bits can name.
	var count [4]byte
	le.PutUint32(count[:], uint32(min(lastBlock, 0xffffffff)))
	return writeSynced(d, count[:], 446+12)
}

func writeSynced(d Device, b []byte, off int64) error {
	if _, err := d.WriteAt(b, off); err != nil {
		return err
	}
	if s, ok := d.(interface{ Sync() error }); ok {
		return s.Sync()
	}
	return nil
}
