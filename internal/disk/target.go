package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// target is the disk file while it is written. Its first error ends all
// writing and is kept, because not every layer above hands errors on whole.
type target struct {
	ctx context.Context
	f   *os.File
	err error
}

// resize empties the file and makes it size bytes of hole.
func (t *target) resize(size int64) error {
	for _, n := range []int64{0, size} {
		if err := t.f.Truncate(n); err != nil {
			return t.fail(err)
		}
	}
	return nil
}

func (t *target) WriteAt(b []byte, off int64) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	if err := t.ctx.Err(); err != nil {
		t.err = err
		return 0, err
	}
	n, err := t.f.WriteAt(b, off)
	if err != nil {
		return n, t.fail(err)
	}
	return n, nil
}

// fail words an error once: the file, and what the system said.
func (t *target) fail(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	switch {
	case errors.Is(err, unix.EFBIG):
		err = fmt.Errorf("%w: its file system does not take files this large", err)
	case errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("%w: want a regular file", err)
	}
	t.err = fmt.Errorf("write %s: %w", t.f.Name(), err)
	return t.err
}

// window is one partition of the target.
type window struct {
	w           *target
	start, size int64
	name        string
}

func (p *window) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > p.size || int64(len(b)) > p.size-off {
		return 0, fmt.Errorf("write beyond partition %s", p.name)
	}
	return p.w.WriteAt(b, p.start+off)
}

// tableFile is the target as go-diskfs wants it. It has no Sync, on purpose:
// go-diskfs would wait for the disk six times, and whoever asked for the image
// flushes it once.
type tableFile struct{ t *target }

func (f tableFile) WriteAt(b []byte, off int64) (int, error)  { return f.t.WriteAt(b, off) }
func (f tableFile) ReadAt(b []byte, off int64) (int, error)   { return f.t.f.ReadAt(b, off) }
func (f tableFile) Read(b []byte) (int, error)                { return f.t.f.Read(b) }
func (f tableFile) Seek(off int64, whence int) (int64, error) { return f.t.f.Seek(off, whence) }
func (f tableFile) Stat() (fs.FileInfo, error)                { return f.t.f.Stat() }
func (f tableFile) Close() error                              { return nil }
