package disk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/fat"
	"goldsmith/internal/initramfs"
	"goldsmith/internal/iso9660"
	"goldsmith/internal/tree"
)

// LiveRoot is the tree that a live system's root file system is made of: the
// image's files without the kernel. It is packed by the caller, as a SquashFS.
func LiveRoot(c Config) (*tree.Tree, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return c.finalRoot(), nil
}

// WriteKernel writes the image's kernel, for a boot loader or a network boot
// that starts it together with what [WriteInitrd] writes.
func WriteKernel(w io.Writer, c Config) error {
	_, file, err := findKernel(c.Root, c.Kernel)
	if err != nil {
		return err
	}
	kernel, err := readProgram(c.Root, file)
	if err != nil {
		return err
	}
	_, err = w.Write(kernel)
	return err
}

// WriteInitrd writes an initial RAM disk with the whole live system in it:
// the initramfs, and behind it a second archive with the root, which is the
// SquashFS at path root. The kernel needs no argument.
func WriteInitrd(ctx context.Context, w io.Writer, c Config, root string) error {
	if err := c.check(); err != nil {
		return err
	}
	b, err := newBootFiles(ctx, c, initramfs.LiveFile)
	if err != nil {
		return err
	}
	t := tree.New()
	e, err := t.AddFrom(initramfs.LiveRootPath, 0o400, root)
	if err != nil {
		return err
	}
	if e.Size >= 1<<32 {
		return fmt.Errorf("the root is packed %d bytes large; an initial RAM disk holds files below 4 GiB", e.Size)
	}
	// The kernel looks for the second archive at a multiple of four bytes.
	if _, err := w.Write(append(b.initramfs, make([]byte, -len(b.initramfs)&3)...)); err != nil {
		return err
	}
	return initramfs.Archive(ctxWriter{ctx, w}, t, c.Time)
}

// ctxWriter ends what writes to it, a copy or a long computation, when ctx does.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w ctxWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(b)
}

// WriteISO makes a live system in f, which is emptied first: an image that
// UEFI firmware starts as a CD, as a USB stick and as any other disk. It is an
// ISO 9660 volume and has a GUID partition table:
//
//	1 root     the SquashFS in the file root, as it is
//	2 esp      FAT: a unified kernel image as EFI/BOOT/BOOTX64.EFI
//
// Both are files of the volume, too. As on other disks of this package, the
// root's GUID is the beginning of its SHA-256, and what the kernel asks for.
func WriteISO(ctx context.Context, f *os.File, c Config, root *os.File) error {
	w := &target{ctx: ctx, f: f}
	err := c.writeISO(ctx, w, root)
	if w.err != nil {
		return w.err
	}
	return errors.Join(err, ctx.Err())
}

func (c Config) writeISO(ctx context.Context, w *target, root *os.File) error {
	if err := c.check(); err != nil {
		return err
	}
	b, err := newBootFiles(ctx, c, initramfs.LiveDisk)
	if err != nil {
		return err
	}
	if err := w.resize(0); err != nil {
		return err
	}
	sum := sha256.New()
	from := command.Reader(ctx, io.NewSectionReader(root, 0, 1<<62)) // wherever its offset is
	size, err := io.Copy(io.NewOffsetWriter(w, mib), io.TeeReader(from, sum))
	if err != nil {
		return err
	}
	l := &Layout{GUID: formatGUID(c.digest("iso")), Partitions: []Partition{
		{Number: 1, Name: "root", Type: typeRoot, GUID: formatGUID(sum.Sum(nil)), Start: mib, Size: size,
			attributes: readOnly},
		{Number: 2, Name: "esp", Type: typeESP, GUID: formatGUID(c.digest("iso-esp")), Start: mib + roundUp(size, mib)},
	}}
	esp := &l.Partitions[1]
	if esp.Size, err = b.writeLiveESP(w, c, l.Partitions[0].GUID, esp.Start); err != nil {
		return err
	}
	files := []iso9660.File{
		{Name: "ROOT.SQUASHFS", Start: mib, Size: size}, {Name: "ESP.IMG", Start: esp.Start, Size: esp.Size},
	}
	// Partitions and the image itself are whole sectors of either kind, and
	// the last MiB is the table's.
	for i := range l.Partitions {
		l.Partitions[i].Size = roundUp(l.Partitions[i].Size, mib)
	}
	l.Size = esp.Start + esp.Size + mib
	if err := w.f.Truncate(l.Size); err != nil {
		return w.fail(err)
	}
	when := c.Time
	if when.IsZero() {
		when = time.Unix(0, 0)
	}
	if err := iso9660.WriteHead(w, iso9660.Volume{
		Label: iso9660.Label(bootentry.ID(c.Name, c.Version)), Size: l.Size, Time: when, Files: files, Boot: "ESP.IMG",
	}); err != nil {
		return err
	}
	return writeTable(w, l)
}

// writeLiveESP writes a live system's EFI partition at that offset of the
// image and returns its size.
func (b *bootFiles) writeLiveESP(w *target, c Config, root string, start int64) (int64, error) {
	image, err := b.unified(c, c.commandLine("root=PARTUUID="+root))
	if err != nil {
		return 0, err
	}
	t := tree.New()
	t.AddFile("EFI/BOOT/BOOTX64.EFI", 0o644, image)
	for _, e := range t.All() {
		e.ModTime = c.Time
	}
	size, err := fat.Write(io.NewOffsetWriter(w, start), t, fat.Options{
		Label: "ESP", VolumeID: le.Uint32(c.digest("iso-esp-volume")), Time: c.Time,
	})
	if err != nil {
		return 0, fmt.Errorf("EFI partition: %w", err)
	}
	return size, nil
}
