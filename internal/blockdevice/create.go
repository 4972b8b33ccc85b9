package blockdevice

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// Devices are the devices and mounts that a Create made.
type Devices struct {
	log     io.Writer
	names   []string          // nodes with a device, in the order of creation
	paths   map[string]string // their devices
	mounted []mounted
	groups  []string // of volumes, in use
	disks   []string // device files to flush
}

type mounted struct{ dir, fstype string }

// Create makes everything the plan holds on the given block devices, one for
// each image by its name, and mounts the file systems below Params.Root. It
// needs root, and /dev as a devtmpfs; udev need not run. What the programs
// print goes to log.
//
// When it fails, it has taken back what it had made, and the error says so
// where that did not work. The Devices are never nil.
func (p *Plan) Create(ctx context.Context, devices map[string]string, log io.Writer) (*Devices, error) {
	d := &Devices{log: log, paths: map[string]string{}}
	for _, n := range p.nodes {
		err := ctx.Err()
		if err == nil {
			err = p.create(ctx, n, devices, d)
		}
		if err != nil {
			return d, errors.Join(fmt.Errorf("%s %s: %w", n.plugin, n.name, err), d.Umount(ctx))
		}
	}
	return d, nil
}

func (p *Plan) create(ctx context.Context, n *node, devices map[string]string, d *Devices) error {
	switch it := n.it.(type) {
	case *loop:
		dev := devices[n.name]
		if dev == "" {
			return fmt.Errorf("no block device was given for it")
		}
		d.add(n.name, dev)
		d.disks = append(d.disks, dev)
	case *partition:
		if it == it.table.partitions[0] { // the first one makes them all
			return p.partition(ctx, it.table, d)
		}
	case *volumes:
		return p.makeVolumes(ctx, it, d)
	case *filesystem:
		return d.run(ctx, it.command(d.paths[it.base]))
	case *mount:
		return p.mount(it, d)
	}
	return nil
}

func (d *Devices) add(name, path string) {
	d.names = append(d.names, name)
	d.paths[name] = path
}

// run runs a program. It needs no udev: lvm is told so in its arguments.
func (d *Devices) run(ctx context.Context, args []string) error {
	fmt.Fprintf(d.log, "+ %s\n", strings.Join(args, " "))
	env := append(os.Environ(), "LVM_SUPPRESS_FD_WARNINGS=1")
	var first head
	err := command.Exec{Args: args, Env: env, Log: io.MultiWriter(d.log, &first)}.Run(ctx)
	if x, ok := errors.AsType[*command.ExitError](err); ok {
		x.Tail = reason(string(first), x.Tail)
	}
	return err
}

// partition writes a table and has the kernel take it up.
func (p *Plan) partition(ctx context.Context, t *table, d *Devices) error {
	dev := d.paths[t.disk]
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("%s: %w", dev, err)
	}
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("%s: not a block device: %w", dev, err)
	}
	slots, err := p.writeTable(f, t, size, sector)
	if err != nil {
		return err
	}
	if err := reread(f, slots, int64(sector)); err != nil {
		return fmt.Errorf("%s: read the new partition table: %w", dev, err)
	}
	for _, s := range slots {
		path := partitionDevice(dev, s.number)
		if err := appears(ctx, path); err != nil {
			return fmt.Errorf("partition %s: %w", s.name, err)
		}
		d.add(s.name, path)
	}
	return nil
}

// writeTable places a table's partitions on a disk of size bytes and writes
// the table.
func (p *Plan) writeTable(f *os.File, t *table, size int64, sector int) ([]slot, error) {
	slots, err := t.layout(size, sector)
	if err != nil {
		return nil, err
	}
	if t.gpt {
		err = writeGPT(f, slots, size, sector, func(what string) string { return p.guid(t.disk + " " + what) })
	} else {
		id := p.digest("disk id " + t.disk)
		err = writeMBR(f, slots, size/int64(sector), sector, binary.LittleEndian.Uint32(id[:]))
	}
	if err != nil {
		return nil, fmt.Errorf("write the partition table: %w", err)
	}
	return slots, f.Sync()
}

// blkpg is struct blkpg_ioctl_arg, and blkpgPartition struct blkpg_partition,
// of linux/blkpg.h.
type blkpg struct {
	op, flags, length int32
	data              *blkpgPartition
}

type blkpgPartition struct {
	start, length int64 // in bytes
	number        int32
	_             [128]byte // names that the kernel does not look at
	_             int32
}

// reread has the kernel read the table, and tells it of what it did not find:
// not every kernel reads every kind of table.
func reread(f *os.File, slots []slot, sector int64) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0); err != nil {
		return err
	}
	for _, s := range slots {
		err := addPartition(f, s.number, s.start*sector, s.length*sector)
		if err != nil && !errors.Is(err, unix.EBUSY) { // it was found
			return err
		}
	}
	return nil
}

// partitionDevice is the kernel's name for a partition.
func partitionDevice(disk string, number int) string {
	if unicode.IsDigit(rune(disk[len(disk)-1])) {
		disk += "p"
	}
	return fmt.Sprintf("%s%d", disk, number)
}

// appears waits for a device file, which the kernel makes a moment after the
// device.
func appears(ctx context.Context, path string) error {
	const tries, pause = 100, 50 * time.Millisecond
	for range tries {
		if fi, err := os.Stat(path); err == nil && fi.Mode()&os.ModeDevice != 0 {
			return nil
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s did not appear", path)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// program is what makes the file system.
func (f *filesystem) program() string {
	if f.kind == swapType {
		return "mkswap"
	}
	return "mkfs." + f.kind
}

// command makes the file system on a device: the original's arguments, and
// what keeps random numbers and the time out of it.
func (f *filesystem) command(device string) []string {
	args := append([]string{f.program()}, f.opts...)
	switch f.kind {
	case "fat", "vfat":
		if !slices.Contains(f.opts, "-i") {
			args = append(args, "--invariant", "-i", strings.ReplaceAll(f.uuid, "-", "")[:8])
		}
		return append(args, "-n", f.label, device)
	case "ext2", "ext3", "ext4":
		args = append(addExtended(args, "hash_seed="+f.uuid), "-L", f.label, "-U", f.uuid, "-q")
	case "xfs":
		args = append(args, "-L", f.label, "-m", "uuid="+f.uuid, "-q")
	case "btrfs", swapType:
		args = append(args, "-L", f.label, "-U", f.uuid)
	default:
		args = append(args, "-L", f.label)
	}
	return append(args, device)
}

// addExtended adds one of mke2fs's extended options. It heeds only the last -E.
func addExtended(args []string, option string) []string {
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-E") })
	switch {
	case i < 0 || args[i] == "-E" && i+1 == len(args):
		return append(args, "-E", option)
	case strings.Contains(strings.Join(args[i:], " "), "hash_seed="):
		return args
	case args[i] == "-E":
		i++
	}
	args[i] += "," + option
	return args
}

// fatOptions are a FAT's when it is mounted: kernels differ in what they take
// for granted, and so in the modules that they need.
const fatOptions = "codepage=437,iocharset=ascii,utf8"

// mount mounts one file system, or puts a swap aside: the image uses it, not
// the build.
func (p *Plan) mount(m *mount, d *Devices) error {
	if m.fs.kind == swapType {
		return nil
	}
	dir := filepath.Join(p.params.Root, m.point)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	kind, options := m.fs.kind, ""
	if m.fs.isFAT() {
		kind, options = "vfat", fatOptions
	}
	dev := d.paths[m.fs.base]
	fmt.Fprintf(d.log, "+ mount -t %s %s %s\n", kind, dev, dir)
	if err := unix.Mount(dev, dir, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", dev, dir, err)
	}
	d.mounted = append(d.mounted, mounted{dir, kind})
	return nil
}

// ImageBlockDevice is the device of image0, for IMAGE_BLOCK_DEVICE.
func (d *Devices) ImageBlockDevice() string { return d.paths[outputImage] }

// ImageBlockDevices lists all nodes with a device in the form that bash takes
// for an associative array, for IMAGE_BLOCK_DEVICES: " [image0]=/dev/vda ".
func (d *Devices) ImageBlockDevices() string {
	var b strings.Builder
	for _, n := range d.names {
		fmt.Fprintf(&b, " [%s]=%s ", n, d.paths[n])
	}
	return b.String()
}
