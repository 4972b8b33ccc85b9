package gpt

import (
	"errors"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// Fit makes the table of an image that was written to a disk of size bytes that
// disk's own: the backup table moves to the disk's end. With add, that
// partition is new there: its Size, rounded up to whole MiB, at the end; its
// Name, Type, GUID and Attributes count, and the partition that was made is
// returned. The partition with the number grow, which must be the last one, gets all
// space up to there; 0 means none.
//
// The tables are written as Extend does.
func Fit(d Device, size int64, sector, grow int, add *Partition) (*Partition, error) {
	t, err := Read(d, size, sector)
	if err != nil {
		return nil, err
	}
	if t.Backup {
		return nil, errors.New("the primary partition table is damaged")
	}
	h := make([]byte, sector)
	if _, err := d.ReadAt(h, int64(sector)); err != nil {
		return nil, err
	}
	array, each, err := readArray(d, h, size/int64(sector), sector)
	if err != nil {
		return nil, err
	}
	if le.Uint64(h[72:]) != 2 {
		return nil, errors.New("the partition entries are not behind the header")
	}
	room := int64(len(array)+sector-1) / int64(sector)
	lastBlock := size/int64(sector) - 1
	end := (lastBlock - room) * int64(sector) / extendUnit * extendUnit
	var made *Partition
	if add != nil {
		p := *add
		p.Size = (p.Size + extendUnit - 1) / extendUnit * extendUnit
		p.Start = end - p.Size
		if err := t.place(array, each, &p); err != nil {
			return nil, err
		}
		made, end = &p, p.Start
	}
	if grow > 0 {
		p, err := t.last(grow)
		if err != nil {
			return nil, err
		}
		if end > p.Start+p.Size {
			le.PutUint64(array[(grow-1)*each+40:], uint64(end/int64(sector)-1))
		}
	}
	le.PutUint64(h[48:], uint64(lastBlock-room-1)) // last usable block
	le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
	return made, writeTables(d, h, array, lastBlock, room, sector)
}

// place makes an entry for p, whose number it sets to the first free one.
func (t *Table) place(array []byte, each int, p *Partition) error {
	for _, q := range t.Partitions {
		if q.Start+q.Size > p.Start {
			return fmt.Errorf("no room for a partition of %d MiB behind partition %d", p.Size>>20, q.Number)
		}
	}
	for p.Number = 1; t.numbered(p.Number) != nil; p.Number++ {
	}
	name := utf16.Encode([]rune(p.Name))
	if p.Number*each > len(array) || len(name) > 36 {
		return fmt.Errorf("no entry for a partition named %q", p.Name)
	}
	e := array[(p.Number-1)*each:][:each]
	clear(e)
	for i, s := range []string{p.Type, p.GUID} {
		raw, err := parseGUID(s)
		if err != nil {
			return err
		}
		copy(e[16*i:], raw[:])
	}
	le.PutUint64(e[32:], uint64(p.Start/int64(t.Sector)))
	le.PutUint64(e[40:], uint64((p.Start+p.Size)/int64(t.Sector)-1))
	le.PutUint64(e[48:], p.Attributes)
	for i, u := range name {
		le.PutUint16(e[56+2*i:], u)
	}
	return nil
}
