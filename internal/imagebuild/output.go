package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/dpkg"
	"goldsmith/internal/erofs"
	"goldsmith/internal/sparse"
	"goldsmith/internal/tree"
)

// manifestInside is where an image holds its own manifest.
const manifestInside = disk.ManifestFile

// Manifest says what an image is made of: NAME.manifest.json. Inside the
// image it lies without outputs and disk, which come after it.
type Manifest struct {
	Name     string         `json:"name"`
	Version  string         `json:"version"`
	Arch     string         `json:"arch"`
	Release  string         `json:"release"`
	Elements []string       `json:"elements"` // sorted
	Packages []dpkg.Package `json:"packages"` // sorted
	Outputs  []Output       `json:"outputs,omitempty"`
	Disk     *disk.Layout   `json:"disk,omitempty"`
}

// Output is one file that a build wrote.
type Output struct {
	Format string `json:"format"`
	Path   string `json:"path"` // in the manifest relative to it, otherwise as the caller can open it
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	Data   int64  `json:"-"` // bytes that are not holes
}

func (b *build) manifest(t *tree.Tree) (*Manifest, error) {
	m := &Manifest{
		Name: b.def.Name, Version: b.def.Version, Arch: b.def.Arch, Release: b.def.Release,
		Elements: elementNames(b.elements), Packages: []dpkg.Package{},
	}
	e := t.Lookup(dpkg.StatusFile)
	if e == nil {
		return m, nil
	}
	rc, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	m.Packages, err = dpkg.Installed(rc)
	return m, err
}

// writeOutput writes one output file; it appears when it is complete.
func (b *build) writeOutput(ctx context.Context, format string, t *tree.Tree, epoch time.Time) (*Output, *disk.Layout, error) {
	out := &Output{Format: format, Path: filepath.Join(b.opts.Out, b.def.Name+"."+format)}
	f, err := atomicfile.Create(out.Path, 0o644)
	if err != nil {
		return nil, nil, err
	}
	defer f.Abort()
	var layout *disk.Layout
	switch format {
	case "erofs":
		_, err = erofs.Write(f, t, erofs.Options{Label: "root", Time: epoch})
	default:
		layout, err = b.writeDisk(ctx, f.File, t, epoch)
	}
	if err != nil {
		return nil, nil, explainFull(out.Path, err)
	}
	if err := out.measure(f.File); err != nil {
		return nil, nil, err
	}
	if err := f.Commit(); err != nil {
		return nil, nil, explainFull(out.Path, err)
	}
	return out, layout, nil
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

// explainFull says what to do about a full file system.
func explainFull(path string, err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return command.Hint(fmt.Errorf("%s: %w", path, unix.ENOSPC), "free some space there, or name another directory with -o")
}

// measure fills in the size, the digest and the amount of data of a file.
// Holes count as zeros for the digest.
func (o *Output) measure(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	o.Size = fi.Size()
	r, err := sparse.NewReader(f)
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, r, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("read back %s: %w", o.Path, err)
	}
	o.SHA256 = hex.EncodeToString(h.Sum(nil))
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	o.Data = st.Blocks * 512
	return nil
}
