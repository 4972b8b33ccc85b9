package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/earlyboot"
)

// mdMember is a disk that is part of a RAID 1, as its superblock says: struct
// mdp_superblock_1 in the kernel's include/uapi/linux/raid/md_p.h, versions 1.0
// (at the disk's end), 1.1 (at its beginning) and 1.2 (4 KiB from there).
type mdMember struct {
	minor  int      // of the superblock's version
	set    [16]byte // which array
	disks  int      // how many the array has when it is whole
	active bool     // neither a spare nor out of the array
	data   [2]int64 // where the array's content is, offset and length in bytes
}

const (
	mdMagic   = 0xa92b4efc
	mdHeader  = 256 // bytes before the list of roles
	mdBlock   = 4096
	mdMaxRole = 0xff00 // larger roles are a spare's and such
)

// readMember finds a superblock on a disk of size bytes; nil when there is none
// of a RAID 1. One with a wrong checksum is none.
func readMember(r io.ReaderAt, size int64) *mdMember {
	end := (size/512 - 16) &^ 7 * 512
	for minor, at := range []int64{end, 0, 4096} {
		var b [mdBlock]byte
		if at < 0 {
			continue
		}
		if n, _ := r.ReadAt(b[:], at); n < mdHeader {
			continue
		}
		if m := parseMember(b[:], at); m != nil && m.data[0] >= 0 && m.data[1] > 0 && m.data[0]+m.data[1] <= size {
			m.minor = minor
			return m
		}
	}
	return nil
}

func parseMember(b []byte, at int64) *mdMember {
	le := binary.LittleEndian
	roles, number := int(le.Uint32(b[220:])), int(le.Uint32(b[160:]))
	switch {
	case le.Uint32(b) != mdMagic, le.Uint32(b[4:]) != 1, le.Uint32(b[72:]) != 1, // RAID 1
		le.Uint64(b[144:]) != uint64(at/512), roles > (mdBlock-mdHeader)/2, number >= roles,
		le.Uint32(b[216:]) != mdChecksum(b[:mdHeader+2*roles]),
		le.Uint64(b[128:]) > 1<<40, le.Uint64(b[80:]) > 1<<40:
		return nil
	}
	return &mdMember{
		set: [16]byte(b[16:32]), disks: int(le.Uint32(b[92:])), active: le.Uint16(b[mdHeader+2*number:]) < mdMaxRole,
		data: [2]int64{int64(le.Uint64(b[128:])) * 512, int64(le.Uint64(b[80:])) * 512},
	}
}

// mdChecksum is calc_sb_1_csum of drivers/md/md.c: the sum of all words but its own.
func mdChecksum(b []byte) uint32 {
	var sum uint64
	for i := 0; i+1 < len(b); i += 4 {
		switch {
		case i == 216:
		case i+4 <= len(b):
			sum += uint64(binary.LittleEndian.Uint32(b[i:]))
		default:
			sum += uint64(binary.LittleEndian.Uint16(b[i:]))
		}
	}
	return uint32(sum) + uint32(sum>>32)
}

// mdArray is an array that has the root, as far as its disks are there.
type mdArray struct {
	minor, disks int
	members      []string // kernel names of disks
	active       int      // how many of them have its content
	since        time.Time
	device       string // kernel name once it runs
	err          error  // why it does not
}

// mdPatience is how long the last disks of an array are waited for. After it
// the array starts without them.
const mdPatience = 10 * time.Second

// member tells whether a disk is part of an array, and notes it where the root
// is in that.
func (f *finder) member(name string, now time.Time) bool {
	size, err := f.number(name, "size")
	if err != nil || f.live {
		return false
	}
	dev, err := os.Open(filepath.Join(f.dev, name))
	if err != nil {
		return false
	}
	defer dev.Close()
	m := readMember(dev, size*512)
	if m == nil {
		return false
	}
	f.seen[name] = fmt.Sprintf("one of an array of %d disks", m.disks)
	f.next[name] = now.Add(time.Hour)
	t, err := gpt.Read(io.NewSectionReader(dev, m.data[0], m.data[1]), m.data[1], 512)
	if err != nil {
		f.seen[name] += ": " + err.Error()
		return true
	}
	for _, p := range t.Partitions {
		if p.GUID == f.guid {
			f.join(m, name, now)
		}
	}
	return true
}

func (f *finder) join(m *mdMember, name string, now time.Time) {
	a := f.arrays[m.set]
	if a == nil {
		a = &mdArray{minor: m.minor, disks: m.disks, since: now}
		f.arrays[m.set] = a
	}
	a.members = append(a.members, name)
	if m.active {
		a.active++
	}
}

// assembleArrays starts arrays that are whole, or that were waited for long enough.
func (f *finder) assembleArrays(now time.Time) {
	for _, a := range f.arrays {
		if a.device != "" || a.err != nil || a.active < a.disks && now.Sub(a.since) < mdPatience {
			continue
		}
		a.device, a.err = f.assemble(a)
		if a.err != nil {
			f.seen[a.members[0]] += ", which does not start: " + a.err.Error()
		}
	}
}

// isArray tells whether a device is an array that was started here.
func (f *finder) isArray(name string) bool {
	for _, a := range f.arrays {
		if a.device == name {
			return true
		}
	}
	return false
}

// Requests of include/uapi/linux/raid/md_u.h. Their arguments are ints.
const (
	mdSetArrayInfo = 0x40480923 // SET_ARRAY_INFO
	mdAddNewDisk   = 0x40140921 // ADD_NEW_DISK
	mdRunArray     = 0x400c0930 // RUN_ARRAY
	mdInfoInts     = 18         // of the largest argument; the others are the beginning of it
)

// newAssembler returns what starts an array: the kernel reads the superblocks
// itself, and leaves out disks that are behind the others.
func newAssembler(c *console, mods *earlyboot.Loader) func(*mdArray) (string, error) {
	return func(a *mdArray) (string, error) {
		if err := mods.Load("raid1"); err != nil {
			return "", err
		}
		const name = "md127"
		if err := os.WriteFile("/sys/module/md_mod/parameters/new_array", []byte(name), 0); err != nil {
			return "", err
		}
		dev, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0)
		if err != nil {
			return "", err
		}
		defer dev.Close()
		if err := mdIoctl(dev, mdSetArrayInfo, &[mdInfoInts]int32{1, int32(a.minor)}); err != nil {
			return "", fmt.Errorf("set the version: %w", err)
		}
		var all error
		for _, m := range a.members {
			if err := addMember(dev, m); err != nil {
				all = errors.Join(all, fmt.Errorf("%s: %w", m, err))
				c.say("array %s: %s: %v", name, m, err)
			}
		}
		if err := mdIoctl(dev, mdRunArray, nil); err != nil {
			return "", errors.Join(fmt.Errorf("run it: %w (the kernel's log says more)", err), all)
		}
		c.say("%s is a RAID 1 of %s; it is made for %d disks", name, strings.Join(a.members, ", "), a.disks)
		return name, nil
	}
}

// addMember adds a disk to an array. The partitions that the kernel saw on the
// disk itself go: they are the array's.
func addMember(array *os.File, name string) error {
	disk, err := os.OpenFile(filepath.Join("/dev", name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(disk.Fd()), &st); err != nil {
		return err
	}
	f := &finder{sys: "/sys/block"}
	parts, _ := filepath.Glob("/sys/block/" + name + "/*/partition")
	for _, p := range parts {
		n, err := f.number(name, filepath.Base(filepath.Dir(p)), "partition")
		if err != nil {
			continue
		}
		part := unix.BlkpgPartition{Pno: int32(n)}
		if err := blkpg(disk, unix.BLKPG_DEL_PARTITION, &part); err != nil {
			return fmt.Errorf("forget partition %d: %w", n, err)
		}
	}
	info := [mdInfoInts]int32{0, int32(unix.Major(st.Rdev)), int32(unix.Minor(st.Rdev))}
	return mdIoctl(array, mdAddNewDisk, &info)
}

func mdIoctl(dev *os.File, request uintptr, arg *[mdInfoInts]int32) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}
