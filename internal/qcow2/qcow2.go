// Package qcow2 writes disk images in QEMU's copy-on-write format, version 3,
// and reads versions 2 and 3 (docs/interop/qcow2.txt of the QEMU sources).
//
// The same disk always gives the same bytes: clusters are written in the order
// of the disk, tables after them, and nothing but the disk's content reaches
// the file. Holes and clusters of zeros take no space. There are no snapshots
// and no backing files.
package qcow2

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"goldsmith/internal/sparse"
)

// Compression is how clusters are packed.
type Compression int

// The compressions. Zstd needs QEMU 5.1 or newer, Zlib is read by all.
const (
	Zstd Compression = iota
	Zlib
	None
)

const (
	clusterBits = 16
	clusterSize = 1 << clusterBits
	l2Entries   = clusterSize / 8
	refEntries  = clusterSize / 2 // reference counts of 16 bits
	headerSize  = 112
	sectorSize  = 512

	// An L2 entry's bits: docs/interop/qcow2.txt, "Cluster mapping".
	flagCopied     = 1 << 63
	flagCompressed = 1 << 62
	// lengthShift is where a compressed cluster's number of further sectors
	// begins: 62 - (cluster_bits - 8).
	lengthShift = 62 - (clusterBits - 8)

	incompatibleCompression = 1 << 3

	// zlibWindow is what QEMU inflates with: windowBits 12.
	zlibWindow = 1 << 12
)

// Write writes the raw disk src, of size bytes, as a qcow2 image to dst, which
// must be empty. The virtual size is rounded up to a multiple of 512.
func Write(ctx context.Context, dst *os.File, src *os.File, c Compression) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	r, err := sparse.NewReader(src)
	if err != nil {
		return err
	}
	size := (fi.Size() + sectorSize - 1) / sectorSize * sectorSize
	w := &writer{dst: dst, compression: c, end: clusterSize, table: make([]uint64, (size+clusterSize-1)/clusterSize)}
	if err := w.data(ctx, r); err != nil {
		return err
	}
	return w.tables(size)
}

type writer struct {
	dst         *os.File
	compression Compression
	end         int64     // of what has been written
	table       []uint64  // the L2 entry of each cluster of the disk
	refs        []uint16  // of each cluster of the file
	free        sync.Pool // of *[]byte, a cluster each
}

// buffer returns room for a cluster, with whatever is in it.
func (w *writer) buffer() []byte {
	if b, ok := w.free.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, clusterSize)
}

// cluster is one cluster of the disk on its way.
type cluster struct {
	index  int
	raw    []byte
	packed []byte // nil: it does not get smaller
	done   chan struct{}
}

// data writes the clusters that are not zeros. Packing runs on all
// processors; writing follows the disk's order.
func (w *writer) data(ctx context.Context, r io.Reader) error {
	n := runtime.GOMAXPROCS(0)
	queue, work := make(chan *cluster, 4*n), make(chan *cluster)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(queue)
		defer close(work)
		return w.read(ctx, r, queue, work)
	})
	for range n {
		g.Go(func() error { return w.pack(work) })
	}
	g.Go(func() error {
		var err error
		for c := range queue {
			if <-c.done; err == nil {
				err = w.put(c)
			}
			w.free.Put(&c.raw)
		}
		return err
	})
	return g.Wait()
}

// read cuts the disk into clusters.
func (w *writer) read(ctx context.Context, r io.Reader, queue, work chan<- *cluster) error {
	zeros := make([]byte, clusterSize)
	raw := w.buffer()
	for i := range w.table {
		n, err := io.ReadFull(r, raw)
		if err != nil && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("read cluster %d: %w", i, err)
		}
		clear(raw[n:])
		if bytes.Equal(raw, zeros) {
			continue
		}
		c := &cluster{index: i, raw: raw, done: make(chan struct{})}
		raw = w.buffer()
		for _, to := range []chan<- *cluster{work, queue} {
			select {
			case to <- c:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// pack compresses clusters; it ends when there are no more.
func (w *writer) pack(work <-chan *cluster) error {
	pack, err := w.compression.packer()
	for c := range work {
		if err == nil {
			c.packed, err = pack(c.raw)
		}
		close(c.done)
	}
	return err
}

// packer returns a function that compresses one cluster; it returns nil when
// that does not make it smaller.
func (c Compression) packer() (func([]byte) ([]byte, error), error) {
	var pack func([]byte) ([]byte, error)
	switch c {
	case None:
		return func([]byte) ([]byte, error) { return nil, nil }, nil
	case Zstd:
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, err
		}
		pack = func(raw []byte) ([]byte, error) { return enc.EncodeAll(raw, nil), nil }
	case Zlib:
		var b bytes.Buffer
		z, err := flate.NewWriterWindow(&b, zlibWindow)
		if err != nil {
			return nil, err
		}
		pack = func(raw []byte) ([]byte, error) {
			b.Reset()
			z.Reset(&b)
			_, err := z.Write(raw)
			err = errors.Join(err, z.Close())
			return bytes.Clone(b.Bytes()), err
		}
	default:
		return nil, fmt.Errorf("qcow2: unknown compression %d", c)
	}
	return func(raw []byte) ([]byte, error) {
		packed, err := pack(raw)
		if err != nil || len(packed) >= clusterSize-sectorSize {
			return nil, err
		}
		return packed, nil
	}, nil
}

// put writes one cluster and notes where.
func (w *writer) put(c *cluster) error {
	if c.packed == nil {
		w.end = (w.end + clusterSize - 1) / clusterSize * clusterSize
		w.table[c.index] = uint64(w.end) | flagCopied
		return w.append(c.raw)
	}
	// Compressed clusters lie one behind the other at byte offsets; the entry
	// says how many sectors the cluster touches beside its first.
	first, last := w.end/sectorSize, (w.end+int64(len(c.packed))-1)/sectorSize
	w.table[c.index] = uint64(w.end) | uint64(last-first)<<lengthShift | flagCompressed
	return w.append(c.packed)
}

// append writes b at the end and counts its references.
func (w *writer) append(b []byte) error {
	if _, err := w.dst.WriteAt(b, w.end); err != nil {
		return err
	}
	w.refer(w.end, int64(len(b)))
	w.end += int64(len(b))
	return nil
}

// refer counts a reference to every cluster of the file that a stretch
// touches.
func (w *writer) refer(off, length int64) {
	for i := off >> clusterBits; i <= (off+length-1)>>clusterBits; i++ {
		for int64(len(w.refs)) <= i {
			w.refs = append(w.refs, 0)
		}
		w.refs[i]++
	}
}

func clusters(n int64) int64 { return (n + clusterSize - 1) / clusterSize }

// tables writes what leads to the data: L2 tables, the L1 table, reference
// counts, the header.
func (w *writer) tables(size int64) error {
	w.refer(0, clusterSize) // the header's
	align := func() { w.end = clusters(w.end) * clusterSize }
	l1 := make([]uint64, (len(w.table)+l2Entries-1)/l2Entries)
	for i := range l1 {
		part := w.table[i*l2Entries : min((i+1)*l2Entries, len(w.table))]
		if !used(part) {
			continue
		}
		align()
		l1[i] = uint64(w.end) | flagCopied
		if err := w.append(bigEndian(part, clusterSize)); err != nil {
			return err
		}
	}
	align()
	l1At := w.end
	if err := w.append(bigEndian(l1, int(max(1, clusters(int64(len(l1))*8)))*clusterSize)); err != nil {
		return err
	}
	refAt, refClusters, err := w.references()
	if err != nil {
		return err
	}
	return w.header(size, l1At, len(l1), refAt, refClusters)
}

func used(entries []uint64) bool {
	for _, e := range entries {
		if e != 0 {
			return true
		}
	}
	return false
}

func bigEndian(entries []uint64, length int) []byte {
	b := make([]byte, length)
	for i, e := range entries {
		binary.BigEndian.PutUint64(b[i*8:], e)
	}
	return b
}

// references writes the reference count blocks and their table, which count
// themselves, too.
func (w *writer) references() (at, tableClusters int64, err error) {
	w.end = clusters(w.end) * clusterSize
	data := w.end >> clusterBits
	var blocks int64
	for { // until the blocks suffice for data, blocks and table
		tableClusters = max(1, clusters(blocks*8))
		if blocks*refEntries >= data+blocks+tableClusters {
			break
		}
		blocks++
	}
	w.refer(w.end, (blocks+tableClusters)*clusterSize)
	table := make([]uint64, blocks)
	for i := range table {
		block := make([]byte, clusterSize)
		for j := range refEntries {
			if k := i*refEntries + j; k < len(w.refs) {
				binary.BigEndian.PutUint16(block[j*2:], w.refs[k])
			}
		}
		table[i] = uint64(w.end)
		if _, err := w.dst.WriteAt(block, w.end); err != nil {
			return 0, 0, err
		}
		w.end += clusterSize
	}
	at = w.end
	_, err = w.dst.WriteAt(bigEndian(table, int(tableClusters)*clusterSize), at)
	w.end += tableClusters * clusterSize
	return at, tableClusters, err
}

// header writes the first cluster.
func (w *writer) header(size, l1At int64, l1Entries int, refAt, refClusters int64) error {
	h := make([]byte, clusterSize)
	be := binary.BigEndian
	copy(h, "QFI\xfb")
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], clusterBits)
	be.PutUint64(h[24:], uint64(size))
	be.PutUint32(h[36:], uint32(l1Entries))
	be.PutUint64(h[40:], uint64(l1At))
	be.PutUint64(h[48:], uint64(refAt))
	be.PutUint32(h[56:], uint32(refClusters))
	if w.compression == Zstd {
		be.PutUint64(h[72:], incompatibleCompression)
		h[104] = 1
	}
	be.PutUint32(h[96:], 4) // reference counts of 1<<4 bits
	be.PutUint32(h[100:], headerSize)
	_, err := w.dst.WriteAt(h, 0)
	return err
}
