// Package iso9660 writes what makes a disk image an ISO 9660 volume that UEFI
// firmware starts from: volume descriptors, a root directory, and an El Torito
// boot catalog. They lie between bytes 32768 and 65536, where no partition
// table reaches; so the same image can be a CD and a disk.
//
// The files are the caller's, who has put them wherever they lie: whole,
// contiguous, at a multiple of 2048 bytes. There is one directory, and names
// are those of interchange level 2. The same input gives the same bytes.
//
// A [Reader] reads single files of volumes that other programs made.
//
// Formats: ECMA-119 (3rd edition), and "El Torito" Bootable CD-ROM Format
// Specification, version 1.0, with the UEFI Specification's platform 0xEF.
package iso9660

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SectorSize is that of a volume, in bytes. Everything lies at multiples of it.
const SectorSize = 2048

// HeadSize is how long the beginning of an image is that belongs to this
// package and, before byte 32768, to a partition table. Files lie behind it.
const HeadSize = 64 << 10

// Sectors of the head.
const (
	primaryAt = 16 + iota
	bootAt
	terminatorAt
	lPathAt
	mPathAt
	rootAt
	catalogAt
)

// File is a file of the volume. Start and Size are in bytes.
type File struct {
	Name  string // such as "ROOT.IMG": capital letters, digits, "_", one dot
	Start int64
	Size  int64
}

// Volume describes an image.
type Volume struct {
	Label string    // at most 32 capital letters, digits and "_"; see Label
	Size  int64     // of the whole image, in bytes
	Time  time.Time // of everything; stored as UTC
	Files []File
	Boot  string // name of the file that is an EFI system partition
}

var (
	nameForm  = regexp.MustCompile(`^[A-Z0-9_]{1,20}\.[A-Z0-9_]{1,9}$`)
	labelForm = regexp.MustCompile(`^[A-Z0-9_]{1,32}$`)
)

// Label makes a volume label of any text: what a label cannot hold becomes
// "_".
func Label(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(s))
	return s[:min(len(s), 32)]
}

// WriteHead writes the head of the volume to w, from byte 32768 on.
func WriteHead(w io.WriterAt, v Volume) error {
	if err := v.check(); err != nil {
		return fmt.Errorf("iso9660: %w", err)
	}
	b := make([]byte, HeadSize)
	root := v.root()
	copy(v.sector(b, primaryAt), v.primary())
	copy(v.sector(b, bootAt), bootRecord())
	copy(v.sector(b, terminatorAt), "\xffCD001\x01")
	copy(v.sector(b, lPathAt), pathTable(binary.LittleEndian))
	copy(v.sector(b, mPathAt), pathTable(binary.BigEndian))
	copy(v.sector(b, rootAt), root)
	copy(v.sector(b, catalogAt), v.catalog())
	_, err := w.WriteAt(b[primaryAt*SectorSize:], primaryAt*SectorSize)
	return err
}

func (v *Volume) sector(b []byte, n int) []byte { return b[n*SectorSize:][:SectorSize] }

func (v *Volume) check() error {
	if !labelForm.MatchString(v.Label) {
		return fmt.Errorf("volume label %q: want up to 32 capital letters, digits and underscores", v.Label)
	}
	if v.Size%SectorSize != 0 || v.Size/SectorSize > math.MaxUint32 {
		return fmt.Errorf("a volume of %d bytes", v.Size)
	}
	if y := v.Time.UTC().Year(); y < 1900 || y > 2155 {
		return fmt.Errorf("a volume of the year %d", y)
	}
	found := false
	for i, f := range v.Files {
		if !nameForm.MatchString(f.Name) || slices.ContainsFunc(v.Files[:i], func(o File) bool { return o.Name == f.Name }) {
			return fmt.Errorf("file %q: not a name, or there twice", f.Name)
		}
		if f.Size > math.MaxUint32 {
			return fmt.Errorf("file %s of %d bytes: larger than 4 GiB", f.Name, f.Size)
		}
		if f.Start < HeadSize || f.Start%SectorSize != 0 || f.Size < 0 || f.Start+f.Size > v.Size {
			return fmt.Errorf("file %s at byte %d: outside of the volume or not at a sector", f.Name, f.Start)
		}
		found = found || f.Name == v.Boot
	}
	if !found {
		return fmt.Errorf("there is no boot file %q", v.Boot)
	}
	if n := len(v.root()); n > SectorSize {
		return fmt.Errorf("%d files are too many for one directory", len(v.Files))
	}
	return nil
}

// both puts a number in both byte orders, as most fields are.
func both(b []byte, n uint32) {
	binary.LittleEndian.PutUint32(b, n)
	binary.BigEndian.PutUint32(b[4:], n)
}

func both16(b []byte, n uint16) {
	binary.LittleEndian.PutUint16(b, n)
	binary.BigEndian.PutUint16(b[2:], n)
}

// primary is the primary volume descriptor, ECMA-119 8.4.
func (v *Volume) primary() []byte {
	b := make([]byte, SectorSize)
	copy(b, "\x01CD001\x01")
	text := func(at, n int, s string) { copy(b[at:at+n], s+strings.Repeat(" ", n)) }
	text(8, 32, "")
	text(40, 32, v.Label)
	both(b[80:], uint32(v.Size/SectorSize))
	both16(b[120:], 1) // volumes in the set
	both16(b[124:], 1) // number of this one
	both16(b[128:], SectorSize)
	both(b[132:], uint32(len(pathTable(binary.LittleEndian))))
	binary.LittleEndian.PutUint32(b[140:], lPathAt)
	binary.BigEndian.PutUint32(b[148:], mPathAt)
	copy(b[156:], v.record("\x00", rootAt, SectorSize, directoryFlag))
	text(190, 4*128+3*37, "") // publisher and other people, names of files
	stamp := v.Time.UTC().Format("20060102150405") + "00\x00"
	none := "0000000000000000\x00"
	copy(b[813:], stamp+stamp+none+none) // created, modified, expires, effective
	b[881] = 1                           // version of the directories' structure
	return b
}

// bootRecord leads to the boot catalog.
func bootRecord() []byte {
	b := make([]byte, SectorSize)
	copy(b, "\x00CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(b[71:], catalogAt)
	return b
}

// pathTable holds the root directory only, ECMA-119 9.4.
func pathTable(order binary.ByteOrder) []byte {
	b := make([]byte, 10)
	b[0] = 1 // length of the name, which is a zero byte
	order.PutUint32(b[2:], rootAt)
	order.PutUint16(b[6:], 1) // its parent is itself
	return b
}

const directoryFlag = 2

// root is the root directory, sorted by name.
func (v *Volume) root() []byte {
	b := v.record("\x00", rootAt, SectorSize, directoryFlag)              // itself
	b = append(b, v.record("\x01", rootAt, SectorSize, directoryFlag)...) // its parent
	files := append(slices.Clone(v.Files), File{Name: "BOOT.CAT", Start: catalogAt * SectorSize, Size: SectorSize})
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range files {
		b = append(b, v.record(f.Name+";1", uint32(f.Start/SectorSize), uint32(f.Size), 0)...)
	}
	return b
}

// record is a directory record, ECMA-119 9.1.
func (v *Volume) record(name string, at, size uint32, flags byte) []byte {
	n := 33 + len(name)
	b := make([]byte, n+n%2)
	b[0] = byte(len(b))
	both(b[2:], at)
	both(b[10:], size)
	year, month, day := v.Time.UTC().Date()
	hour, minute, second := v.Time.UTC().Clock()
	copy(b[18:], []byte{byte(year - 1900), byte(month), byte(day), byte(hour), byte(minute), byte(second), 0})
	b[25] = flags
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

// catalog is the boot catalog: one image for EFI, without emulation of
// anything.
func (v *Volume) catalog() []byte {
	b := make([]byte, SectorSize)
	le := binary.LittleEndian
	b[0], b[1], b[30], b[31] = 1, 0xef, 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += le.Uint16(b[i:])
	}
	le.PutUint16(b[28:], -sum)
	f := v.Files[slices.IndexFunc(v.Files, func(f File) bool { return f.Name == v.Boot })]
	b[32] = 0x88 // bootable
	// The size is in blocks of 512 bytes. Where the field is too small, 0 says
	// that the image ends where the volume does.
	if blocks := (f.Size + 511) / 512; blocks <= math.MaxUint16 {
		le.PutUint16(b[38:], uint16(blocks))
	}
	le.PutUint32(b[40:], uint32(f.Start/SectorSize))
	return b
}
