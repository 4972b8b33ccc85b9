package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Magic begins every image.
const Magic = "QFI\xfb"

// Limits of what is read into memory. QEMU's own limit of the L1 table is the
// same.
const (
	maxL1       = 32 << 20 // bytes
	cacheBytes  = 16 << 20 // of tables, and of unpacked clusters
	maxCluster  = 21       // bits
	minCluster  = 9
	maxDiskSize = math.MaxInt64 / 2
)

// Bits of the header and of L2 entries beside those that the writer uses.
const (
	incompatibleDirty   = 1 << 0 // reference counts may be stale, which readers do not use
	incompatibleCorrupt = 1 << 1
	flagZero            = 1
	offsetMask          = 1<<56 - 1<<9
)

// Reader reads the disk in an image of version 2 or 3. The image may be
// damaged or made to harm; what refers to other files, is encrypted or uses
// features that are not known is refused. It may be used by one goroutine at a
// time.
type Reader struct {
	r           io.ReaderAt
	file        int64 // size of the image
	size        int64 // of the disk
	bits        uint
	l1          []uint64
	compression Compression
	tables      cache[[]uint64] // L2 tables by their offset
	clusters    cache[[]byte]   // unpacked clusters by their L2 entry
	zstd        *zstd.Decoder
}

// cache keeps the last things that were read; when it is full it starts anew.
type cache[T any] struct {
	kept map[uint64]T
	max  int
}

func (c *cache[T]) put(key uint64, v T) {
	if c.kept == nil || len(c.kept) >= c.max {
		c.kept = map[uint64]T{}
	}
	c.kept[key] = v
}

// NewReader reads the header of an image of size bytes.
func NewReader(r io.ReaderAt, size int64) (*Reader, error) {
	q, err := newReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	return q, nil
}

func newReader(r io.ReaderAt, size int64) (*Reader, error) {
	h := make([]byte, headerSize)
	if n, err := r.ReadAt(h, 0); n < 72 {
		return nil, fmt.Errorf("the header is cut off: %w", unexpected(err))
	}
	be := binary.BigEndian
	if string(h[:4]) != Magic {
		return nil, errors.New("not an image of this kind")
	}
	q := &Reader{r: r, file: size, bits: uint(be.Uint32(h[20:])), size: int64(be.Uint64(h[24:])), compression: Zlib}
	switch version := be.Uint32(h[4:]); {
	case version != 2 && version != 3:
		return nil, fmt.Errorf("version %d is not known", version)
	case be.Uint64(h[8:]) != 0:
		return nil, errors.New("it has a backing file: write it out as a whole first (qemu-img convert)")
	case be.Uint32(h[32:]) != 0:
		return nil, errors.New("it is encrypted")
	case q.bits < minCluster || q.bits > maxCluster:
		return nil, fmt.Errorf("clusters of 1 << %d bytes", q.bits)
	case q.size < 0 || q.size > maxDiskSize:
		return nil, fmt.Errorf("a disk of %d bytes", uint64(q.size))
	case version == 3:
		if err := q.features(h); err != nil {
			return nil, err
		}
	}
	q.tables.max = int(max(2, cacheBytes>>q.bits))
	q.clusters.max = q.tables.max
	return q, q.readL1(int64(be.Uint32(h[36:])), int64(be.Uint64(h[40:])))
}

// features checks what version 3 has.
func (q *Reader) features(h []byte) error {
	be := binary.BigEndian
	bits := be.Uint64(h[72:])
	switch unknown := bits &^ (incompatibleDirty | incompatibleCompression); {
	case unknown&incompatibleCorrupt != 0:
		return errors.New("it is marked as corrupt")
	case unknown&(1<<2) != 0:
		return errors.New("its data is in another file")
	case unknown&(1<<4) != 0:
		return errors.New("extended L2 entries are not supported")
	case unknown != 0:
		return fmt.Errorf("incompatible features %#x are not known", unknown)
	}
	if bits&incompatibleCompression == 0 {
		return nil
	}
	if be.Uint32(h[100:]) <= 104 || h[104] > 1 {
		return fmt.Errorf("compression type %d is not known", h[104])
	}
	if h[104] == 1 {
		q.compression = Zstd
	}
	return nil
}

func (q *Reader) readL1(entries, at int64) error {
	perTable := int64(1) << (q.bits - 3)
	clusters := (q.size + 1<<q.bits - 1) >> q.bits
	need := (clusters + perTable - 1) / perTable
	if need > entries || need*8 > maxL1 || at < 0 || at > q.file-need*8 {
		return fmt.Errorf("an L1 table of %d entries at byte %d, for %d bytes", entries, at, q.size)
	}
	b := make([]byte, need*8)
	if _, err := q.r.ReadAt(b, at); err != nil {
		return unexpected(err)
	}
	q.l1 = numbers(b)
	return nil
}

func numbers(b []byte) []uint64 {
	out := make([]uint64, len(b)/8)
	for i := range out {
		out[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	return out
}

func unexpected(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Size is the size of the disk in bytes.
func (q *Reader) Size() int64 { return q.size }

// ReadAt reads the disk; what was never written to it are zeros.
func (q *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("qcow2: read before the disk")
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= q.size {
			return done, io.EOF
		}
		inside := at & (1<<q.bits - 1)
		part := p[done:][:min(int64(len(p)-done), 1<<q.bits-inside, q.size-at)]
		if err := q.read(part, at>>q.bits, inside); err != nil {
			return done, fmt.Errorf("qcow2: byte %d of the disk: %w", at, err)
		}
		done += len(part)
	}
	return done, nil
}

// read reads a part of one cluster.
func (q *Reader) read(p []byte, cluster, inside int64) error {
	entry, err := q.entry(cluster)
	if err != nil {
		return err
	}
	if entry&flagCompressed != 0 {
		b, err := q.unpacked(entry)
		if err != nil {
			return err
		}
		copy(p, b[inside:])
		return nil
	}
	at := int64(entry & offsetMask)
	if entry&flagZero != 0 || at == 0 {
		clear(p)
		return nil
	}
	if at&(1<<q.bits-1) != 0 || at > q.file-inside-int64(len(p)) {
		return fmt.Errorf("its cluster at byte %d is not in the image: was it cut off?", at)
	}
	if _, err := q.r.ReadAt(p, at+inside); err != nil {
		return unexpected(err)
	}
	return nil
}

// entry returns the L2 entry of a cluster of the disk.
func (q *Reader) entry(cluster int64) (uint64, error) {
	perTable := int64(1) << (q.bits - 3)
	at := q.l1[cluster/perTable] & offsetMask
	if at == 0 {
		return 0, nil
	}
	table, ok := q.tables.kept[at]
	if !ok {
		if at&(1<<q.bits-1) != 0 || int64(at) > q.file-1<<q.bits {
			return 0, fmt.Errorf("its table at byte %d is not in the image: was it cut off?", at)
		}
		b := make([]byte, 1<<q.bits)
		if _, err := q.r.ReadAt(b, int64(at)); err != nil {
			return 0, unexpected(err)
		}
		table = numbers(b)
		q.tables.put(at, table)
	}
	return table[cluster%perTable], nil
}

// unpacked returns a compressed cluster.
func (q *Reader) unpacked(entry uint64) ([]byte, error) {
	if b, ok := q.clusters.kept[entry]; ok {
		return b, nil
	}
	shift := 62 - (q.bits - 8)
	at := int64(entry & (1<<shift - 1))
	sectors := int64(entry&^(3<<62)) >> shift
	// The last sector may be beyond the end of the image.
	length := min((sectors+1)*sectorSize-at%sectorSize, q.file-at)
	if length <= 0 {
		return nil, fmt.Errorf("its cluster at byte %d is not in the image: was it cut off?", at)
	}
	packed := make([]byte, length)
	if _, err := q.r.ReadAt(packed, at); err != nil {
		return nil, unexpected(err)
	}
	b := make([]byte, 1<<q.bits)
	if err := q.unpack(b, packed); err != nil {
		return nil, fmt.Errorf("its cluster at byte %d cannot be unpacked: %w", at, err)
	}
	q.clusters.put(entry, b)
	return b, nil
}

// unpack fills b; what follows in packed belongs to other clusters.
func (q *Reader) unpack(b, packed []byte) error {
	if q.compression == Zlib {
		_, err := io.ReadFull(flate.NewReader(bytes.NewReader(packed)), b) // Close would only say the error again
		return err
	}
	if q.zstd == nil {
		var err error
		q.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<maxCluster+1<<20))
		if err != nil {
			return err
		}
	}
	if err := q.zstd.Reset(bytes.NewReader(packed)); err != nil {
		return err
	}
	_, err := io.ReadFull(q.zstd, b)
	return err
}
