package update

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/verity"
	"goldsmith/internal/verity/superblock"
)

// slotDisk is the machine's disk with its partition table.
type slotDisk struct {
	name  string
	size  int64
	file  bool // a disk image, not a device
	table *gpt.Table
}

func openDisk(name string) (*slotDisk, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	d := &slotDisk{name: name, file: st.Mode().IsRegular()}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	sector := 512
	if !d.file {
		if sector, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err != nil {
			return nil, fmt.Errorf("%s: block size: %w", name, err)
		}
	}
	if d.table, err = gpt.Read(f, d.size, sector); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

func (d *slotDisk) part(name string) (gpt.Partition, error) {
	for _, p := range d.table.Partitions {
		if p.Name == name {
			return p, nil
		}
	}
	return gpt.Partition{}, fmt.Errorf("%s: no partition named %q", d.name, name)
}

// area is a partition, open.
type area struct {
	f           *os.File
	start, size int64
}

func (a *area) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= a.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(b)) > a.size-off {
		b, end = b[:a.size-off], io.EOF
	}
	n, err := a.f.ReadAt(b, a.start+off)
	return n, errors.Join(err, end)
}

func (a *area) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > a.size || int64(len(b)) > a.size-off {
		return 0, errors.New("write beyond the partition")
	}
	return a.f.WriteAt(b, a.start+off)
}

// Sync flushes the partition. What is read then comes from the disk.
func (a *area) Sync() error {
	if err := a.f.Sync(); err != nil {
		return err
	}
	dropped(a.f, a.start, a.size)
	return nil
}

// dropped is drop; a test damages the disk then.
var dropped = drop

// drop has the kernel forget what it keeps of a file that was flushed: a help,
// where it does not the memory is read.
func drop(f *os.File, start, size int64) {
	_ = unix.Fadvise(int(f.Fd()), start, size, unix.FADV_DONTNEED)
}

func (a *area) Close() error { return a.f.Close() }

// open opens a partition: its own device where the disk is one, since what is
// written to the whole disk would not be seen through the partition.
func (d *slotDisk) open(name string, flags int) (*area, error) {
	p, err := d.part(name)
	if err != nil {
		return nil, err
	}
	a := &area{start: p.Start, size: p.Size}
	path := d.name
	if !d.file {
		if path, err = d.device(p); err != nil {
			return nil, err
		}
		a.start = 0
	}
	if a.f, err = os.OpenFile(path, flags, 0); err != nil {
		return nil, err
	}
	return a, nil
}

// content is how many bytes a slot's root has, as its hash tree says; 0 when
// there is none.
func (d *slotDisk) content(slot string) int64 {
	tree, err := d.open("verity-"+slot, os.O_RDONLY)
	if err != nil {
		return 0
	}
	defer tree.Close()
	sb, err := superblock.Read(tree)
	if err != nil {
		return 0
	}
	return sb.DataBlocks * verity.BlockSize
}

// device is the device file of a partition, by the kernel's view of the disk.
func (d *slotDisk) device(p gpt.Partition) (string, error) {
	sys := filepath.Join("/sys/class/block", filepath.Base(d.name))
	entries, err := os.ReadDir(sys)
	if err != nil {
		return "", err
	}
	number := func(name, file string) int64 {
		text, err := os.ReadFile(filepath.Join(sys, name, file))
		if err != nil {
			return -1
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	for _, e := range entries {
		if number(e.Name(), "partition") != int64(p.Number) {
			continue
		}
		if number(e.Name(), "start")*512 != p.Start {
			return "", fmt.Errorf("%s: the kernel sees partition %d elsewhere", d.name, p.Number)
		}
		return filepath.Join(filepath.Dir(d.name), e.Name()), nil
	}
	return "", fmt.Errorf("%s: the kernel has no partition %d", d.name, p.Number)
}

// setRoot gives a slot's partitions the GUIDs by which a kernel finds them: the
// halves of the root hash.
func (d *slotDisk) setRoot(slot, rootHash string) error {
	guids := map[int]string{}
	for i, name := range []string{"root-" + slot, "verity-" + slot} {
		p, err := d.part(name)
		if err != nil {
			return err
		}
		guids[p.Number] = guid(rootHash[32*i : 32*i+32])
	}
	f, err := os.OpenFile(d.name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = gpt.SetGUIDs(f, d.size, d.table.Sector, guids)
	return errors.Join(err, f.Sync(), f.Close())
}

// rootHash is the root hash that a slot's partitions are found by.
func (d *slotDisk) rootHash(slot string) (string, error) {
	root, err := d.part("root-" + slot)
	if err != nil {
		return "", err
	}
	tree, err := d.part("verity-" + slot)
	return strings.ReplaceAll(root.GUID+tree.GUID, "-", ""), err
}

// guid writes the first 32 of at least so many hexadecimal digits as a GUID.
func guid(s string) string {
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:32]
}

// mountESP mounts the EFI partition, for this process's mount namespace and as
// long as it is needed.
func (d *slotDisk) mountESP() (dir string, release func() error, err error) {
	p, err := d.part("esp")
	if err != nil {
		return "", nil, err
	}
	dev, err := d.device(p)
	if err != nil {
		return "", nil, err
	}
	dir = "/run/goldsmith/esp"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	// One that was killed left its mount. The lock says that it is nobody's.
	for unix.Unmount(dir, unix.MNT_DETACH) == nil {
	}
	if err := unix.Mount(dev, dir, "vfat", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
		"umask=0077,errors=remount-ro"); err != nil {
		return "", nil, fmt.Errorf("mount EFI partition %s: %w", dev, err)
	}
	return dir, func() error { return unix.Unmount(dir, 0) }, nil
}
