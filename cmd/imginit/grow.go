package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"goldsmith/internal/disk/gpt"
)

// growState gives the state partition the rest of the disk, when an image was
// written to a disk larger than itself. It must come before anything of the
// disk is mounted. A failure costs space but not the boot.
func growState(c *console, d *rootDisk) {
	for i := range d.table.Partitions {
		p := &d.table.Partitions[i]
		if p.Name != "state" {
			continue
		}
		size, err := growPartition(d, p)
		if err != nil {
			c.say("state keeps its size: %v", err)
		} else if size > 0 {
			c.say("state grows from %d to %d MiB", p.Size>>20, size>>20)
			p.Size = size
		}
	}
}

// repairTable makes a damaged partition table anew from its backup, by which the
// kernel found the partitions. A failure leaves that to the next boot.
func repairTable(c *console, d *rootDisk) {
	if !d.table.Backup {
		return
	}
	size, err := d.size()
	if err == nil {
		var disk *os.File
		if disk, err = os.OpenFile(filepath.Join("/dev", d.name), os.O_RDWR, 0); err == nil {
			err = errors.Join(gpt.Repair(disk, size, d.table.Sector), disk.Close())
		}
	}
	if err != nil {
		c.say("the partition table of %s is damaged, and its backup is used: %v", d.name, err)
		return
	}
	c.say("the partition table of %s was damaged, and is made anew from its backup", d.name)
}

// size is the disk's, in bytes.
func (d *rootDisk) size() (int64, error) {
	f := &finder{sys: "/sys/block", dev: "/dev"}
	sectors, err := f.number(d.name, "size")
	return sectors * 512, err
}

func growPartition(d *rootDisk, p *gpt.Partition) (int64, error) {
	whole, err := d.size()
	if err != nil {
		return 0, err
	}
	for _, q := range d.table.Partitions {
		if q.Start > p.Start { // such as a seed, by which a deployed disk is full
			return 0, nil
		}
	}
	// The usual case needs no second look at the disk: the backup table takes
	// less than the last MiB.
	if whole-(p.Start+p.Size) < 2<<20 {
		return 0, nil
	}
	disk, err := os.OpenFile(filepath.Join("/dev", d.name), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer disk.Close()
	size, err := gpt.Extend(disk, whole, d.table.Sector, p.Number)
	if err != nil || size == 0 {
		return 0, err
	}
	part := unix.BlkpgPartition{Start: p.Start, Length: size, Pno: int32(p.Number)}
	if err := blkpg(disk, unix.BLKPG_RESIZE_PARTITION, &part); err != nil {
		return 0, fmt.Errorf("tell the kernel: %w", err)
	}
	return size, nil
}

// blkpg changes what the kernel knows of a disk's partitions.
func blkpg(disk *os.File, op int32, part *unix.BlkpgPartition) error {
	arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(*part)), Data: (*byte)(unsafe.Pointer(part))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}

// ext4Resize is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64) in fs/ext4/ext4.h.
const ext4Resize = 0x40086610

// growFilesystem makes a mounted ext4 as large as its partition, which grew
// under it. It goes by the kernel's numbers, and never shrinks.
func growFilesystem(c *console, dev string) {
	text, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(dev), "size"))
	if err != nil {
		return
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return
	}
	var st unix.Statfs_t
	if err := unix.Statfs(stateRoot, &st); err != nil || st.Bsize <= 0 {
		return
	}
	// statfs leaves out what ext4 keeps for itself: below 1/8 it is that.
	blocks := sectors * 512 / uint64(st.Bsize)
	if st.Blocks+st.Blocks/8 >= blocks {
		return
	}
	dir, err := os.Open(stateRoot)
	if err != nil {
		return
	}
	defer dir.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		c.say("the file system on %s keeps its size: %v", dev, errno)
		return
	}
	c.say("the file system on %s fills it now", dev)
}
