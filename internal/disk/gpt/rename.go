package gpt

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// Repair makes a primary table anew that is damaged, from the backup. Nothing is
// written when it is sound.
func Repair(d Device, size int64, sector int) error { return SetGUIDs(d, size, sector, nil) }

// SetGUIDs gives partitions, by their numbers, other GUIDs. Nothing is written
// when the primary table is sound and has them already. The backup table is
// written first, so that a power cut leaves a sound table, with all of the
// GUIDs or with none of them; a primary table that one damaged is made anew.
func SetGUIDs(d Device, size int64, sector int, guids map[int]string) error {
	t, err := Read(d, size, sector)
	if err != nil {
		return err
	}
	lba := int64(1)
	if t.Backup {
		lba = size/int64(sector) - 1
	}
	h := make([]byte, sector)
	if _, err := d.ReadAt(h, lba*int64(sector)); err != nil {
		return err
	}
	array, each, err := readArray(d, h, size/int64(sector), sector)
	if err != nil {
		return err
	}
	room := int64(len(array)+sector-1) / int64(sector)
	// What is written are entries behind the header, and before the backup's.
	if entries := int64(le.Uint64(h[72:])); !t.Backup && entries != 2 || t.Backup && entries != lba-room {
		return errors.New("the partition entries are not beside the header")
	}
	changed := t.Backup
	for number, guid := range guids {
		raw, err := parseGUID(guid)
		if err != nil {
			return err
		}
		p := t.numbered(number)
		if p == nil {
			return fmt.Errorf("there is no partition %d", number)
		}
		if p.GUID != guid {
			changed = true
			copy(array[(number-1)*each+16:], raw[:])
		}
	}
	if !changed {
		return nil
	}
	le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
	return writeTables(d, h, array, size/int64(sector)-1, room, sector)
}

func (t *Table) numbered(number int) *Partition {
	for i := range t.Partitions {
		if t.Partitions[i].Number == number {
			return &t.Partitions[i]
		}
	}
	return nil
}

// parseGUID reads a GUID in lower case as a table stores it: the first three
// fields in little-endian order (UEFI Specification 2.10, appendix A).
func parseGUID(s string) (raw [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || len(s) != 36 || strings.ToLower(s) != s {
		return raw, fmt.Errorf("GUID %q", s)
	}
	for i, j := range []int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		raw[i] = b[j]
	}
	return raw, nil
}
