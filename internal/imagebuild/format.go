package imagebuild

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/erofs"
	"goldsmith/internal/qcow2"
	"goldsmith/internal/sparse"
	"goldsmith/internal/tarball"
	"goldsmith/internal/tree"
	"goldsmith/internal/vhd"
	"goldsmith/internal/vmdk"
)

// format is a kind of output.
type format struct {
	ending   string // of the file name
	disk     bool   // a whole disk
	live     bool   // a live system, for which the build needs imginit as for our own disk
	write    func(ctx context.Context, f *os.File, src *source) error
	programs []string // of the machine, that the format is made with
	more     []part   // further files, written after the first
}

// part is a further file of an output that has several.
type part struct {
	ending string
	write  func(ctx context.Context, f *os.File, src *source) error
}

// label names the file in messages, as one of a format's.
func (p part) label(format string) string {
	if len(formatOf(format).more) == 0 {
		return format
	}
	return format + ", " + p.ending
}

// parts are the files of the format.
func (f format) parts() []part { return append([]part{{f.ending, f.write}}, f.more...) }

// formats by the name that a definition's outputs use (docs/formats.md).
var formats = map[string]format{
	"raw":        {ending: "raw", disk: true, write: writeRaw},
	"qcow2":      {ending: "qcow2", disk: true, write: writeQcow2(qcow2.Zstd)},
	"qcow2-zlib": {ending: "qcow2", disk: true, write: writeQcow2(qcow2.Zlib)},
	"qcow2-none": {ending: "qcow2", disk: true, write: writeQcow2(qcow2.None)},
	"vhd":        {ending: "vhd", disk: true, write: writeVHD},
	"vmdk":       {ending: "vmdk", disk: true, write: writeVMDK},
	"iso":        {ending: "iso", live: true, write: writeISO, programs: []string{mksquashfs}},
	"kernel+initramfs": {ending: "vmlinuz", live: true, write: writeKernel, programs: []string{mksquashfs},
		more: []part{{"initrd", writeInitrd}}},
	"deploy-ramdisk": {ending: "vmlinuz", write: writeDeployKernel, more: []part{{"initrd", writeDeployInitrd}}},
	"erofs":          {ending: "erofs", write: writeEROFS},
	"squashfs":       {ending: "squashfs", write: writeSquashFS, programs: []string{mksquashfs}},
	"oci":            {ending: "oci.tar", write: writeOCI},
	"tar":            {ending: "tar", write: writeTar(nil)},
	"tar.gz":         {ending: "tar.gz", write: writeTar(gzipped)},
	"tgz":            {ending: "tgz", write: writeTar(gzipped)},
	"tar.zst":        {ending: "tar.zst", write: writeTar(zstandard)},
}

// formatNames are the formats, sorted, for messages.
func formatNames() []string { return slices.Sorted(maps.Keys(formats)) }

// source is what outputs are made from: the finished tree, and the disk made
// of it once.
type source struct {
	build  *build
	tree   *tree.Tree
	epoch  time.Time
	layout *disk.Layout // of the disk, once there is one
	raw    *os.File     // the disk
	scrap  bool         // raw is nobody's output
	live   *os.File     // the packed root of live systems, once there is one
}

// takeDisk writes the disk into an output, from which others are then made.
func (s *source) takeDisk(ctx context.Context, f *os.File) error {
	if s.raw != nil {
		r, err := sparse.NewReader(s.raw)
		if err != nil {
			return err
		}
		_, err = sparse.Copy(f, command.Reader(ctx, r))
		return err
	}
	c, err := s.diskConfig()
	if err != nil {
		return err
	}
	layout, err := disk.Write(ctx, f, c)
	if err != nil {
		return err
	}
	s.raw, s.layout = f, layout
	return nil
}

// disk returns the disk, which is made in the scratch directory where no raw
// output has been asked for before.
func (s *source) disk(ctx context.Context) (*os.File, error) {
	if s.raw != nil {
		return s.raw, nil
	}
	f, err := os.Create(filepath.Join(s.build.work.dir, "disk.raw"))
	if err != nil {
		return nil, err
	}
	if err := s.takeDisk(ctx, f); err != nil {
		return nil, errors.Join(explainFull(f.Name(), err), f.Close())
	}
	s.scrap = true
	return f, nil
}

// close gives back the scratch files, which go with the scratch directory.
func (s *source) close() {
	if s.scrap {
		_ = s.raw.Close()
	}
	if s.live != nil {
		_ = s.live.Close()
	}
}

// diskConfig says what disks hold.
func (s *source) diskConfig() (disk.Config, error) {
	b := s.build
	init, err := os.ReadFile(filepath.Join(b.opts.Bin, "imginit"))
	if err != nil {
		return disk.Config{}, err
	}
	size, err := b.def.size()
	if err != nil {
		return disk.Config{}, err
	}
	c := disk.Config{
		Name: b.def.Name, Version: b.def.Version, Root: s.tree, Init: init,
		Drivers: drivers[b.def.Modules], Size: size, State: b.def.State, Time: s.epoch, Memo: b.cache.memo,
	}
	return c, b.def.SecureBoot.addTo(&c)
}

func writeRaw(ctx context.Context, f *os.File, src *source) error { return src.takeDisk(ctx, f) }

func writeQcow2(c qcow2.Compression) func(context.Context, *os.File, *source) error {
	return func(ctx context.Context, f *os.File, src *source) error {
		raw, err := src.disk(ctx)
		if err != nil {
			return err
		}
		return qcow2.Write(ctx, f, raw, c)
	}
}

func writeVHD(ctx context.Context, f *os.File, src *source) error {
	raw, err := src.disk(ctx)
	if err != nil {
		return err
	}
	r, err := sparse.NewReader(raw)
	if err != nil {
		return err
	}
	size, err := sparse.Copy(f, command.Reader(ctx, r))
	if err != nil {
		return err
	}
	name := src.build.def.Name
	if src.layout != nil {
		name = src.layout.GUID
	}
	id := sha256.Sum256([]byte("vhd|" + name))
	return vhd.Append(f, size, [16]byte(id[:16]))
}

func writeVMDK(ctx context.Context, f *os.File, src *source) error {
	raw, err := src.disk(ctx)
	if err != nil {
		return err
	}
	return vmdk.Write(ctx, f, raw, src.build.def.Name+".vmdk")
}

func writeEROFS(_ context.Context, f *os.File, src *source) error {
	_, err := erofs.Write(f, src.tree, erofs.Options{Label: "root", Time: src.epoch})
	return err
}

// writeTar writes the tree as an archive through a compressor; nil means none.
func writeTar(compress func(io.Writer) (io.WriteCloser, error)) func(context.Context, *os.File, *source) error {
	return func(ctx context.Context, f *os.File, src *source) error {
		if compress == nil {
			return tarball.Write(ctx, f, src.tree)
		}
		z, err := compress(f)
		if err != nil {
			return err
		}
		return errors.Join(tarball.Write(ctx, z, src.tree), z.Close())
	}
}

func gzipped(w io.Writer) (io.WriteCloser, error) {
	return gzip.NewWriterLevel(w, gzip.DefaultCompression)
}

// zstandard compresses on one thread: how work is split must not reach the
// bytes.
func zstandard(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
}
