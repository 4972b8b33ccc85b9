// Package disk writes bootable disk images from file trees, and looks into
// them.
//
// An image is a sparse raw disk with a GUID partition table, the same for UEFI
// and BIOS firmware. In the order in which they lie on the disk:
//
//	7 bios      the GRUB that a BIOS starts, if the image has one; LBA 34 to 2047
//	1 esp       FAT32: systemd-boot as EFI/BOOT/BOOTX64.EFI, one unified
//	            kernel image EFI/Linux/NAME_VERSION.efi, and for GRUB the same
//	            kernel and initramfs below bios/NAME_VERSION
//	2 root-a    EROFS, read-only: the image's files
//	3 verity-a  dm-verity's hash tree of root-a
//	4 root-b    as large as root-a and a hole: room for the next version
//	5 verity-b  room for its hash tree
//	6 state     a hole; the first boot makes ext4 there. Last, so that it can grow
//
// The GUID of root-a is the first half of the root hash of its tree, that of
// verity-a the second half. The kernel command line inside the unified kernel
// image has that hash: a kernel can only ever start with the root it was made
// for, from whichever slot it lies in, and reads no block of it that was
// changed. Partition numbers and names are places and never change; an update
// writes the free slot, gives it its content's GUIDs and adds a unified kernel
// image.
//
// Writing needs no privileges, no loop device, no mount and no other program.
// The same input gives the same bytes: nothing is random, and times come from
// the configuration.
//
// The boot protocol is described at https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT
// and https://uapi-group.org/specifications/specs/discoverable_partitions_specification/.
package disk

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/erofs"
	"goldsmith/internal/release"
	"goldsmith/internal/secureboot"
	"goldsmith/internal/tree"
	"goldsmith/internal/verity"
)

// Config says what a disk holds. Sizes are in bytes.
type Config struct {
	Name    string     // of the image: letters, digits, ".", "-"
	Version string     // letters, digits, ".", "_", "~", "-"
	Root    *tree.Tree // final root, with a kernel, package systemd-boot-efi, and for BIOS GrubDir; it is not changed
	Init    []byte     // the imginit program
	Kernel  string     // kernel version; empty takes the newest in Root
	Cmdline string     // more kernel arguments, separated by spaces
	Drivers []string   // modules that the initramfs has for disks; nil is initramfs.Drivers

	RootSlot  int64 // each of root-a and root-b; 0 is the content and a quarter, rounded up to 64 MiB
	StateSize int64 // 0 is 1 GiB, or what Size leaves
	ESPSize   int64 // 0 is 128 MiB, or room for three kernels if that is more
	Size      int64 // whole disk; 0 is the sum of its parts. More goes to state

	// State is what machines keep, as CheckState has it. Without a directory in
	// it, but for an empty list, these are DefaultState. What the image's files
	// declare, and who a machine is, is added.
	State []string
	Time  time.Time // of everything that has no time of its own

	// Signer signs what firmware starts, for Secure Boot; nil leaves it
	// unsigned. Enroll are files, by name, that make systemd-boot teach
	// firmware without keys whom to trust: PK.auth, KEK.auth and db.auth.
	Signer *secureboot.Signer
	Enroll map[string][]byte

	// Memo returns what was computed for that key before, or else computes
	// and remembers it; nil always computes. The key names all that the result
	// depends on.
	Memo func(key string, compute func() ([]byte, error)) ([]byte, error)
}

const (
	mib         = 1 << 20
	defaultESP  = 128 * mib
	defaultRest = 1024 * mib
	slotUnit    = 64 * mib
)

// Write makes the disk in f, which is emptied first, and describes it. f is
// sparse afterwards: what no file needs is a hole.
func Write(ctx context.Context, f *os.File, c Config) (*Layout, error) {
	w := &target{ctx: ctx, f: f}
	l, err := c.write(ctx, f, w)
	if w.err != nil {
		// What the layers above made of it says less.
		return nil, w.err
	}
	return l, err
}

func (c Config) write(ctx context.Context, f *os.File, w *target) (*Layout, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	boot, err := newBootFiles(ctx, c, "")
	if err != nil {
		return nil, err
	}
	root := c.finalRoot()
	content, err := erofs.Size(root)
	if err != nil {
		return nil, err
	}
	l, err := c.plan(content, boot.espFixed(), boot.espNeed())
	if err != nil {
		return nil, err
	}
	if err := w.resize(l.Size); err != nil {
		return nil, err
	}
	if err := c.writeRoot(f, w, l, root); err != nil {
		return nil, err
	}
	if err := boot.writeESP(w, c, l); err != nil {
		return nil, err
	}
	if err := writeTable(w, l); err != nil {
		return nil, err
	}
	if err := boot.grub.install(w, l.part("bios")); err != nil {
		return nil, err
	}
	return l, ctx.Err()
}

// writeRoot writes root-a and its hash tree.
func (c *Config) writeRoot(f *os.File, w *target, l *Layout, root *tree.Tree) error {
	a, tree := l.part("root-a"), l.part("verity-a")
	res, err := erofs.Write(w.part(a), root, erofs.Options{
		UUID: [16]byte(c.digest("root-fs")[:16]), Label: "root", Time: c.Time,
	})
	if err != nil {
		return err
	}
	a.SHA256, a.Used = hex.EncodeToString(res.SHA256[:]), res.Size
	p := verity.Params{Salt: c.digest("verity-salt"), UUID: [16]byte(c.digest("verity")[:16])}
	// A disk of a few hundred MiB takes tenths of a second: too short to cancel.
	hash, used, err := verity.Write(w.part(tree), io.NewSectionReader(f, a.Start, a.Size), res.Size, p)
	if err != nil {
		return fmt.Errorf("hash tree of the root: %w", err)
	}
	tree.Used = used
	a.GUID, tree.GUID = formatGUID(hash[:16]), formatGUID(hash[16:])
	l.Root = release.Root{
		Offset: a.Start, Size: res.Size, RootHash: hex.EncodeToString(hash[:]),
		Salt: hex.EncodeToString(p.Salt), UUID: formatGUID(p.UUID[:]),
	}
	return nil
}

// check reports what the user must mend. In a file name on the EFI partition
// "+" would start a boot counter, so neither name nor version may have one.
func (c *Config) check() error {
	bad := func(format string, args ...any) error {
		return command.BadInput(fmt.Errorf(format, args...), "")
	}
	switch {
	case !bootentry.IsName(c.Name):
		return bad("image name %q: want up to 64 letters, digits, dots and dashes", c.Name)
	case !bootentry.IsVersion(c.Version):
		return bad("image version %q: want up to 64 letters, digits, dots, dashes, underscores and tildes", c.Version)
	case c.Root == nil:
		return bad("no root file tree")
	case strings.ContainsAny(c.Cmdline, "\n\x00\\'"):
		return bad("kernel arguments %q: want one line without backslashes and single quotes", c.Cmdline)
	case c.RootSlot < 0 || c.StateSize < 0 || c.ESPSize < 0 || c.Size < 0:
		return bad("a size is negative")
	}
	return c.setState()
}

// finalRoot is the root as it is stored: without the kernel, which is on the
// EFI partition, but with its configuration, and with every directory that
// something is mounted on.
func (c *Config) finalRoot() *tree.Tree {
	t := tree.New()
	for _, e := range c.Root.All() {
		entry := *e
		t.Add(&entry)
	}
	links := []string{"vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"}
	t.RemoveFunc(func(e *tree.Entry) bool {
		return strings.HasPrefix(e.Path, "boot/") && !strings.HasPrefix(e.Path, "boot/config-") ||
			e.Kind() == tree.ModeSymlink && slices.Contains(links, e.Path)
	})
	for _, dir := range append([]string{"boot", "dev", "etc", "proc", "run", "sys", "tmp"}, c.directories()...) {
		dir = tree.Clean(dir)
		if t.Lookup(dir) != nil {
			continue
		}
		perm := uint32(0o755)
		if dir == "tmp" {
			perm = 0o1777
		}
		t.AddParents(dir)
		t.Add(&tree.Entry{Path: dir, Mode: tree.ModeDir | perm, ModTime: c.Time})
	}
	return t
}

// digest derives identifiers: the same for the same name and version.
func (c *Config) digest(what string) []byte {
	sum := sha256.Sum256([]byte(c.Name + "|" + c.Version + "|" + what))
	return sum[:]
}

// plan places the partitions. content is what the root must hold; the EFI
// partition must hold fixed and one kernel, and should hold three.
func (c *Config) plan(content, fixed, kernel int64) (*Layout, error) {
	slot := cmp.Or(c.RootSlot, roundUp(content+content/4, slotUnit))
	espSize := cmp.Or(c.ESPSize, max(defaultESP, roundUp(fixed+3*kernel, slotUnit)))
	slot, espSize = roundUp(slot, mib), roundUp(espSize, mib)
	if slot < content {
		return nil, command.BadInput(fmt.Errorf("the root needs %d MiB, a slot has %d", ceilMiB(content), slot/mib),
			"make the root slot larger, or leave its size out")
	}
	if espSize < fixed+kernel {
		return nil, command.BadInput(fmt.Errorf("the EFI partition needs %d MiB, it has %d",
			ceilMiB(fixed+kernel), espSize/mib),
			"make it larger, or leave its size out")
	}
	trees := roundUp(verity.Size(slot), mib)
	// The first and the last MiB belong to the partition table.
	sum := mib + espSize + 2*slot + 2*trees + mib
	state := cmp.Or(c.StateSize, defaultRest)
	if c.Size > 0 {
		if c.StateSize == 0 {
			state = min(state, 16*mib) // the least that ext4 is of any use with
		}
		state = max(state, (c.Size-sum)/mib*mib)
		if sum+state > c.Size {
			return nil, command.BadInput(fmt.Errorf("a disk of %d MiB is too small: this image needs %d",
				c.Size/mib, ceilMiB(sum+state)),
				"make the disk larger, or leave its size out")
		}
	}
	l := &Layout{Size: sum + roundUp(state, mib), GUID: formatGUID(c.digest("disk"))}
	at := int64(mib)
	for _, p := range []Partition{
		{Name: "esp", Type: typeESP, Size: espSize, Filesystem: "vfat", Label: "ESP"},
		{Name: "root-a", Type: typeRoot, Size: slot, Filesystem: "erofs", Label: "root", attributes: readOnly},
		{Name: "verity-a", Type: typeVerity, Size: trees, Filesystem: "verity", attributes: readOnly},
		{Name: "root-b", Type: typeRoot, Size: slot, attributes: readOnly},
		{Name: "verity-b", Type: typeVerity, Size: trees, attributes: readOnly},
		{Name: "state", Type: typeVar, Size: roundUp(state, mib), attributes: noAuto},
		{Name: "bios", Type: typeBIOS, Start: 34 * sector, Size: mib - 34*sector},
	} {
		p.Number = len(l.Partitions) + 1
		if p.Start == 0 {
			p.Start = at
			at += p.Size
		}
		p.GUID = formatGUID(c.digest(p.Name))
		l.Partitions = append(l.Partitions, p)
	}
	return l, nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
func ceilMiB(n int64) int64       { return roundUp(n, mib) / mib }

// part is the part of the disk that a partition takes.
func (w *target) part(p *Partition) io.WriterAt {
	return &window{w: w, start: p.Start, size: p.Size, name: p.Name}
}
