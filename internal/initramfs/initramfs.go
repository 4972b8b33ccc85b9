// Package initramfs builds the small first root file system of an image: one
// static program as /init, the kernel modules that may be needed to reach the
// real root, and a file that says how to load them.
//
// It does not try to be general: no shell, no udev, no libraries. Modules are
// taken from the image's own tree, together with everything that modules.dep
// and modules.softdep say they need. Which of them are loaded is decided at
// boot, by the devices that are there, so that one image runs on virtual
// machines and on metal.
//
// The archive holds /init, /modules/NAME.ko and /imginit.conf (see [Plan]). It
// is a cpio archive in "newc" format compressed with zstd: the same input
// gives the same bytes. Kernels need CONFIG_RD_ZSTD (Linux 5.9).
package initramfs

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/tree"
)

// Required are the modules that /init cannot work without and loads whatever
// the devices are.
var Required = []string{"dm_verity", "erofs", "overlay", "ext4"}

// Drivers are the modules taken along by default, to be loaded when a device
// asks for them: those of VMDrivers, other virtual machines' (VMware, Hyper-V,
// Xen, clouds with NVMe), and the disks and controllers of servers.
var Drivers = slices.Concat(VMDrivers, []string{
	"vmw_pvscsi", "hv_storvsc", "xen_blkfront", "nvme",
	"ahci", "ata_piix", "isci", "vmd", "megaraid_sas", "mpt3sas", "mptsas", "mptspi", "hpsa", "smartpqi", "aacraid",
	"raid1", // loaded where the root is in such an array
})

// VMDrivers are the disks of virtual machines of QEMU and what is like it.
var VMDrivers = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_rng", "sd_mod",
	// x86 processors ask for them by their own modalias.
	"crc32c_intel", "sha256_ssse3",
}

// LiveRequired replaces Required in the initramfs of a live system.
var LiveRequired = []string{"squashfs", "overlay", "loop"}

// LiveDrivers are taken along, too, where a live system has to find its disk:
// CD drives and USB sticks.
var LiveDrivers = []string{"sr_mod", "ahci", "ata_piix", "usb_storage", "uas", "xhci_pci", "ehci_pci"}

// Live says where a live system has its root: a SquashFS that /init mounts
// through a loop device. All that the system writes is in memory.
type Live string

// Where a live system's root is.
const (
	LiveDisk Live = "disk" // in the partition that the kernel command line names, also on a CD
	LiveFile Live = "file" // in the initramfs itself, as LiveRootPath
)

// LiveRootPath is where a [LiveFile] system's root is, inside the initramfs.
const LiveRootPath = "root.squashfs"

// ConfigPath is where /init finds its [Plan], inside the initramfs.
const ConfigPath = "imginit.conf"

// Config says what goes into an initramfs.
type Config struct {
	Init    []byte     // the static program that becomes /init
	Root    *tree.Tree // the image's root; modules come from usr/lib/modules/Kernel
	Kernel  string     // kernel version, a directory below usr/lib/modules
	Drivers []string   // modules to take along, beside LiveDrivers for LiveDisk; nil means Drivers
	Live    Live       // empty: not a live system, root and state are partitions
	State   []string   // absolute paths that the state partition holds, for Plan.State
	Time    time.Time  // modification time of everything
}

// Build writes the archive to w, uncompressed (see [Compress]), and returns the
// plan it carries.
func Build(w io.Writer, c Config) (*Plan, error) {
	if len(c.Init) == 0 {
		return nil, fmt.Errorf("initramfs: no program for /init")
	}
	required := Required
	if c.Live != "" {
		required = LiveRequired
	}
	if c.Drivers == nil {
		c.Drivers = Drivers
	}
	if c.Live == LiveDisk {
		c.Drivers = slices.Concat(c.Drivers, LiveDrivers)
	}
	plan, files, err := selectModules(c.Root, c.Kernel, required, c.Drivers)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	plan.State, plan.Live = slices.Clone(c.State), c.Live
	t := tree.New()
	t.AddFile("init", 0o755, c.Init)
	for name, data := range files {
		t.AddFile(plan.path(name), 0o644, data)
	}
	t.AddFile(ConfigPath, 0o644, plan.Marshal())
	for _, dir := range []string{"dev", "proc", "sys", "run", "sysroot"} {
		t.Add(&tree.Entry{Path: dir, Mode: tree.ModeDir | 0o755})
	}
	return plan, Archive(w, t, c.Time)
}

// Compression names what Compress does, for caches: another compressor or
// level has another name.
const Compression = "zstd-best-8M-1"

// Compress writes an archive compressed with zstd.
func Compress(w io.Writer, archive []byte) error {
	// More than one goroutine would cut blocks in other places, and a window
	// beyond 8 MiB costs the booting kernel memory.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err == nil {
		_, err = z.Write(archive)
		err = errors.Join(err, z.Close())
	}
	if err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

// Archive writes t as a cpio archive. Every entry gets the time mtime and
// belongs to root. Trees with anything but directories, regular files and
// symbolic links are refused; a hard link becomes a copy.
func Archive(w io.Writer, t *tree.Tree, mtime time.Time) error {
	if mtime.IsZero() {
		mtime = time.Unix(0, 0)
	}
	c := cpio.NewWriter(w)
	for i, e := range t.All() {
		if e.Path == "." {
			continue
		}
		src := e
		if e.LinkTo != "" {
			src = t.Lookup(e.LinkTo)
		}
		if err := archiveEntry(c, e.Path, src, int64(i), mtime); err != nil {
			return fmt.Errorf("initramfs: %s: %w", e.Path, err)
		}
	}
	if err := c.Close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

func archiveEntry(c *cpio.Writer, path string, e *tree.Entry, ino int64, mtime time.Time) error {
	h := &cpio.Header{Name: path, Mode: cpio.FileMode(e.Mode), Links: 1, Inode: ino, ModTime: mtime}
	switch e.Kind() {
	case tree.ModeDir:
		h.Links = 2
		return c.WriteHeader(h)
	case tree.ModeSymlink:
		h.Size = int64(len(e.Target))
		if err := c.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.WriteString(c, e.Target)
		return err
	case tree.ModeRegular:
		h.Size = e.Size
		if err := c.WriteHeader(h); err != nil || e.Size == 0 {
			return err
		}
		rc, err := e.Open()
		if err != nil {
			return err
		}
		defer rc.Close()
		_, err = io.Copy(c, rc)
		return err
	}
	return fmt.Errorf("file type %#o cannot be stored", e.Kind())
}
