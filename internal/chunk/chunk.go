// Package chunk cuts a disk into chunks by their content, so that an update
// fetches only those that a machine lacks.
//
// The blob is one plain zstd stream (RFC 8878): a frame for each chunk, in
// order, and `zstd -d` makes the disk of it. The [Index] beside it says how
// long each chunk and its frame are, and what the chunk's bytes hash to; so a
// chunk is a range of the blob that any server of files can give.
//
// Cuts follow the content (FastCDC): what is inserted or removed changes the
// chunks it is in and no later ones. They are forced where a caller says, so
// that a partition's content is cut as it would be alone. Long runs of zeros
// are one chunk.
//
// The same disk gives the same bytes, however it is read and on however many
// processors.
package chunk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// job is a piece on its way from the cutter to the blob.
type job struct {
	piece
	buf   []byte // what data lies in
	frame []byte
	sum   Sum
	done  chan struct{} // closed when frame and sum are there
}

// Write reads the disk r to its end, cuts it, at least at the offsets cuts,
// and writes the blob to w. It compresses on all processors.
func Write(ctx context.Context, w io.Writer, r io.Reader, cuts ...int64) (Index, error) {
	workers := runtime.GOMAXPROCS(0)
	g, ctx := errgroup.WithContext(ctx)
	work, order := make(chan *job), make(chan *job, 4*workers)
	free := make(chan []byte, 5*workers)
	for range cap(free) {
		free <- make([]byte, MaxData)
	}
	g.Go(func() error {
		defer close(work)
		defer close(order)
		return cutAll(ctx, newCutter(r, cuts), work, order, free)
	})
	for range workers {
		g.Go(func() error { return pack(work) })
	}
	var x Index
	g.Go(func() (err error) {
		x, err = collect(ctx, w, order, free)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return x, nil
}

// cutAll hands every piece to the packers and, in order, to the collector.
func cutAll(ctx context.Context, c *cutter, work, order chan<- *job, free <-chan []byte) error {
	for {
		p, err := c.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		j := &job{piece: p, done: make(chan struct{})}
		if p.zeros == 0 {
			select {
			case j.buf = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			j.data = j.buf[:copy(j.buf, p.data)]
		}
		for _, to := range []chan<- *job{order, work} {
			select {
			case to <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// newEncoder makes frames without a checksum: the index has a better one.
func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithEncoderCRC(false))
}

func pack(work <-chan *job) error {
	z, err := newEncoder()
	if err != nil {
		return err
	}
	defer z.Close()
	for j := range work {
		if j.zeros > 0 {
			j.frame = zeroFrame(j.zeros)
		} else {
			j.frame, j.sum = z.EncodeAll(j.data, nil), SumOf(j.data)
		}
		close(j.done)
	}
	return nil
}

func collect(ctx context.Context, w io.Writer, order <-chan *job, free chan<- []byte) (Index, error) {
	var x Index
	for j := range order {
		select {
		case <-j.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if _, err := w.Write(j.frame); err != nil {
			return nil, err
		}
		x = append(x, Chunk{
			Offset: j.off, Length: j.zeros + int64(len(j.data)),
			PackedOffset: x.PackedSize(), Packed: int64(len(j.frame)), Sum: j.sum,
		})
		if j.buf != nil {
			free <- j.buf
		}
	}
	return x, nil
}

// SumOf is the sum of a chunk's bytes.
func SumOf(data []byte) Sum {
	sum := sha256.Sum256(data)
	return Sum(sum[:])
}

// zeroFrame is a frame of n zeros, in blocks of the type that repeats a byte:
// compressing a gigabyte of zeros would take longer than all the data.
func zeroFrame(n int64) []byte {
	const block = 128 << 10 // the longest block, and so the window
	b := binary.LittleEndian.AppendUint32(nil, 0xfd2fb528)
	// RFC 8878, 3.1.1.1: four bytes of content size, a window of 2^(10+7).
	b = append(b, 2<<6, 7<<3)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	for n > 0 {
		size := min(n, block)
		n -= size
		header := uint32(size)<<3 | 1<<1 // repeated byte
		if n == 0 {
			header |= 1 // last
		}
		b = append(b, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	return b
}

// Decoder unpacks chunks. It is not safe for use by several goroutines.
type Decoder struct{ z *zstd.Decoder }

// NewDecoder returns a decoder; its caller closes it.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxData))
	return &Decoder{z}, err
}

// Close frees what the decoder holds.
func (d *Decoder) Close() { d.z.Close() }

// Chunk unpacks the frame of chunk c, which is no chunk of zeros, behind
// buf[:0] and verifies it. No frame makes it use more memory than a chunk has.
func (d *Decoder) Chunk(c Chunk, frame, buf []byte) ([]byte, error) {
	data, err := d.z.DecodeAll(frame, buf[:0])
	if err != nil {
		return nil, fmt.Errorf("chunk at %d: %w", c.Offset, err)
	}
	if int64(len(data)) != c.Length || SumOf(data) != c.Sum {
		return nil, fmt.Errorf("chunk at %d: its content is not what the index says", c.Offset)
	}
	return data, nil
}
