package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// device is a disk, or a file that stands for one.
type device struct {
	file
	size    int64 // bytes
	sector  int   // bytes of a logical block; 512 of a file
	block   bool
	unsaved int64   // bytes written since the last Sync
	window  *window // what reads go through while they bypass the kernel's memory; nil: they do not
}

// file is what a device does with its [os.File].
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Name() string
	Fd() uintptr
}

// openDevice opens a disk for itself: one that is mounted or part of an array is
// refused.
func openDevice(path string) (*device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, command.Busy(fmt.Errorf("%s: it is in use", path), "")
	}
	if err != nil {
		return nil, err
	}
	d := &device{file: f, sector: 512}
	fi, err := f.Stat()
	if err == nil {
		d.block = fi.Mode()&os.ModeDevice != 0
		d.size, err = f.Seek(0, io.SeekEnd)
	}
	if err == nil && d.block {
		d.sector, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	}
	if err == nil && d.size < 4*edge {
		err = fmt.Errorf("%s: a disk of %d bytes is too small", path, d.size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// flushUnit is how much is written before it is waited for: what is counted as
// done is on the disk, but for so much.
const flushUnit = 64 << 20

// WriteAt implements io.WriterAt.
func (d *device) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > d.size {
		return 0, fmt.Errorf("%s: %d bytes at %d lie outside of it", d.Name(), len(b), off)
	}
	n, err := d.file.WriteAt(b, off)
	if d.unsaved += int64(n); err == nil && d.unsaved >= flushUnit {
		err = d.Sync()
	}
	return n, err
}

// Sync returns when everything that was written is on the disk.
func (d *device) Sync() error {
	d.unsaved = 0
	return d.file.Sync()
}

// Zero makes n bytes from off on zeros, by whatever is quick where it works.
func (d *device) Zero(off, n int64) error {
	if off < 0 || n < 0 || off+n > d.size {
		return fmt.Errorf("%s: %d bytes at %d lie outside of it", d.Name(), n, off)
	}
	unit := int64(d.sector)
	from, to := (off+unit-1)/unit*unit, (off+n)/unit*unit
	if from >= to || d.quickZero(from, to-from) != nil {
		return d.writeZeros(off, n)
	}
	return errors.Join(d.writeZeros(off, from-off), d.writeZeros(to, off+n-to))
}

// quickZero lets the kernel make zeros of whole blocks.
func (d *device) quickZero(off, n int64) error {
	if !d.block {
		return unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	// What waits in memory for the disk would come over it.
	if err := d.Sync(); err != nil {
		return err
	}
	return d.rangeIoctl(unix.BLKZEROOUT, off, n)
}

func (d *device) rangeIoctl(request uintptr, off, n int64) error {
	arg := [2]uint64{uint64(off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), request, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}

func (d *device) writeZeros(off, n int64) error {
	zeros := make([]byte, min(n, edge))
	for ; n > 0; n -= int64(len(zeros)) {
		zeros = zeros[:min(n, int64(len(zeros)))]
		if _, err := d.WriteAt(zeros, off); err != nil {
			return err
		}
		off += int64(len(zeros))
	}
	return nil
}

// forget has the next reads come from the disk and not from memory.
func (d *device) forget() error {
	if err := d.Sync(); err != nil {
		return err
	}
	if d.block {
		_, err := unix.IoctlGetInt(int(d.Fd()), unix.BLKFLSBUF)
		return err
	}
	return unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// reread has the kernel look for partitions. A kernel that does not look, and
// a disk that has none, is no error.
func (d *device) reread() {
	if d.block {
		_, _ = unix.IoctlGetInt(int(d.Fd()), unix.BLKRRPART)
	}
}
