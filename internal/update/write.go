package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/release"
	"goldsmith/internal/verity"
)

// write writes root, tree and kernel image, and reads back what it wrote.
func (m *Machine) write(ctx context.Context, d *slotDisk, e *esp, name string, img Image) (s *Slot, err error) {
	rel := img.Release
	seeds, closeSeeds, err := m.seeds(d, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeSeeds()) }()
	m.say("writing version %s into slot %s", rel.Version, name)
	root, err := d.open("root-"+name, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := img.Root(ctx, root, seeds); err != nil {
		return nil, err
	}
	if err := root.Sync(); err != nil {
		return nil, err
	}
	if err := m.writeTree(d, name, root, rel.Root); err != nil {
		return nil, err
	}
	if err := d.setRoot(name, rel.Root.RootHash); err != nil {
		return nil, err
	}
	f, err := e.stage()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := img.UKI(ctx, f, seeds); err != nil {
		return nil, err
	}
	if err := e.checkStaged(f, rel.UKI.SHA256); err != nil {
		return nil, err
	}
	return &Slot{Digest: img.Digest, Name: rel.Name, Version: rel.Version, RootHash: rel.Root.RootHash,
		RootSize: rel.Root.Size, UKI: rel.UKI.SHA256}, nil
}

// writeTree computes the hash tree of what is on the disk now, and reads it
// back.
func (m *Machine) writeTree(d *slotDisk, name string, root *area, want *release.Root) error {
	tree, err := d.open("verity-"+name, os.O_RDWR)
	if err != nil {
		return err
	}
	defer tree.Close()
	salt, err := hex.DecodeString(want.Salt)
	if err != nil {
		return err
	}
	uuid, err := hex.DecodeString(strings.ReplaceAll(want.UUID, "-", ""))
	if err != nil || len(uuid) != 16 {
		return fmt.Errorf("uuid %q", want.UUID)
	}
	written := &inOrder{w: tree, sum: sha256.New()}
	rootHash, length, err := verity.Write(written, root, want.Size, verity.Params{Salt: salt, UUID: [16]byte(uuid)})
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(rootHash[:]); got != want.RootHash {
		return fmt.Errorf("partition root-%s has root hash %s after writing, want %s: "+
			"the disk is failing, or the image's description is wrong", name, got, want.RootHash)
	}
	if err := tree.Sync(); err != nil {
		return err
	}
	got := sha256.New()
	if _, err := io.Copy(got, io.NewSectionReader(tree, 0, length)); err != nil {
		return err
	}
	if !bytes.Equal(got.Sum(nil), written.sum.Sum(nil)) {
		return fmt.Errorf("partition verity-%s reads back as something else: the disk is failing", name)
	}
	return nil
}

// inOrder sums up what is written one after the other.
type inOrder struct {
	w   io.WriterAt
	end int64
	sum hash.Hash
}

func (o *inOrder) WriteAt(b []byte, off int64) (int, error) {
	if off != o.end {
		return 0, fmt.Errorf("written at %d, after %d bytes", off, o.end)
	}
	o.end += int64(len(b))
	o.sum.Write(b)
	return o.w.WriteAt(b, off)
}

// seeds are both slots and the kernel images.
func (m *Machine) seeds(d *slotDisk, e *esp) (seeds []Seed, done func() error, err error) {
	var open []io.Closer
	done = func() error {
		var errs []error
		for _, c := range open {
			errs = append(errs, c.Close())
		}
		return errors.Join(errs...)
	}
	for _, name := range []string{m.Boot.Slot, other(m.Boot.Slot)} {
		a, err := d.open("root-"+name, os.O_RDONLY)
		if err != nil {
			return nil, nil, errors.Join(err, done())
		}
		open = append(open, a)
		if size := d.content(name); size > 0 && size <= a.size {
			seeds = append(seeds, Seed{a, size})
		}
	}
	entries, err := e.entries()
	if err != nil {
		return nil, nil, errors.Join(err, done())
	}
	for _, entry := range entries {
		f, err := os.Open(e.path(bootentry.Dir, entry.File()))
		if err != nil {
			return nil, nil, errors.Join(err, done())
		}
		open = append(open, f)
		if st, err := f.Stat(); err == nil {
			seeds = append(seeds, Seed{f, st.Size()})
		}
	}
	return seeds, done, nil
}
