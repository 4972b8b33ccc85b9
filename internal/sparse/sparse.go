// Package sparse reads and writes files with holes: stretches that take no
// space and read as zeros. Disk images consist mostly of them, and reading
// them through the page cache costs more than all the data.
package sparse

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// NewReader reads f from its start to its end. Holes are found with
// SEEK_DATA (lseek(2)) and come as zeros without being read; on a file system
// that knows no holes it is a plain read. The file must not change meanwhile,
// and nobody else may use its offset.
func NewReader(f *os.File) (io.Reader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &reader{f: f, size: fi.Size()}, nil
}

type reader struct {
	f    *os.File
	pos  int64
	size int64
	data int64 // start of the data at or after pos
	hole int64 // end of that data; pos <= hole once it is known
}

func (r *reader) Read(p []byte) (int, error) {
	if r.pos >= r.size {
		return 0, io.EOF
	}
	if r.pos >= r.hole {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	if r.pos < r.data {
		n := int(min(int64(len(p)), r.data-r.pos))
		clear(p[:n])
		r.pos += int64(n)
		return n, nil
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.hole-r.pos)], r.pos)
	r.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// next finds the stretch of data at or after pos.
func (r *reader) next() error {
	data, err := r.f.Seek(r.pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // a hole until the end
		r.data, r.hole = r.size, r.size
		return nil
	case err != nil:
		r.data, r.hole = r.pos, r.size
		return nil
	}
	hole, err := r.f.Seek(data, unix.SEEK_HOLE)
	if err != nil {
		return fmt.Errorf("%s: %w", r.f.Name(), err)
	}
	r.data, r.hole = min(data, r.size), min(hole, r.size)
	return nil
}

// Copy writes what r gives to f from offset 0 on and leaves holes for zeros.
// f must be empty. It returns the number of bytes read and sets the file's
// size to it.
func Copy(f *os.File, r io.Reader) (int64, error) {
	const block = 64 << 10
	buf, zeros := make([]byte, block), string(make([]byte, block))
	var off int64
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 && string(buf[:n]) != zeros[:n] {
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return off, err
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return off, f.Truncate(off)
		}
		if err != nil {
			return off, err
		}
	}
}
