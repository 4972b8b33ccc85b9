package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
)

// Sum identifies a chunk: the first 16 bytes of the SHA-256 of its bytes, and
// all zero for a chunk of zeros.
type Sum [16]byte

// Chunk is one chunk of a disk. Offsets and lengths are in bytes.
type Chunk struct {
	Offset       int64 // in the disk
	Length       int64 // in the disk
	PackedOffset int64 // of its frame in the blob
	Packed       int64 // of its frame
	Sum          Sum
}

// Zeros tells whether the chunk is nothing but zeros. Its frame need not be
// read.
func (c Chunk) Zeros() bool { return c.Sum == Sum{} }

// Index says where the chunks of a disk are. They follow one another without
// gaps, in the disk and in the blob.
type Index []Chunk

// Size is the length of the disk, in bytes.
func (x Index) Size() int64 {
	if len(x) == 0 {
		return 0
	}
	last := x[len(x)-1]
	return last.Offset + last.Length
}

// PackedSize is the length of the blob, in bytes.
func (x Index) PackedSize() int64 {
	if len(x) == 0 {
		return 0
	}
	last := x[len(x)-1]
	return last.PackedOffset + last.Packed
}

// Range returns the chunks that are bytes off to off+n of the disk. It is an
// error when no chunk starts at off or none ends at off+n.
func (x Index) Range(off, n int64) (Index, error) {
	from := sort.Search(len(x), func(i int) bool { return x[i].Offset >= off })
	to := from + sort.Search(len(x)-from, func(i int) bool { return x[from+i].Offset+x[from+i].Length >= off+n })
	if n <= 0 || to >= len(x) || x[from].Offset != off || x[to].Offset+x[to].Length != off+n {
		return nil, fmt.Errorf("chunk index: bytes %d to %d of the disk are no whole chunks", off, off+n)
	}
	return x[from : to+1], nil
}

// The form of an index: magic, then entries of length, packed length (both
// 32 bits, little-endian) and sum.
const (
	magic     = "GSCHUNK1"
	entrySize = 4 + 4 + len(Sum{})
	// maxPacked is more than any frame takes that an encoder makes of a chunk.
	maxPacked = MaxData + MaxData/8
)

// MaxIndex is the length of the longest index that [Parse] takes, in bytes:
// enough for 120 GiB of data.
const MaxIndex = 48 << 20

// Encode renders the index.
func (x Index) Encode() ([]byte, error) {
	b := make([]byte, 0, len(magic)+len(x)*entrySize)
	b = append(b, magic...)
	for _, c := range x {
		b = binary.LittleEndian.AppendUint32(b, uint32(c.Length))
		b = binary.LittleEndian.AppendUint32(b, uint32(c.Packed))
		b = append(b, c.Sum[:]...)
	}
	if len(b) > MaxIndex {
		return nil, fmt.Errorf("chunk index: the disk has %d chunks, more than fit", len(x))
	}
	return b, nil
}

// Parse reads an index and checks that each of its lengths is possible.
func Parse(b []byte) (Index, error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, errors.New("chunk index: it does not start as one")
	}
	b = b[len(magic):]
	if len(b) > MaxIndex || len(b)%entrySize != 0 {
		return nil, fmt.Errorf("chunk index: %d bytes are no whole number of entries, or too many", len(b))
	}
	x := make(Index, 0, len(b)/entrySize)
	for ; len(b) > 0; b = b[entrySize:] {
		c := Chunk{
			Offset: x.Size(), PackedOffset: x.PackedSize(), Sum: Sum(b[8:entrySize]),
			Length: int64(binary.LittleEndian.Uint32(b)), Packed: int64(binary.LittleEndian.Uint32(b[4:])),
		}
		longest := int64(MaxData)
		if c.Zeros() {
			longest = MaxZeros
		}
		if c.Length < 1 || c.Length > longest || c.Packed < 1 || c.Packed > maxPacked {
			return nil, fmt.Errorf("chunk index: chunk %d has an impossible length", len(x))
		}
		x = append(x, c)
	}
	return x, nil
}
