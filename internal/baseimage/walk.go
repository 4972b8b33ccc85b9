package baseimage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"goldsmith/internal/ext4"
	"goldsmith/internal/tree"
)

// WalkDisk calls f for every file of a disk's root file system, and then of
// those that its fstab mounts, as [Extract] finds them; nothing is written.
// Content is as [ext4.FS.Walk] says. A directory that something is mounted on
// comes twice.
func WalkDisk(ctx context.Context, r io.ReaderAt, size int64, f func(e *tree.Entry, c *ext4.Content) error) error {
	d := &disk{r: ctxReaderAt{ctx, r}, size: size}
	parts, err := d.partitions()
	if err != nil {
		return err
	}
	if err := begins(d, parts); err != nil {
		return err
	}
	x := &extraction{}
	root, err := x.choose(d, parts)
	if err != nil {
		return err
	}
	var fstab limited
	err = walkPartition(d, root, ".", func(e *tree.Entry, c *ext4.Content) error {
		if e.Path == "etc/fstab" && c != nil && e.Size <= maxFstab {
			if err := c.CopyTo(&fstab); err != nil {
				return err
			}
		}
		return f(e, c)
	})
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(parts), func(p partition) bool { return p == root })
	mounts := fstabMounts(d, others, string(bytes.Trim(fstab[:], "\x00")))
	for _, at := range slices.Sorted(maps.Keys(mounts)) {
		if err := walkPartition(d, mounts[at], at, f); err != nil {
			return err
		}
	}
	return nil
}

// limited is a small file in memory.
type limited []byte

func (l *limited) WriteAt(b []byte, off int64) (int, error) {
	end := off + int64(len(b))
	if end > maxFstab {
		return 0, fmt.Errorf("longer than %d bytes", maxFstab)
	}
	if grow := end - int64(len(*l)); grow > 0 {
		*l = append(*l, make([]byte, grow)...)
	}
	return copy((*l)[off:], b), nil
}

// walkPartition walks a partition, whose files it puts below at.
func walkPartition(d *disk, p partition, at string, f func(e *tree.Entry, c *ext4.Content) error) error {
	fs, err := ext4.Open(p.in(d), p.size)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	err = fs.Walk(func(e *tree.Entry, c *ext4.Content) error {
		e.Path = path.Join(at, e.Path)
		if e.LinkTo != "" {
			e.LinkTo = path.Join(at, e.LinkTo)
		}
		return f(e, c)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}
