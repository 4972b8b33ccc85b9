package imagebuild

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	disk     bool   // can be booted, for which the build needs imginit
	write    func(ctx context.Context, f *os.File, src *source) error
	programs []string // of the machine, that the format is made with
}

// formats by the name that a definition's outputs use (docs/formats.md).
var formats = map[string]format{
	"raw":        {"raw", true, func(ctx context.Context, f *os.File, src *source) error { return src.takeDisk(ctx, f) }, nil},
	"qcow2":      {"qcow2", true, writeQcow2(qcow2.Zstd), nil},
	"qcow2-zlib": {"qcow2", true, writeQcow2(qcow2.Zlib), nil},
	"qcow2-none": {"qcow2", true, writeQcow2(qcow2.None), nil},
	"vhd":        {"vhd", true, writeVHD, nil},
	"vmdk":       {"vmdk", true, writeVMDK, nil},
	"erofs":      {"erofs", false, writeEROFS, nil},
	"squashfs":   {"squashfs", false, writeSquashFS, []string{mksquashfs}},
	"oci":        {"oci.tar", false, writeOCI, nil},
	"tar":        {"tar", false, writeTar(nil), nil},
	"tar.gz":     {"tar.gz", false, writeTar(gzipped), nil},
	"tgz":        {"tgz", false, writeTar(gzipped), nil},
	"tar.zst":    {"tar.zst", false, writeTar(zstandard), nil},
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
	layout, err := s.build.writeDisk(ctx, f, s.tree, s.epoch)
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

// close gives back the scratch disk.
func (s *source) close() {
	if s.scrap {
		_ = s.raw.Close() // it goes with the scratch directory
	}
}

func (b *build) writeDisk(ctx context.Context, f *os.File, t *tree.Tree, epoch time.Time) (*disk.Layout, error) {
	init, err := os.ReadFile(filepath.Join(b.opts.Bin, "imginit"))
	if err != nil {
		return nil, err
	}
	size, err := b.def.size()
	if err != nil {
		return nil, err
	}
	return disk.Write(ctx, f, disk.Config{
		Name: b.def.Name, Version: b.def.Version, Root: t, Init: init,
		Size: size, State: b.def.State, Time: epoch,
	})
}

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
	id := sha256.Sum256([]byte("vhd|" + src.layout.GUID))
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

const mksquashfs = "mksquashfs"

// writeSquashFS lets mksquashfs pack the tree, which it reads as an archive
// (squashfs-tools 4.5): what it stores does not depend on how many processors it packs with. It makes the
// root directory itself, owned by root and of the time that nothing is newer
// than.
func writeSquashFS(ctx context.Context, f *os.File, src *source) error {
	args := []string{
		// Level 15, its own choice, takes five times as long for 3 % less.
		mksquashfs, "-", f.Name(), "-tar", "-noappend", "-comp", "zstd", "-Xcompression-level", "6",
		"-exit-on-error", "-quiet", "-no-progress",
		"-root-mode", strconv.FormatUint(uint64(src.tree.Lookup(".").Mode&0o7777), 8),
	}
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := tarball.Write(ctx, w, src.tree)
		_ = w.CloseWithError(err) // it cannot fail
		packed <- err
	}()
	err := command.Exec{
		Args: args, Stdin: r, Log: src.build.log, Remedy: "install squashfs-tools",
		Env: []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", src.epoch.Unix())},
	}.Run(ctx)
	_ = r.CloseWithError(io.ErrClosedPipe) // ends the goroutine when the program has read no further
	if tarErr := <-packed; tarErr != nil && !errors.Is(tarErr, io.ErrClosedPipe) {
		return tarErr
	}
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
