package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/earlyboot"
)

// rootDisk is the disk that holds the root partition.
type rootDisk struct {
	name  string // kernel name, such as "vda"
	root  string // device file of the root partition; of the whole disk for a live system
	tree  string // device file of the partition with its hash tree; empty for a live system
	table *gpt.Table
	part  gpt.Partition // the root partition
}

// finder looks at disks as they come up.
type finder struct {
	sys  string // /sys/block
	dev  string // /dev
	guid string
	tree string               // GUID of the partition with the hash tree
	live bool                 // look at CDs too, and do without the kernel's partitions
	seen map[string]string    // disk to what was found on it
	ours map[string]*rootDisk // disks without the root that are laid out as ours
	next map[string]time.Time // disk to when a failed read is tried again

	arrays   map[[16]byte]*mdArray // that have the root
	assemble func(*mdArray) (device string, err error)
}

// wait loads drivers until the partition shows up.
func (f *finder) wait(c *console, mods *earlyboot.Loader, limit time.Duration) (*rootDisk, error) {
	c.say("looking for partition %s", f.guid)
	deadline := time.Now().Add(limit)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		mods.Coldplug()
		if d := f.look(time.Now()); d != nil {
			c.say("root is %s", d.root)
			return d, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no partition %s after %d s; %s", f.guid, int(limit/time.Second), f.report())
		}
		time.Sleep(pause)
	}
}

// report says what was seen instead of the root.
func (f *finder) report() string {
	var parts []string
	dirs, _ := os.ReadDir(f.sys)
	for _, d := range dirs {
		if s, ok := f.seen[d.Name()]; ok {
			parts = append(parts, d.Name()+": "+s)
		}
	}
	if len(parts) == 0 {
		return "there is no disk"
	}
	return "disks: " + strings.Join(parts, "; ")
}

// look reads the partition tables of disks that are new or could not be read
// before.
func (f *finder) look(now time.Time) *rootDisk {
	if f.seen == nil {
		f.seen, f.next, f.ours = map[string]string{}, map[string]time.Time{}, map[string]*rootDisk{}
		f.arrays = map[[16]byte]*mdArray{}
	}
	defer f.assembleArrays(now)
	dirs, _ := os.ReadDir(f.sys)
	for _, d := range dirs {
		name := d.Name()
		if again, tried := f.next[name]; tried && now.Before(again) || f.skip(name) {
			continue
		}
		if f.member(name, now) {
			continue
		}
		t, err := f.table(name)
		f.next[name] = now.Add(time.Second)
		if err != nil {
			f.seen[name] = err.Error()
			continue
		}
		f.seen[name] = fmt.Sprintf("%d other partitions", len(t.Partitions))
		if d := (&rootDisk{name: name, table: t}); d.has("root-a") && d.has("state") {
			f.ours[name] = d
		}
		for _, p := range t.Partitions {
			if p.GUID != f.guid {
				continue
			}
			disk := &rootDisk{name: name, root: filepath.Join(f.dev, name), table: t, part: p}
			if !f.live {
				err = f.partitions(disk)
			}
			if err == nil {
				return disk
			}
			f.seen[name] = err.Error()
			f.next[name] = now // the kernel may still be at it
		}
	}
	return nil
}

// home is the disk that should have the root: the only one that is laid out as
// ours. It is nil when there is none or more than one.
func (f *finder) home() *rootDisk {
	if len(f.ours) != 1 {
		return nil
	}
	for _, d := range f.ours {
		return d
	}
	return nil
}

func (d *rootDisk) has(name string) bool {
	return slices.ContainsFunc(d.table.Partitions, func(p gpt.Partition) bool { return p.Name == name })
}

// skip tells which block devices cannot be the disk.
func (f *finder) skip(name string) bool {
	for _, prefix := range []string{"loop", "ram", "zram", "fd", "dm-", "md"} {
		if strings.HasPrefix(name, prefix) {
			return !f.isArray(name)
		}
	}
	return strings.HasPrefix(name, "sr") && !f.live
}

func (f *finder) table(disk string) (*gpt.Table, error) {
	sectors, err := f.number(disk, "size")
	if err != nil {
		return nil, err
	}
	block, err := f.number(disk, "queue", "logical_block_size")
	if err != nil {
		return nil, err
	}
	if f.live {
		block = 512 // the table was written for it, whatever the image lies on now
	}
	dev, err := os.Open(filepath.Join(f.dev, disk))
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	// The kernel counts sizes in 512 bytes, whatever the disk's blocks are.
	return gpt.Read(dev, sectors*512, int(block))
}

// partitions finds the device files of root and hash tree.
func (f *finder) partitions(d *rootDisk) (err error) {
	if d.root, err = f.partition(d.name, d.part); err != nil {
		return err
	}
	for _, p := range d.table.Partitions {
		if p.GUID == f.tree {
			d.tree, err = f.partition(d.name, p)
			return err
		}
	}
	return fmt.Errorf("%s has the root, but no partition %s with its hash tree", d.part.Name, f.tree)
}

// partition returns the device file of partition p, as soon as the kernel has
// one with the same start.
func (f *finder) partition(disk string, p gpt.Partition) (string, error) {
	entries, err := os.ReadDir(filepath.Join(f.sys, disk))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		n, err := f.number(disk, e.Name(), "partition")
		if err != nil || n != int64(p.Number) {
			continue
		}
		start, err := f.number(disk, e.Name(), "start")
		if err != nil {
			return "", err
		}
		if start*512 != p.Start {
			return "", fmt.Errorf("the kernel sees partition %d elsewhere", p.Number)
		}
		dev := filepath.Join(f.dev, e.Name())
		_, err = os.Stat(dev)
		return dev, err
	}
	return "", fmt.Errorf("the kernel has no partition %d", p.Number)
}

func (f *finder) number(path ...string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(append([]string{f.sys}, path...)...))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// named returns the device file of the disk's partition of that name.
func (d *rootDisk) named(name string) (string, error) {
	f := &finder{sys: "/sys/block", dev: "/dev"}
	for _, p := range d.table.Partitions {
		if p.Name == name {
			return f.partition(d.name, p)
		}
	}
	return "", fmt.Errorf("disk %s has no partition named %q", d.name, name)
}

func mountRoot(dev, kind string) error {
	if err := os.MkdirAll(sysroot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, sysroot, kind, unix.MS_RDONLY, ""); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("mount %s: not a sound %s file system", dev, kind)
		}
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	return nil
}

// switchRoot makes /sysroot the root and becomes init.
func switchRoot(init string) error {
	// The initramfs keeps its memory for ever; give back the most of it.
	for _, p := range []string{"/modules", earlyboot.PlanFile, "/init"} {
		_ = os.RemoveAll(p)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(dir, sysroot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the image: %w", dir, err)
		}
	}
	if err := unix.Chdir(sysroot); err != nil {
		return fmt.Errorf("chdir %s: %w", sysroot, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir /: %w", err)
	}
	return fmt.Errorf("run %s: %w", init, unix.Exec(init, []string{init}, os.Environ()))
}
