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

	"golang.org/x/sys/unix"

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
	maxReserve  = 1 << 30   // bytes
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
	// What others need more than we, is theirs: c.end is 0 then.
	if free, reserve := c.room(); err == nil && fi.Size() < maxCache && free >= reserve/2 {
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

// room is how many bytes are free beside the cache, and how many of them are to
// stay so: a quarter of the file system, at most 1 GiB. The machine's record and
// what its services keep are on the same one.
func (c *cache) room() (free, reserve int64) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(c.f.Fd()), &st); err != nil {
		return 0, 1
	}
	return int64(st.Bavail) * st.Bsize, min(int64(st.Blocks)*st.Bsize/4, maxReserve)
}

// add appends a frame. The cache is a help: when it cannot be written, or is
// full, it keeps less; when others take the room that it leaves, it keeps
// nothing.
func (c *cache) add(ch chunk.Chunk, frame []byte) {
	n := cacheHeader + int64(len(frame))
	free, reserve := c.room()
	if c.end > 0 && free < reserve/2 {
		if c.f.Truncate(0) == nil {
			c.end, c.frames = 0, map[chunk.Sum]chunk.Chunk{}
		}
		return
	}
	if c.end+n > maxCache || free-n < reserve {
		return
	}
	b := append([]byte(nil), ch.Sum[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(ch.Length))
	b = binary.LittleEndian.AppendUint32(b, uint32(ch.Packed))
	if _, err := c.f.WriteAt(append(b, frame...), c.end); err == nil {
		c.end += n
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
