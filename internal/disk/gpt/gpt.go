// Package gpt reads GUID partition tables, extends the last partition of one,
// and gives partitions other GUIDs.
//
// It is small, because the initramfs carries it, and it trusts nothing: the
// disk may be foreign, damaged or made to harm. Both checksums must be right,
// what they cover is bounded, and partitions must lie inside the disk without
// overlapping. A bad primary table makes it look at the backup.
//
// Format: UEFI Specification 2.10, chapter 5.
package gpt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// Table is a partition table.
type Table struct {
	GUID       string // the disk's, in lower case
	Sector     int    // bytes per logical block
	Backup     bool   // the primary table was bad and this is the backup
	Partitions []Partition
}

// Partition is one used entry.
type Partition struct {
	Number     int // from 1, as in /dev/vda1
	Name       string
	Type       string // GUID in lower case
	GUID       string // GUID in lower case
	Start      int64  // in bytes
	Size       int64  // in bytes
	Attributes uint64
}

// ErrNoTable means that there is no sign of a table, as opposed to a bad one.
var ErrNoTable = errors.New("no GUID partition table")

const (
	headerSize = 92
	maxArray   = 1 << 20 // bytes of partition entries; the usual is 16 KiB
)

var le = binary.LittleEndian

// Read reads the table of a disk of size bytes with logical blocks of sector
// bytes.
func Read(r io.ReaderAt, size int64, sector int) (*Table, error) {
	if sector < 512 || sector > 1<<16 || sector&(sector-1) != 0 {
		return nil, fmt.Errorf("sector size %d", sector)
	}
	blocks := size / int64(sector)
	if blocks < 6 {
		return nil, ErrNoTable
	}
	t, err := readAt(r, 1, blocks, sector)
	if err == nil {
		return t, nil
	}
	if t, backupErr := readAt(r, blocks-1, blocks, sector); backupErr == nil {
		t.Backup = true
		return t, nil
	}
	return nil, err
}

func readAt(r io.ReaderAt, lba, blocks int64, sector int) (*Table, error) {
	h := make([]byte, sector)
	if _, err := r.ReadAt(h, lba*int64(sector)); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	if string(h[:8]) != "EFI PART" {
		return nil, ErrNoTable
	}
	n := le.Uint32(h[12:])
	if n < headerSize || int64(n) > int64(sector) {
		return nil, fmt.Errorf("partition table: header of %d bytes", n)
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if crc32.ChecksumIEEE(h[:n]) != sum {
		return nil, errors.New("partition table: wrong header checksum")
	}
	if le.Uint64(h[24:]) != uint64(lba) {
		return nil, errors.New("partition table: the header names another place than its own")
	}
	array, each, err := readArray(r, h, blocks, sector)
	if err != nil {
		return nil, err
	}
	t := &Table{GUID: guid(h[56:72]), Sector: sector}
	for i := 0; i*each < len(array); i++ {
		e := array[i*each:][:128]
		if guid(e) == unused {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > last || first < 2 || last >= uint64(blocks) {
			return nil, fmt.Errorf("partition %d lies outside the disk", i+1)
		}
		t.Partitions = append(t.Partitions, Partition{
			Number: i + 1, Name: name(e[56:128]), Type: guid(e), GUID: guid(e[16:]),
			Start: int64(first) * int64(sector), Size: int64(last-first+1) * int64(sector),
			Attributes: le.Uint64(e[48:]),
		})
	}
	return t, overlaps(t.Partitions)
}

// readArray reads the partition entries that header h names; each is the size
// of one.
func readArray(r io.ReaderAt, h []byte, blocks int64, sector int) (array []byte, each int, err error) {
	at, count, size := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if size < 128 || size > 4096 || size&(size-1) != 0 || uint64(count)*uint64(size) > maxArray {
		return nil, 0, fmt.Errorf("partition table: %d entries of %d bytes", count, size)
	}
	array = make([]byte, count*size)
	if at < 2 || at >= uint64(blocks) || int64(at)*int64(sector)+int64(len(array)) > blocks*int64(sector) {
		return nil, 0, errors.New("partition table: its entries lie outside the disk")
	}
	if _, err := r.ReadAt(array, int64(at)*int64(sector)); err != nil {
		return nil, 0, fmt.Errorf("read partition entries: %w", err)
	}
	if crc32.ChecksumIEEE(array) != le.Uint32(h[88:]) {
		return nil, 0, errors.New("partition table: wrong checksum of the entries")
	}
	return array, int(size), nil
}

func overlaps(ps []Partition) error {
	byStart := slices.Clone(ps)
	slices.SortFunc(byStart, func(a, b Partition) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	for i := 1; i < len(byStart); i++ {
		if a, b := byStart[i-1], byStart[i]; a.Start+a.Size > b.Start {
			return fmt.Errorf("partitions %d and %d overlap", a.Number, b.Number)
		}
	}
	return nil
}

const unused = "00000000-0000-0000-0000-000000000000"

// guid renders 16 bytes of a table: the first three fields are little-endian.
func guid(b []byte) string {
	s := hex.EncodeToString([]byte{
		b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6],
		b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15],
	})
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// name decodes UTF-16 up to the first zero. Control characters become "?": the
// name may be printed on a console.
func name(b []byte) string {
	var units []uint16
	for ; len(b) >= 2 && le.Uint16(b) != 0; b = b[2:] {
		units = append(units, le.Uint16(b))
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, string(utf16.Decode(units)))
}
