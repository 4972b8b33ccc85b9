package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/release"
	"goldsmith/internal/seed"
	"goldsmith/internal/trust"
	"goldsmith/internal/uki"
	"goldsmith/internal/update/fetch"
)

// openImage opens an image, and refuses one whose signature does not count. The
// caller closes it.
func openImage(ctx context.Context, im *deploy.Image, say func(string, ...any)) (_ *fetch.Image, err error) {
	var keys []*trust.PublicKey
	for i, text := range im.Keys {
		k, err := trust.ParsePublic([]byte(text))
		if err != nil {
			return nil, command.BadInput(fmt.Errorf("trusted key %d: %w", i+1, err), "")
		}
		keys = append(keys, k)
	}
	src, err := fetch.Open(ctx, im.Ref(), say)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, src.Close())
		}
	}()
	r := src.Release()
	say("image %s %s, %d MiB", r.Name, r.Version, r.Disk.Size>>20)
	if len(keys) == 0 {
		say("no trusted key was given: whether the image is signed is not asked")
		return src, nil
	}
	envelopes, err := src.Envelopes(ctx)
	if err != nil {
		return nil, err
	}
	said, err := trust.NewPolicy(keys...).VerifyAny(envelopes, src.Digest())
	if err == nil {
		err = said.Matches(&r)
	}
	if err != nil {
		return nil, err
	}
	say("its signature is that of a trusted key")
	return src, nil
}

// mib is what partitions are aligned to, in bytes.
const mib = 1 << 20

// target is a disk that an image is written to.
type target struct {
	dev   *device
	disk  *staged
	image *fetch.Image
	say   func(string, ...any)
}

// openTarget takes a disk for an image, which must fit with a seed of seedSize
// bytes behind it. Nothing is changed yet.
func openTarget(path string, image *fetch.Image, seedSize int64, say func(string, ...any)) (*target, error) {
	dev, err := openDevice(path)
	if err != nil {
		return nil, err
	}
	r := image.Release()
	switch need := r.Disk.Size + (seedSize+mib-1)/mib*mib; {
	case dev.sector != 512:
		err = fmt.Errorf("%s: it has blocks of %d bytes, the image is for 512", path, dev.sector)
	case r.Disk.Size > dev.size || seedSize > 0 && need > dev.size/mib*mib:
		err = fmt.Errorf("%s: it has %d bytes, image and seed need %d", path, dev.size, need)
	}
	if err != nil {
		return nil, errors.Join(command.BadInput(err, "take another disk"), dev.Close())
	}
	return &target{dev: dev, image: image, say: say}, nil
}

// imageError is a failure of the image, or of where it comes from.
type imageError struct{ error }

func (e *imageError) Unwrap() error { return e.error }

// writeOnly hides that a disk can be read: what is on it is not to be searched.
type writeOnly struct {
	disk   *staged
	failed bool // the disk has, and not the image
}

// WriteAt implements io.WriterAt.
func (w *writeOnly) WriteAt(b []byte, off int64) (int, error) {
	n, err := w.disk.WriteAt(b, off)
	w.failed = w.failed || err != nil
	return n, err
}

// Zero implements fetch.Zeroer.
func (w *writeOnly) Zero(off, n int64) error {
	err := w.disk.Zero(off, n)
	w.failed = w.failed || err != nil
	return err
}

// write wipes the disk and writes the image to it, but for what makes it
// bootable.
func (t *target) write(ctx context.Context, progress func(done, total int64)) (err error) {
	if t.disk, err = stage(t.dev); err != nil {
		return err
	}
	w := &writeOnly{disk: t.disk}
	stats, err := t.image.Write(ctx, fetch.Disk, w, fetch.Options{Progress: progress})
	if err != nil && !w.failed && ctx.Err() == nil {
		return &imageError{err}
	}
	if err != nil {
		return err
	}
	t.say("%d MiB written, %d MiB of them zeros; %d MiB came over the network",
		stats.Size>>20, stats.Zeros>>20, stats.Fetched>>20)
	return t.dev.Sync()
}

// typeBasic is the type of a partition with data, Microsoft's.
const typeBasic = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"

// noAuto asks not to mount a partition by itself (the Discoverable Partitions
// Specification).
const noAuto = 1 << 63

// verify compares what is on the disk with the image, from the disk itself.
func (t *target) verify(ctx context.Context, progress func(done, total int64)) error {
	if err := t.dev.forget(); err != nil {
		return err
	}
	t.dev.bypass()
	return errors.Join(t.image.Verify(ctx, fetch.Disk, t.disk, progress), t.dev.endBypass())
}

// fit makes the partition table the disk's own, with a partition for the seed
// at its end, and the state partition up to there. It needs verify before it, for it
// changes what that compares. Images without a GUID partition table are left as
// they are.
func (t *target) fit(seed []byte) error {
	table, err := gpt.Read(t.disk, t.dev.size, 512)
	if errors.Is(err, gpt.ErrNoTable) && seed == nil {
		t.say("the image has no GUID partition table: it stays as it is")
		return nil
	}
	if err != nil {
		return fmt.Errorf("the image's partition table: %w", err)
	}
	grow := 0
	for _, p := range table.Partitions {
		if p.Name == "state" {
			grow = p.Number
		}
	}
	var add *gpt.Partition
	if seed != nil {
		sum := sha256.Sum256(append([]byte("seed|"+table.GUID+"|"), seed...))
		id := hex.EncodeToString(sum[:16])
		add = &gpt.Partition{Name: "seed", Type: typeBasic, Size: int64(len(seed)), Attributes: noAuto,
			GUID: id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]}
	}
	made, err := gpt.Fit(t.disk, t.dev.size, 512, grow, add)
	if err != nil || made == nil {
		return err
	}
	return t.writeSeed(made, seed)
}

// writeSeed writes the seed into its partition, and reads it back.
func (t *target) writeSeed(p *gpt.Partition, seed []byte) error {
	if err := t.disk.Zero(p.Start, p.Size); err != nil {
		return err
	}
	if _, err := t.disk.WriteAt(seed, p.Start); err != nil {
		return err
	}
	if err := t.dev.forget(); err != nil {
		return err
	}
	back := make([]byte, len(seed))
	if _, err := t.disk.ReadAt(back, p.Start); err != nil {
		return err
	}
	if !bytes.Equal(back, seed) {
		return errors.New("read back: the seed is not what was written")
	}
	t.say("seed in partition %d", p.Number)
	return nil
}

// kernel reads the image's unified kernel image from the disk.
func (t *target) kernel() (*uki.Image, error) {
	r := t.image.Release()
	if r.UKI == nil {
		return nil, errors.New("kexec: the image has no kernel that is known: restart with reboot")
	}
	return readKernel(t.disk, r.UKI)
}

func readKernel(disk io.ReaderAt, u *release.UKI) (*uki.Image, error) {
	b := make([]byte, u.Size)
	if _, err := disk.ReadAt(b, u.Offset); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != u.SHA256 {
		return nil, errors.New("kexec: the kernel on the disk is not the image's")
	}
	m, err := uki.Parse(b)
	return &m, err
}

// makeSeed returns the volume for a seed; nil without one. dir is in memory: a
// seed has secrets.
func makeSeed(dir string, s *deploy.Seed) ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	out := seed.Seed{InstanceID: s.InstanceID, Hostname: s.Hostname, AuthorizedKeys: s.AuthorizedKeys}
	if len(s.Metadata) > 0 {
		out.Metadata = s.Metadata
	}
	path := filepath.Join(dir, "seed.img")
	if err := seed.Write(path, out); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	return b, errors.Join(err, os.Remove(path))
}
