package baseimage

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/ext4"
	"goldsmith/internal/tree"
)

// disk is a disk image, in whatever form it is stored.
type disk struct {
	r    io.ReaderAt
	size int64 // bytes
}

// partition is a part of a disk, or all of it.
type partition struct {
	number int // from 1; 0 for a whole disk without a partition table
	root   bool
	start  int64 // bytes
	size   int64
}

func (p partition) String() string {
	if p.number == 0 {
		return "the disk"
	}
	return fmt.Sprintf("partition %d", p.number)
}

func (p partition) in(d *disk) *io.SectionReader { return io.NewSectionReader(d.r, p.start, p.size) }

// rootType is the root partition of an x86-64 machine in the Discoverable
// Partitions Specification.
const rootType = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"

// disk extracts the root file system of a disk.
func (x *extraction) disk(ctx context.Context, d *disk) error {
	d.r = ctxReaderAt{ctx, d.r}
	parts, err := d.partitions()
	if err != nil {
		return err
	}
	if err := begins(d, parts); err != nil {
		return err
	}
	p, err := x.choose(d, parts)
	if err != nil {
		return err
	}
	x.info("root is %s, %d MiB", p, p.size>>20)
	u := newUnpacker(x.root)
	if err := u.partition(d, p, "."); err != nil {
		return err
	}
	if x.Partition == 0 {
		parts = slices.DeleteFunc(slices.Clone(parts), func(o partition) bool { return o == p })
		if err := x.others(d, parts, u); err != nil {
			return err
		}
	}
	return u.finish()
}

// partition writes the files of a partition below the directory at.
func (u *unpacker) partition(d *disk, p partition, at string) error {
	return walkPartition(d, p, at, func(e *tree.Entry, c *ext4.Content) error {
		if err := u.add(e, func(f *os.File) error { return errors.Join(c.CopyTo(f), f.Truncate(e.Size)) }); err != nil {
			return fmt.Errorf("/%s: %w", e.Path, err)
		}
		return nil
	})
}

// maxFstab bounds /etc/fstab, in bytes.
const maxFstab = 1 << 20

// others adds the partitions that the root's fstab(5) mounts elsewhere, as
// cloud images have /boot: those with ext2, ext3 or ext4 that it names by
// label or UUID.
func (x *extraction) others(d *disk, parts []partition, u *unpacker) error {
	file, err := u.resolve("etc/fstab", false)
	if err != nil {
		return nil // there is no /etc, or it is odd
	}
	if fi, err := os.Lstat(u.host(file)); err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	text, err := readLimited(u.host(file), maxFstab)
	if err != nil {
		return err
	}
	mounts := fstabMounts(d, parts, string(text))
	for _, at := range slices.Sorted(maps.Keys(mounts)) { // parents first
		x.info("/%s is %s", at, mounts[at])
		if err := u.partition(d, mounts[at], at); err != nil {
			return err
		}
	}
	return nil
}

// fstabMounts are the partitions that an fstab(5) mounts below the root by
// label or UUID, by where.
func fstabMounts(d *disk, parts []partition, fstab string) map[string]partition {
	byName := map[string]partition{}
	for _, p := range parts {
		if fs, err := ext4.Open(p.in(d), p.size); err == nil {
			byName["LABEL="+fs.Label], byName["UUID="+fs.UUID] = p, p
		}
	}
	mounts, used := map[string]partition{}, map[partition]bool{}
	for line := range strings.Lines(fstab) {
		w := strings.Fields(line)
		if len(w) < 3 || !strings.HasPrefix(w[1], "/") || path.Clean(w[1]) == "/" {
			continue
		}
		// Once each: many lines must not make much of little.
		if p, ok := byName[strings.ReplaceAll(w[0], `"`, "")]; ok && !used[p] {
			mounts[tree.Clean(w[1])], used[p] = p, true
		}
	}
	return mounts
}

// ctxReaderAt ends reading when ctx does.
type ctxReaderAt struct {
	ctx context.Context
	r   io.ReaderAt
}

func (r ctxReaderAt) ReadAt(b []byte, off int64) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.ReadAt(b, off)
}

// choose picks the partition that is asked for, or the root: that of the
// root's type, else the largest one that looks like it.
func (x *extraction) choose(d *disk, parts []partition) (partition, error) {
	if x.Partition != 0 {
		i := slices.IndexFunc(parts, func(p partition) bool { return p.number == x.Partition })
		if i < 0 {
			return partition{}, command.Usage(fmt.Sprintf("there is no partition %d", x.Partition), describe(d, parts))
		}
		return parts[i], readable(d, parts[i])
	}
	sorted := slices.Clone(parts)
	slices.SortStableFunc(sorted, func(a, b partition) int { return cmp.Compare(b.size, a.size) })
	for _, p := range sorted {
		if p.root {
			return p, readable(d, p)
		}
	}
	var damaged error
	for _, p := range sorted {
		isRoot, err := p.isRoot(d)
		if isRoot {
			return p, nil
		}
		if err != nil {
			damaged = errors.Join(damaged, fmt.Errorf("%s: %w", p, err))
		}
	}
	if damaged != nil {
		return partition{}, damaged
	}
	return partition{}, command.BadInput(errors.New("no root file system that can be read: "+describe(d, parts)),
		"it must be ext2, ext3 or ext4 and hold /etc/os-release; --partition names one that does not")
}

// begins reads what tells partitions apart, so that none whose beginning is
// lost is taken for one that holds nothing.
func begins(d *disk, parts []partition) error {
	head := make([]byte, 2048) // up to the end of an ext4's superblock
	for _, p := range parts {
		if _, err := p.in(d).ReadAt(head, 0); err != nil && err != io.EOF {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// isRoot tells an operating system's root, of those that can be read.
func (p partition) isRoot(d *disk) (bool, error) {
	if filesystem(p.in(d)) != "ext" {
		return false, nil
	}
	fs, err := ext4.Open(p.in(d), p.size)
	if err != nil {
		return false, err
	}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if ok, err := fs.Exists(name); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// readable refuses file systems that are not read here, by name.
func readable(d *disk, p partition) error {
	if kind := filesystem(p.in(d)); kind != "ext" {
		return command.BadInput(fmt.Errorf("%s holds %s, which cannot be read", p, kind),
			"use an image whose root is ext2, ext3 or ext4, or an archive")
	}
	return nil
}

func describe(d *disk, parts []partition) string {
	var out []string
	for _, p := range parts {
		out = append(out, fmt.Sprintf("%s holds %s", p, filesystem(p.in(d))))
	}
	if len(out) == 0 {
		return "the partition table is empty"
	}
	return strings.Join(out, ", ")
}

// filesystem names what begins like that.
func filesystem(r io.ReaderAt) string {
	for _, f := range []struct {
		name  string
		at    int64
		magic string
	}{
		{"ext", 1024 + 56, "\x53\xef"}, {"xfs", 0, "XFSB"}, {"btrfs", 64<<10 + 64, "_BHRfS_M"}, {"LVM", 512, "LABELONE"},
		{"squashfs", 0, "hsqs"}, {"erofs", 1024, "\xe2\xe1\xf5\xe0"}, {"an encrypted volume", 0, "LUKS\xba\xbe"},
		{"FAT", 510, "\x55\xaa"},
	} {
		b := make([]byte, len(f.magic))
		if _, err := r.ReadAt(b, f.at); err == nil && string(b) == f.magic {
			return f.name
		}
	}
	return "nothing known"
}

// partitions reads the disk's partition table. A disk without one is one
// partition.
func (d *disk) partitions() ([]partition, error) {
	for _, sector := range []int{512, 4096} {
		t, err := gpt.Read(d.r, d.size, sector)
		if errors.Is(err, gpt.ErrNoTable) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var out []partition
		for _, p := range t.Partitions {
			out = append(out, partition{number: p.Number, root: p.Type == rootType, start: p.Start, size: p.Size})
		}
		return out, nil
	}
	whole := partition{size: d.size}
	if filesystem(whole.in(d)) == "ext" { // the boot sector before it may hold anything
		return []partition{whole}, nil
	}
	if parts, err := d.mbr(); len(parts) > 0 || err != nil {
		return parts, err
	}
	return []partition{whole}, nil
}

const mbrSector = 512

// mbr reads a DOS partition table with its logical partitions.
func (d *disk) mbr() ([]partition, error) {
	var out []partition
	extended := int64(0)
	entries, err := d.mbrEntries(0)
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		if e.extended() {
			extended = e.start
		} else if e.kind != 0 {
			out = append(out, partition{number: i + 1, start: e.start * mbrSector, size: e.count * mbrSector})
		}
	}
	number := 5
	for at := extended; at != 0; {
		entries, err := d.mbrEntries(at)
		if err != nil || len(entries) == 0 {
			return nil, errors.Join(err, errors.New("a logical partition without a table"))
		}
		if e := entries[0]; e.kind != 0 && !e.extended() {
			out = append(out, partition{number: number, start: (at + e.start) * mbrSector, size: e.count * mbrSector})
			number++
		}
		next := int64(0)
		if entries[1].extended() {
			next = extended + entries[1].start
		}
		if next != 0 && next <= at { // a chain that only goes forward ends
			return nil, errors.New("logical partitions in a circle")
		}
		at = next
	}
	for _, p := range out {
		if p.start == 0 || p.start+p.size > d.size {
			return nil, fmt.Errorf("%s lies outside of the disk: is the image cut off?", p)
		}
	}
	return out, nil
}

// mbrEntry is an entry of a table; numbers are sectors.
type mbrEntry struct {
	kind         byte
	start, count int64
}

func (e mbrEntry) extended() bool { return e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85 }

// mbrEntries reads the table in that sector; there is none without its mark.
func (d *disk) mbrEntries(sector int64) ([]mbrEntry, error) {
	b := make([]byte, mbrSector)
	if _, err := d.r.ReadAt(b, sector*mbrSector); err != nil {
		if err == io.EOF {
			return nil, nil
		}
		return nil, err
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, nil
	}
	out := make([]mbrEntry, 4)
	for i := range out {
		e := b[446+16*i:]
		out[i] = mbrEntry{e[4], int64(binary.LittleEndian.Uint32(e[8:])), int64(binary.LittleEndian.Uint32(e[12:]))}
	}
	return out, nil
}
