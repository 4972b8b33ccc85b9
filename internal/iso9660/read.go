package iso9660

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// Reader reads files of an ISO 9660 volume, without mounting it: by the names
// of Rock Ridge where it has them, else by Joliet's, else by its own. Nothing
// on the volume is trusted: whatever it says of itself, a call ends in bounded
// time and memory. A file of several extents is an error, and so is a symbolic
// link.
type Reader struct {
	r      io.ReaderAt
	label  string
	root   record
	joliet bool
	rock   bool
	skip   int // bytes at the beginning of each System Use field that are none of Rock Ridge's
}

// ErrFormat says that something is no ISO 9660 volume.
var ErrFormat = errors.New("not an ISO 9660 volume")

// Limits of what is read of a volume.
const (
	maxDescriptors   = 32
	maxDirectory     = 1 << 20
	maxContinuations = 8
)

// Open reads the volume descriptors. The error is ErrFormat when there are
// none.
func Open(r io.ReaderAt) (*Reader, error) {
	v := &Reader{r: r}
	var joliet *record
	b := make([]byte, SectorSize)
	for n := range int64(maxDescriptors) {
		if _, err := r.ReadAt(b, (primaryAt+n)*SectorSize); err != nil || string(b[1:6]) != "CD001" || b[0] == 255 {
			break
		}
		root, ok := parseRecord(b[156:190])
		switch {
		case !ok || binary.LittleEndian.Uint16(b[128:]) != SectorSize:
		case b[0] == 1 && v.root.size == 0:
			v.root, v.label = root, strings.TrimRight(string(b[40:72]), " \x00")
		case b[0] == 2 && b[88] == '%' && b[89] == '/' && strings.IndexByte("@CE", b[90]) >= 0:
			joliet = &root
		}
	}
	if v.root.size == 0 {
		return nil, ErrFormat
	}
	v.findRock()
	if !v.rock && joliet != nil {
		v.root, v.joliet = *joliet, true
	}
	return v, nil
}

// Label is the volume identifier.
func (v *Reader) Label() string { return v.label }

// findRock looks for the mark of the System Use Sharing Protocol, which is in
// the first record of the root directory.
func (v *Reader) findRock() {
	dir, err := v.directory(v.root)
	if err != nil {
		return
	}
	for first := range records(dir) {
		if s := first.system; len(s) >= 7 && string(s[:2]) == "SP" && s[4] == 0xbe && s[5] == 0xef {
			v.rock, v.skip = true, int(s[6])
		}
		return
	}
}

// ReadFile returns a file's content. Path has slashes. The error is
// fs.ErrNotExist when the file is not there. A file of more than limit bytes
// is an error.
func (v *Reader) ReadFile(path string, limit int64) ([]byte, error) {
	b, err := v.read(strings.Split(path, "/"), limit)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return b, nil
}

func (v *Reader) read(names []string, limit int64) ([]byte, error) {
	at := v.root
	for i, name := range names {
		dir, err := v.directory(at)
		if err != nil {
			return nil, err
		}
		found, ok := v.find(dir, name)
		if !ok || i < len(names)-1 && found.flags&directoryFlag == 0 {
			return nil, fs.ErrNotExist
		}
		at = found
	}
	switch {
	case at.flags&directoryFlag != 0 || at.link:
		return nil, errors.New("not a regular file")
	case at.flags&moreExtents != 0 || at.interleaved:
		return nil, errors.New("in several pieces")
	case int64(at.size) > limit:
		return nil, fmt.Errorf("larger than %d bytes", limit)
	}
	b := make([]byte, at.size)
	_, err := v.r.ReadAt(b, int64(at.extent)*SectorSize)
	return b, err
}

func (v *Reader) directory(at record) ([]byte, error) {
	if at.size > maxDirectory {
		return nil, fmt.Errorf("a directory of %d bytes", at.size)
	}
	b := make([]byte, at.size)
	_, err := v.r.ReadAt(b, int64(at.extent)*SectorSize)
	return b, err
}

// find looks for a name; one that differs in case only will do, as it does
// for firmware and people.
func (v *Reader) find(dir []byte, name string) (record, bool) {
	var near record
	ok := false
	for r := range records(dir) {
		if r.name == "\x00" || r.name == "\x01" {
			continue
		}
		switch n := v.name(&r); {
		case n == name:
			return r, true
		case !ok && strings.EqualFold(n, name):
			near, ok = r, true
		}
	}
	return near, ok
}

const moreExtents = 0x80

// record is a directory record, ECMA-119 9.1.
type record struct {
	extent, size uint32
	flags        byte
	interleaved  bool
	link         bool // by Rock Ridge; known once its name has been asked
	name         string
	system       []byte // the System Use field
}

func parseRecord(b []byte) (record, bool) {
	if len(b) < 34 || int(b[0]) > len(b) || b[0] < 34 || 33+int(b[32]) > int(b[0]) {
		return record{}, false
	}
	b = b[:b[0]]
	n := int(b[32])
	r := record{
		extent: binary.LittleEndian.Uint32(b[2:]) + uint32(b[1]), size: binary.LittleEndian.Uint32(b[10:]),
		flags: b[25], interleaved: b[26] != 0, name: string(b[33 : 33+n]),
	}
	r.system = b[min(33+n+(n+1)%2, len(b)):]
	return r, true
}

// records yields the records of a directory; none crosses a sector.
func records(dir []byte) func(yield func(record) bool) {
	return func(yield func(record) bool) {
		for at := 0; at < len(dir); {
			r, ok := parseRecord(dir[at:])
			if !ok {
				at = (at/SectorSize + 1) * SectorSize
				continue
			}
			at += int(dir[at])
			if !yield(r) {
				return
			}
		}
	}
}

// name is what a record is called.
func (v *Reader) name(r *record) string {
	switch {
	case v.joliet:
		var units []uint16
		for i := 0; i+1 < len(r.name); i += 2 {
			units = append(units, uint16(r.name[i])<<8|uint16(r.name[i+1]))
		}
		return plain(string(utf16.Decode(units)))
	case v.rock:
		if name := v.rockName(r); name != "" {
			return name
		}
	}
	return plain(r.name)
}

// plain leaves out the version, and the dot of a name without extension.
func plain(name string) string {
	name, _, _ = strings.Cut(name, ";")
	return strings.TrimSuffix(name, ".")
}

// rockName is the name by Rock Ridge (RRIP 1.12, 4.1.4), and notes whether the
// record is a symbolic link.
func (v *Reader) rockName(r *record) string {
	name := ""
	area := r.system[min(v.skip, len(r.system)):]
	for range maxContinuations {
		var more []byte
		for len(area) >= 4 && int(area[2]) >= 4 && int(area[2]) <= len(area) {
			e := area[:area[2]]
			area = area[area[2]:]
			switch {
			case string(e[:2]) == "NM" && len(e) > 5:
				name += string(e[5:])
			case string(e[:2]) == "SL":
				r.link = true
			case string(e[:2]) == "CE" && len(e) >= 28:
				more = v.continuation(e)
			case string(e[:2]) == "ST":
				area = nil
			}
		}
		if more == nil {
			break
		}
		area = more
	}
	return name
}

func (v *Reader) continuation(e []byte) []byte {
	le := binary.LittleEndian
	block, offset, length := le.Uint32(e[4:]), le.Uint32(e[12:]), le.Uint32(e[20:])
	if offset > SectorSize || length > SectorSize {
		return nil
	}
	b := make([]byte, length)
	if _, err := v.r.ReadAt(b, int64(block)*SectorSize+int64(offset)); err != nil {
		return nil
	}
	return b
}
