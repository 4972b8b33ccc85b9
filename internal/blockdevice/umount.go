package blockdevice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A mount that is busy is tried so often, with a pause between.
const (
	umountTries = 9
	umountPause = 3 * time.Second
)

// Umount flushes and unmounts what Create mounted, in reverse, and takes the
// volumes out of use. Blocks that the file systems do not use are discarded.
// It goes on after an error, may be called again, and does its work even when
// ctx has ended.
func (d *Devices) Umount(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	unix.Sync()
	for _, m := range slices.Backward(d.mounted) {
		errs = append(errs, m.umount(ctx))
	}
	for _, g := range slices.Backward(d.groups) {
		errs = append(errs, d.run(ctx, lvmCommand("vgchange", "-an", g)))
	}
	for _, disk := range d.disks {
		errs = append(errs, flush(disk))
	}
	d.mounted, d.groups, d.disks = nil, nil, nil
	return errors.Join(errs...)
}

func (m mounted) umount(ctx context.Context) error {
	if m.fstype != "vfat" {
		// Only makes the image smaller: not every device and file system can.
		_ = trim(m.dir)
	}
	var err error
	for i := range umountTries {
		if i > 0 {
			_ = sleep(ctx, umountPause)
		}
		if err = unix.Unmount(m.dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("umount %s: %w", m.dir, err)
	}
	return nil
}

// trim is fstrim.
func trim(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	r := struct{ start, length, minimum uint64 }{length: 1<<64 - 1} // struct fstrim_range of linux/fs.h
	const fitrim = 0xc0185879
	return ioctl(f, fitrim, unsafe.Pointer(&r))
}

// addPartition tells the kernel of a partition, in bytes.
func addPartition(f *os.File, number int, start, length int64) error {
	p := blkpgPartition{start: start, length: length, number: int32(number)}
	const add = 1 // BLKPG_ADD_PARTITION
	return ioctl(f, unix.BLKPG, unsafe.Pointer(&blkpg{op: add, length: int32(unsafe.Sizeof(p)), data: &p}))
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// flush waits until what was written to a device is on it.
func flush(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
