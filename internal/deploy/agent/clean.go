package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/disk/gpt"
)

// clean forgets what is on all disks, as far as that is known to be looked for:
// partition tables, the beginnings and ends of partitions and disks, where file
// systems, volumes and arrays have their signatures, and, of disks that take
// discards, everything. It goes on with the next disk when one fails.
func (r *run) clean(ctx context.Context) error {
	r.stopArrays()
	var all []error
	for i, d := range r.inventory.Disks {
		if d.Removable || d.ReadOnly || d.Size == 0 {
			r.Say("%s: left alone: removable, read-only or without a medium", d.Path)
			continue
		}
		if err := errors.Join(ctx.Err(), r.cleanDisk(d.Path)); err != nil {
			all = append(all, fmt.Errorf("%s: %w", d.Path, err))
		}
		r.tell("50-clean")(int64(i+1), int64(len(r.inventory.Disks)))
	}
	return errors.Join(all...)
}

// mdStopArray is STOP_ARRAY, _IO(9, 0x32) in the kernel's raid/md_u.h.
const mdStopArray = 0x932

// stopArrays lets go of the disks that arrays hold. What cannot be stopped shows
// when its disks are opened.
func (r *run) stopArrays() {
	arrays, _ := filepath.Glob(filepath.Join(r.Sys, "block/md*"))
	for _, a := range arrays {
		name := filepath.Join(r.Dev, filepath.Base(a))
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_EXCL, 0)
		if err != nil {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), mdStopArray, 0); errno == 0 {
			r.Say("%s: stopped", name)
		}
		_ = f.Close()
	}
}

func (r *run) cleanDisk(path string) (err error) {
	d, err := openDevice(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	ranges := d.signatures()
	how := "signatures and partition tables wiped"
	if d.block && d.rangeIoctl(unix.BLKDISCARD, 0, d.size) == nil {
		how += ", content discarded"
	}
	for _, at := range ranges {
		if err := d.writeZeros(at[0], at[1]); err != nil {
			return err
		}
	}
	if err := d.forget(); err != nil {
		return err
	}
	d.reread()
	r.Say("%s: %s", path, how)
	return nil
}

// signatures are the ranges, offset and length, where something may be found.
// What a disk says of its partitions is believed as far as it lies inside of it.
func (d *device) signatures() [][2]int64 {
	var out [][2]int64
	ends := func(start, size int64) {
		n := min(size, edge)
		out = append(out, [2]int64{start, n}, [2]int64{start + size - n, n})
	}
	// Btrfs has a second superblock 64 MiB, and a third 256 GiB from its start.
	whole := func(start, size int64) {
		ends(start, size)
		for _, mirror := range []int64{64 << 20, 256 << 30} {
			if mirror+4096 <= size {
				out = append(out, [2]int64{start + mirror, 4096})
			}
		}
	}
	t, err := gpt.Read(d, d.size, d.sector)
	if err == nil {
		for _, p := range t.Partitions {
			whole(p.Start, p.Size)
		}
	}
	for _, p := range d.mbr() {
		whole(p[0], p[1])
	}
	whole(0, d.size)
	return out
}

// mbr are the four partitions of a disk with a table of that old kind, offset
// and length; those that lie outside of the disk are left out.
func (d *device) mbr() (out [][2]int64) {
	var b [512]byte
	if _, err := d.ReadAt(b[:], 0); err != nil || !strings.HasSuffix(string(b[:]), "\x55\xaa") {
		return nil
	}
	for i := range 4 {
		e := b[446+16*i:][:16]
		le := func(b []byte) int64 {
			return int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16 | int64(b[3])<<24
		}
		start, size := le(e[8:])*int64(d.sector), le(e[12:])*int64(d.sector)
		if start > 0 && size > 0 && start+size <= d.size {
			out = append(out, [2]int64{start, size})
		}
	}
	return out
}
