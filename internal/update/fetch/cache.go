package fetch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"goldsmith/internal/chunk"
)

// cache keeps the frames of chunks that were fetched, in one file CHUNKS of
// records: sum (16 bytes), length and packed length (32 bits each,
// little-endian), frame. Records are appended and verified when they are used,
// so what a crash leaves does no harm.
type cache struct {
	f      *os.File
	end    int64
	frames map[chunk.Sum]chunk.Chunk // PackedOffset is where the frame is in the file
}

const (
	cacheName   = "chunks"
	cacheHeader = 16 + 4 + 4
	maxCache    = 512 << 20 // bytes; a file that grew beyond it is started anew
	maxFrame    = 2 * chunk.MaxData
)

func openCache(dir string) (*cache, error) {
	name := filepath.Join(dir, cacheName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	c := &cache{f: f, frames: map[chunk.Sum]chunk.Chunk{}}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", name)
	}
	if err == nil && fi.Size() < maxCache {
		c.scan(fi.Size())
	}
	if err == nil {
		err = f.Truncate(c.end)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

// Forget removes what a cache's directory keeps, and nothing else in it.
func Forget(dir string) error {
	err := os.Remove(filepath.Join(dir, cacheName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// scan finds the records up to the first that cannot be one.
func (c *cache) scan(size int64) {
	var h [cacheHeader]byte
	for {
		if _, err := c.f.ReadAt(h[:], c.end); err != nil {
			return
		}
		e := chunk.Chunk{
			Sum: chunk.Sum(h[:16]), PackedOffset: c.end + cacheHeader,
			Length: int64(binary.LittleEndian.Uint32(h[16:])), Packed: int64(binary.LittleEndian.Uint32(h[20:])),
		}
		if e.Zeros() || e.Length < 1 || e.Length > chunk.MaxData || e.Packed < 1 || e.Packed > maxFrame ||
			e.PackedOffset+e.Packed > size {
			return
		}
		c.frames[e.Sum] = e
		c.end = e.PackedOffset + e.Packed
	}
}

// add appends a frame. The cache is a help: when it cannot be written, or is
// full, it keeps less.
func (c *cache) add(ch chunk.Chunk, frame []byte) {
	if c.end+cacheHeader+int64(len(frame)) > maxCache {
		return
	}
	b := append([]byte(nil), ch.Sum[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(ch.Length))
	b = binary.LittleEndian.AppendUint32(b, uint32(ch.Packed))
	if _, err := c.f.WriteAt(append(b, frame...), c.end); err == nil {
		c.end += cacheHeader + int64(len(frame))
	}
}

func (c *cache) close() { _ = c.f.Close() }

// fromCache writes what the cache holds of what is left.
func (w *writer) fromCache(ctx context.Context) error {
	if w.cache == nil || len(w.cache.frames) == 0 {
		return nil
	}
	d, err := chunk.NewDecoder()
	if err != nil {
		return err
	}
	defer d.Close()
	frame, buf := make([]byte, maxFrame), make([]byte, 0, chunk.MaxData)
	for _, c := range w.left() {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, ok := w.cache.frames[c.Sum]
		if !ok {
			continue
		}
		b := frame[:e.Packed]
		if _, err := w.cache.f.ReadAt(b, e.PackedOffset); err != nil && err != io.EOF {
			continue
		}
		data, err := d.Chunk(c, b, buf)
		if err != nil {
			continue // it is fetched again
		}
		if err := w.put(c.Sum, data, &w.stats.Cached); err != nil {
			return err
		}
	}
	return nil
}
