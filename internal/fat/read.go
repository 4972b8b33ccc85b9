package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// Reader reads files of a FAT12, FAT16 or FAT32 volume, without mounting it.
// Nothing on the volume is trusted: whatever it says of itself, a call ends in
// bounded time and memory.
type Reader struct {
	r           io.ReaderAt
	kind        int
	clusterSize int64
	fatStart    int64 // of the first table, in bytes
	dataStart   int64 // of cluster 2, in bytes
	clusters    uint32
	rootStart   int64 // FAT12 and FAT16, in bytes
	rootSize    int64
	rootCluster uint32 // FAT32
	label       string // of the boot sector
}

// ErrFormat says that something is no FAT volume.
var ErrFormat = errors.New("not a FAT volume")

// Open reads the boot sector. The error is ErrFormat when it is none.
func Open(r io.ReaderAt) (*Reader, error) {
	b := make([]byte, sectorSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, errors.Join(ErrFormat, err)
	}
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, copies := int64(le.Uint16(b[14:])), int64(b[16])
	power := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	if le.Uint16(b[510:]) != bootTrailer || sector < 512 || sector > 4096 ||
		!power(sector) || !power(perCluster) || reserved == 0 || copies == 0 || copies > 2 {
		return nil, ErrFormat
	}
	v := &Reader{r: r, clusterSize: sector * perCluster, fatStart: reserved * sector}
	v.rootSize = int64(le.Uint16(b[17:])) * entrySize
	total, perFAT := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	v.label = text(b[43:54])
	if perFAT == 0 {
		v.kind, perFAT, v.rootCluster, v.label = 32, int64(le.Uint32(b[36:])), le.Uint32(b[44:]), text(b[71:82])
	} else if string(b[54:57]) != "FAT" {
		return nil, ErrFormat
	}
	v.rootStart = v.fatStart + copies*perFAT*sector
	v.dataStart = v.rootStart + ceil(v.rootSize, sector)*sector
	clusters := (total*sector - v.dataStart) / v.clusterSize
	if perFAT == 0 || clusters < 1 || clusters >= 1<<28 {
		return nil, ErrFormat
	}
	v.clusters = uint32(clusters)
	if v.kind == 0 {
		v.kind = 16
		if clusters < 4085 {
			v.kind = 12
		}
	}
	return v, nil
}

func text(b []byte) string { return strings.TrimRight(string(b), " ") }

// Label is the volume's label: that of the root directory where there is one,
// else that of the boot sector, as blkid has it.
func (v *Reader) Label() string {
	if root, err := v.root(); err == nil {
		for e := range entries(root) {
			if e.attr&attrVolume != 0 {
				return text(e.short[:])
			}
		}
	}
	return v.label
}

// ReadFile returns a file's content. Path has slashes; names are compared as
// FAT does it, whatever their case. The error is fs.ErrNotExist when the file
// is not there. A file of more than limit bytes is an error.
func (v *Reader) ReadFile(path string, limit int64) ([]byte, error) {
	wrong := func(err error) ([]byte, error) { return nil, &fs.PathError{Op: "read", Path: path, Err: err} }
	dir, err := v.root()
	if err != nil {
		return wrong(err)
	}
	names := strings.Split(path, "/")
	for i, name := range names {
		e, ok := find(dir, name)
		last := i == len(names)-1
		switch {
		case !ok || !last && e.attr&attrDir == 0:
			return wrong(fs.ErrNotExist)
		case last && e.attr&attrDir != 0:
			return wrong(errors.New("not a regular file"))
		case last && int64(e.size) > limit:
			return wrong(fmt.Errorf("larger than %d bytes", limit))
		case last:
			b, err := v.chain(e.cluster, int64(e.size), true)
			if err != nil {
				return wrong(err)
			}
			return b, nil
		}
		if dir, err = v.chain(e.cluster, maxSlots*entrySize, false); err != nil {
			return wrong(err)
		}
	}
	return wrong(fs.ErrNotExist)
}

func (v *Reader) root() ([]byte, error) {
	if v.kind == 32 {
		return v.chain(v.rootCluster, maxSlots*entrySize, false)
	}
	b := make([]byte, v.rootSize)
	_, err := v.r.ReadAt(b, v.rootStart)
	return b, err
}

// chain reads clusters from first on: size bytes exactly, or up to size bytes
// of a directory, whose end is that of the chain.
func (v *Reader) chain(first uint32, size int64, exact bool) ([]byte, error) {
	var b []byte
	for c := first; int64(len(b)) < size; {
		if c < 2 || c-2 >= v.clusters {
			if exact {
				return nil, fmt.Errorf("damaged: a chain of clusters ends early")
			}
			break
		}
		n := min(v.clusterSize, size-int64(len(b)))
		at := len(b)
		b = append(b, make([]byte, n)...)
		if _, err := v.r.ReadAt(b[at:], v.dataStart+int64(c-2)*v.clusterSize); err != nil {
			return nil, err
		}
		if !exact && bytes.IndexByte(firstBytes(b[at:]), 0) >= 0 {
			break // the end of a directory
		}
		next, err := v.next(c)
		if err != nil {
			return nil, err
		}
		c = next
	}
	return b, nil
}

// firstBytes are the first bytes of the entries of a directory.
func firstBytes(b []byte) []byte {
	var out []byte
	for i := 0; i < len(b); i += entrySize {
		out = append(out, b[i])
	}
	return out
}

// next is the cluster that follows c; one outside of the volume ends the chain.
func (v *Reader) next(c uint32) (uint32, error) {
	b := make([]byte, 4)
	at, n := int64(c)*4, 4
	switch v.kind {
	case 12:
		at, n = int64(c)*3/2, 2
	case 16:
		at, n = int64(c)*2, 2
	}
	if _, err := v.r.ReadAt(b[:n], v.fatStart+at); err != nil {
		return 0, err
	}
	value := binary.LittleEndian.Uint32(b)
	switch {
	case v.kind == 12 && c%2 == 1:
		value >>= 4
	case v.kind == 12:
		value &= 0xfff
	case v.kind == 32:
		value &= 0x0fffffff
	}
	return value, nil
}

// slot is an entry of a directory.
type slot struct {
	name    string // the long name, else the short one
	short   [11]byte
	attr    byte
	cluster uint32
	size    uint32
}

func find(dir []byte, name string) (slot, bool) {
	for e := range entries(dir) {
		if e.attr&attrVolume == 0 && (strings.EqualFold(e.name, name) || strings.EqualFold(shortText(e.short), name)) {
			return e, true
		}
	}
	return slot{}, false
}

// entries yields the entries of a directory. A long name that does not belong
// to the entry behind it is passed over.
func entries(dir []byte) func(yield func(slot) bool) {
	return func(yield func(slot) bool) {
		var long longName
		le := binary.LittleEndian
		for ; len(dir) >= entrySize && dir[0] != 0; dir = dir[entrySize:] {
			e := dir[:entrySize]
			switch {
			case e[0] == 0xe5: // deleted
				long = longName{}
				continue
			case e[11]&0x3f == attrLong:
				long.add(e)
				continue
			}
			s := slot{
				short: [11]byte(e), attr: e[11],
				cluster: uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:])), size: le.Uint32(e[28:]),
			}
			if s.name = long.name(s.short); s.name == "" {
				s.name = shortText(s.short)
			}
			long = longName{}
			if !yield(s) {
				return
			}
		}
	}
}

// shortText writes a short name with its dot.
func shortText(b [11]byte) string {
	if b[0] == 0x05 { // stands for the byte of deleted entries
		b[0] = 0xe5
	}
	return join(text(b[:8]), text(b[8:]))
}

// longName is put together of parts, of which the last comes first.
type longName struct {
	units []uint16
	next  byte // the number of the part to come
	sum   byte
}

func (l *longName) add(e []byte) {
	const last = 0x40
	if e[0]&last != 0 {
		*l = longName{next: e[0] &^ last, sum: e[13]}
	}
	if l.next == 0 || e[0]&^last != l.next || e[13] != l.sum || int(l.next)*longPerSlot > maxName+longPerSlot {
		*l = longName{}
		return
	}
	l.next--
	var part []uint16
	for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		u := binary.LittleEndian.Uint16(e[at:])
		if u == 0 {
			break
		}
		part = append(part, u)
	}
	l.units = append(part, l.units...)
}

func (l *longName) name(short [11]byte) string {
	if l.next != 0 || l.units == nil || l.sum != checksum(short) {
		return ""
	}
	return string(utf16.Decode(l.units))
}
