package agent

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// windowSize is how much of a disk is read at once past the kernel's memory, in
// bytes: a multiple of every disk's block.
const windowSize = 1 << 20

// window is the part of a disk that was read last.
type window struct {
	memory []byte // at the beginning of a page, as O_DIRECT wants it
	at     int64  // where on the disk that is
	n      int    // bytes of it that are valid
}

// bypass has reads come from the disk itself until endBypass, and not fill the
// kernel's memory with what nobody needs again: an emulated machine reads twelve
// times as fast. What cannot do that is read as before.
func (d *device) bypass() {
	memory, err := unix.Mmap(-1, 0, windowSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return
	}
	if d.setDirect(true) != nil {
		_ = unix.Munmap(memory)
		return
	}
	d.window = &window{memory: memory}
}

// endBypass may be called without bypass.
func (d *device) endBypass() error {
	if d.window == nil {
		return nil
	}
	err := unix.Munmap(d.window.memory)
	d.window = nil
	return errors.Join(err, d.setDirect(false))
}

func (d *device) setDirect(on bool) error {
	flags, err := unix.FcntlInt(d.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(d.Fd(), unix.F_SETFL, flags)
	return err
}

// ReadAt implements io.ReaderAt.
func (d *device) ReadAt(b []byte, off int64) (n int, err error) {
	for d.window != nil && n < len(b) {
		w, at := d.window, off+int64(n)
		if at < w.at || at >= w.at+int64(w.n) {
			if err := d.load(at); err != nil {
				return n, err
			}
			continue
		}
		n += copy(b[n:], w.memory[at-w.at:w.n])
	}
	if n == len(b) {
		return n, nil
	}
	more, err := d.file.ReadAt(b[n:], off+int64(n))
	return n + more, err
}

// load reads the window that a byte is in. A disk that refuses such reads is
// read in the ordinary way from then on.
func (d *device) load(at int64) error {
	w := d.window
	w.at = at / windowSize * windowSize
	var err error
	w.n, err = d.file.ReadAt(w.memory, w.at)
	switch {
	case errors.Is(err, unix.EINVAL):
		w.n = 0
		return d.endBypass()
	case errors.Is(err, io.EOF) && w.at+int64(w.n) > at:
		return nil
	}
	return err
}
