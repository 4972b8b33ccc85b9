package fetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"goldsmith/internal/chunk"
)

// Part is a part of an image that a machine takes.
type Part int

// The parts.
const (
	Root Part = iota // the root file system
	UKI              // the unified kernel image
	Disk             // the whole disk, of whatever layout
)

// Options say how a part is written. The zero value takes everything from the
// source.
type Options struct {
	// Seeds are searched for chunks. What is written to may be among them: its
	// chunks are taken as long as they have not been overwritten.
	Seeds []Seed
	// Cache is a directory, which must be there, that keeps what was fetched
	// until it is removed. Empty means none.
	Cache string
	// Progress is told how many bytes of the part are done. Nil means nobody.
	Progress func(done, total int64)
}

// Stats tell where the bytes of a part came from.
type Stats struct {
	Size    int64 // of the part
	Kept    int64 // were in place already
	Seeded  int64 // came from seeds
	Cached  int64 // came from the cache
	Zeros   int64 // are chunks of zeros
	Unique  int64 // came from the source, unpacked
	Fetched int64 // what travelled for them, with what lies between them
}

// Zeroer is what a destination may be that has a quicker way to make n bytes
// from off on zeros than to write them.
type Zeroer interface {
	Zero(off, n int64) error
}

// Write writes a part of the image to dst, from offset 0 on. Where dst is also
// an io.ReaderAt, chunks that are in place are left alone, so that a Write that
// was interrupted goes on where it was. Each chunk is verified before it is
// written. Flushing dst is the caller's.
func (im *Image) Write(ctx context.Context, part Part, dst io.WriterAt, o Options) (Stats, error) {
	w, err := im.newWriter(ctx, part)
	if err != nil {
		return Stats{}, err
	}
	w.dst, w.progress = dst, o.Progress
	if o.Cache != "" {
		if w.cache, err = openCache(o.Cache); err != nil {
			return w.stats, err
		}
		defer w.cache.close()
	}
	if err := w.write(ctx, o.Seeds); err != nil {
		return w.stats, fmt.Errorf("%s: %w", im.ref, err)
	}
	return w.stats, nil
}

// Missing tells how many bytes would travel to write the part, if what the
// seeds hold stays there. It fetches the chunk index and nothing else.
func (im *Image) Missing(ctx context.Context, part Part, seeds ...Seed) (int64, error) {
	w, err := im.newWriter(ctx, part)
	if err != nil {
		return 0, err
	}
	have, err := w.search(ctx, seeds)
	if err != nil {
		return 0, err
	}
	var n int64
	for sum, places := range w.places {
		if _, ok := have[sum]; !ok {
			n += places[0].Packed
		}
	}
	return n, nil
}

// writer assembles one part.
type writer struct {
	im       *Image
	dst      io.WriterAt
	base     int64 // of the part in the disk
	places   map[chunk.Sum][]chunk.Chunk
	zeros    []chunk.Chunk
	cache    *cache // may be nil
	progress func(done, total int64)
	done     int64
	stats    Stats
}

func (im *Image) newWriter(ctx context.Context, part Part) (*writer, error) {
	chunks, off, n, err := im.part(ctx, part)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", im.ref, err)
	}
	w := &writer{im: im, base: off, places: map[chunk.Sum][]chunk.Chunk{}, stats: Stats{Size: n}}
	for _, c := range chunks {
		if c.Zeros() {
			w.zeros = append(w.zeros, c)
			continue
		}
		w.places[c.Sum] = append(w.places[c.Sum], c)
	}
	return w, nil
}

// part returns the chunks of a part, which lies at that offset of the disk and
// is n bytes long.
func (im *Image) part(ctx context.Context, part Part) (chunks []chunk.Chunk, off, n int64, err error) {
	if im.release.Root == nil && part != Disk {
		return nil, 0, 0, errors.New("not a disk of goldsmith's own layout: no machine can update itself to it")
	}
	if err := im.readIndex(ctx); err != nil {
		return nil, 0, 0, err
	}
	switch part {
	case Root:
		off, n = im.release.Root.Offset, im.release.Root.Size
	case UKI:
		off, n = im.release.UKI.Offset, im.release.UKI.Size
	case Disk:
		n = im.release.Disk.Size
	}
	chunks, err = im.chunks.Range(off, n)
	return chunks, off, n, err
}

// readIndex reads the chunk index, once.
func (im *Image) readIndex(ctx context.Context) error {
	if im.chunks != nil {
		return nil
	}
	b, err := im.small(ctx, im.index, chunk.MaxIndex)
	if err != nil {
		return err
	}
	x, err := chunk.Parse(b)
	if err != nil {
		return err
	}
	if x.Size() != im.release.Disk.Size || x.PackedSize() != im.disk.Size {
		return errors.New("chunk index: it is that of another disk")
	}
	lengths := map[chunk.Sum]int64{}
	for _, c := range x {
		if n, ok := lengths[c.Sum]; ok && n != c.Length && !c.Zeros() {
			return errors.New("chunk index: two lengths for one chunk")
		}
		lengths[c.Sum] = c.Length
	}
	im.chunks, im.lengths, im.seeds = x, lengths, map[Seed]map[chunk.Sum]int64{}
	return nil
}

func (w *writer) write(ctx context.Context, seeds []Seed) error {
	if r, ok := w.dst.(io.ReaderAt); ok {
		if err := w.keep(ctx, r); err != nil {
			return err
		}
	}
	if err := w.writeZeros(ctx); err != nil {
		return err
	}
	found, err := w.search(ctx, seeds)
	if err != nil {
		return err
	}
	buf := make([]byte, chunk.MaxData)
	for _, c := range w.left() {
		f, ok := found[c.Sum]
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// What cannot be read, or was overwritten since, is fetched.
		b := buf[:c.Length]
		if n, _ := f.ReadAt(b, f.off); n == len(b) && chunk.SumOf(b) == c.Sum {
			if err := w.put(c.Sum, b, &w.stats.Seeded); err != nil {
				return err
			}
		}
	}
	if err := w.fromCache(ctx); err != nil {
		return err
	}
	return w.fromSource(ctx)
}

// left are the chunks that are not written yet, each once, in the order in
// which they are packed.
func (w *writer) left() []chunk.Chunk {
	var out []chunk.Chunk
	for _, places := range w.places {
		out = append(out, places[0])
	}
	slices.SortFunc(out, func(a, b chunk.Chunk) int { return cmp.Compare(a.PackedOffset, b.PackedOffset) })
	return out
}

// keep finds the chunks that are in place. Where there are zeros yet, as in a
// slot that was never written, nothing is hashed.
func (w *writer) keep(ctx context.Context, r io.ReaderAt) error {
	buf, zeros := make([]byte, chunk.MaxData), make([]byte, chunk.MaxData)
	for _, first := range w.left() {
		var open []chunk.Chunk
		for _, c := range w.places[first.Sum] {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, _ := r.ReadAt(buf[:c.Length], c.Offset-w.base)
			if int64(n) == c.Length && !bytes.Equal(buf[:n], zeros[:n]) && chunk.SumOf(buf[:n]) == c.Sum {
				w.count(c.Length, &w.stats.Kept)
			} else {
				open = append(open, c)
			}
		}
		if w.places[first.Sum] = open; len(open) == 0 {
			delete(w.places, first.Sum)
		}
	}
	return nil
}

func (w *writer) writeZeros(ctx context.Context) error {
	zeros := make([]byte, 1<<20)
	quick, _ := w.dst.(Zeroer)
	for _, c := range w.zeros {
		if quick != nil {
			if err := errors.Join(ctx.Err(), quick.Zero(c.Offset-w.base, c.Length)); err != nil {
				return err
			}
			w.count(c.Length, &w.stats.Zeros)
			continue
		}
		for at := int64(0); at < c.Length; at += int64(len(zeros)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := w.dst.WriteAt(zeros[:min(int64(len(zeros)), c.Length-at)], c.Offset-w.base+at); err != nil {
				return err
			}
		}
		w.count(c.Length, &w.stats.Zeros)
	}
	return nil
}

// put writes a verified chunk to all its places and is done with it.
func (w *writer) put(sum chunk.Sum, data []byte, stat *int64) error {
	for _, c := range w.places[sum] {
		if _, err := w.dst.WriteAt(data, c.Offset-w.base); err != nil {
			return err
		}
		w.count(c.Length, stat)
	}
	delete(w.places, sum)
	return nil
}

func (w *writer) count(n int64, stat *int64) {
	*stat += n
	w.done += n
	if w.progress != nil {
		w.progress(w.done, w.stats.Size)
	}
}

// fromSource fetches what is left.
func (w *writer) fromSource(ctx context.Context) error {
	d, err := chunk.NewDecoder()
	if err != nil {
		return err
	}
	defer d.Close()
	buf := make([]byte, 0, chunk.MaxData)
	before := w.im.fetched.Load()
	err = w.im.fetch(ctx, w.im.disk, w.left(), func(c chunk.Chunk, frame []byte) error {
		data, err := d.Chunk(c, frame, buf)
		if err != nil {
			return err
		}
		if w.cache != nil {
			w.cache.add(c, frame)
		}
		if err := w.put(c.Sum, data, &w.stats.Unique); err != nil {
			return permanent{err}
		}
		return nil
	})
	w.stats.Fetched = w.im.fetched.Load() - before
	return err
}
