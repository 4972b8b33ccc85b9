package vmdk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Magic begins every image.
const Magic = "KDMV"

// Reader reads the disk in an image of one file whose grains are not
// compressed, as [Write] and qemu-img make them. The image may be damaged or
// made to harm. It may be used by one goroutine at a time.
type Reader struct {
	r         io.ReaderAt
	size      int64 // of the disk, in bytes
	grain     int64 // bytes
	entries   int64 // grains of one table
	directory []uint32
	table     []uint32 // the one read last
	number    int64    // its number, or -1
}

// Limits of what makes sense.
const (
	maxGrain     = 1 << 20 // bytes
	maxDirectory = 8 << 20 // entries
)

// Flags of the header.
const (
	flagCompressed = 1 << 16
	flagMarkers    = 1 << 17
)

// NewReader reads the header of an image.
func NewReader(r io.ReaderAt) (*Reader, error) {
	h := make([]byte, sectorSize)
	if _, err := r.ReadAt(h, 0); err != nil {
		return nil, fmt.Errorf("vmdk: %w", err)
	}
	le := binary.LittleEndian
	capacity, grain := int64(le.Uint64(h[12:])), int64(le.Uint64(h[20:]))
	entries, at := int64(le.Uint32(h[44:])), int64(le.Uint64(h[56:]))
	switch flags := le.Uint32(h[8:]); {
	case string(h[:4]) != Magic:
		return nil, errors.New("vmdk: not such an image")
	case flags&(flagCompressed|flagMarkers) != 0:
		return nil, errors.New("vmdk: compressed images are not read")
	case capacity <= 0 || capacity > MaxSize/sectorSize:
		return nil, fmt.Errorf("vmdk: a disk of %d sectors", capacity)
	case grain < 1 || grain > maxGrain/sectorSize || entries < 1 || entries > 1<<16:
		return nil, fmt.Errorf("vmdk: grains of %d sectors, %d in a table", grain, entries)
	case at <= 0 || at > MaxSize/sectorSize:
		return nil, errors.New("vmdk: no grain directory")
	}
	v := &Reader{r: r, size: capacity * sectorSize, grain: grain * sectorSize, entries: entries, number: -1}
	tables := ceil(capacity, grain*entries)
	if tables > maxDirectory {
		return nil, fmt.Errorf("vmdk: %d grain tables", tables)
	}
	var err error
	v.directory, err = v.numbers(at, tables)
	return v, err
}

// numbers reads n sector numbers from that sector on.
func (v *Reader) numbers(sector, n int64) ([]uint32, error) {
	b := make([]byte, n*4)
	if _, err := v.r.ReadAt(b, sector*sectorSize); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("vmdk: grain table at sector %d: %w", sector, err)
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(b[i*4:])
	}
	return out, nil
}

// Size is the size of the disk in bytes.
func (v *Reader) Size() int64 { return v.size }

// ReadAt reads the disk; grains that are not there are zeros.
func (v *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("vmdk: negative offset")
	}
	n := 0
	for n < len(p) {
		if off+int64(n) >= v.size {
			return n, io.EOF
		}
		at := off + int64(n)
		part := p[n:min(int64(len(p)), int64(n)+v.grain-at%v.grain, int64(n)+v.size-at)]
		where, err := v.find(at / v.grain)
		if err != nil {
			return n, err
		}
		if where <= 1 { // 1 says that there are zeros
			clear(part)
		} else if _, err := v.r.ReadAt(part, int64(where)*sectorSize+at%v.grain); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, fmt.Errorf("vmdk: grain %d: %w", at/v.grain, err)
		}
		n += len(part)
	}
	return n, nil
}

// find returns the sector of a grain.
func (v *Reader) find(grain int64) (uint32, error) {
	number := grain / v.entries
	sector := v.directory[number]
	if sector <= 1 {
		return 0, nil
	}
	if number != v.number {
		table, err := v.numbers(int64(sector), v.entries)
		if err != nil {
			return 0, err
		}
		v.table, v.number = table, number
	}
	return v.table[grain%v.entries], nil
}
