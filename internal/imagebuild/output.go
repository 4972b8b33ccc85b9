package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/dpkg"
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

// ReadManifest reads a NAME.manifest.json. The paths of its outputs are made
// relative to the caller's directory.
func ReadManifest(path string) (*Manifest, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, command.BadInput(err, "'imgbuild build' writes it beside the image")
	}
	m := &Manifest{}
	if err := json.Unmarshal(content, m); err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: %w", path, err), "")
	}
	for i, o := range m.Outputs {
		m.Outputs[i].Path = filepath.Join(filepath.Dir(path), filepath.Base(o.Path))
	}
	return m, nil
}

// Output returns the output of that format, its first file, or nil.
func (m *Manifest) Output(format string) *Output {
	for i := range m.Outputs {
		if m.Outputs[i].Format == format {
			return &m.Outputs[i]
		}
	}
	return nil
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

// writeOutputs writes every output and the manifest. They appear together,
// the manifest last, when all are written: a manifest never lies beside
// outputs that are not its own for longer than the renames take.
func (b *build) writeOutputs(ctx context.Context, t *tree.Tree) (*Result, error) {
	compat := b.opts.Compat
	if compat != nil && len(b.outputs) == 0 {
		return &Result{Log: b.logPath}, nil
	}
	m, err := b.manifest(t)
	if err != nil {
		return nil, err
	}
	if err := b.checkPinned(m.Packages); err != nil {
		return nil, err
	}
	inside, err := encode(m)
	if err != nil {
		return nil, err
	}
	if b.layout == nil { // else the disk's file systems are there already
		t.AddFile(manifestInside, 0o644, inside)
	}
	t.ClampTimes(b.epoch)
	res := &Result{Manifest: filepath.Join(b.opts.Out, b.def.Name+".manifest.json"), Log: b.logPath}
	var files pending
	defer files.abort()
	src := &source{build: b, tree: t, epoch: b.epoch, raw: b.disk}
	defer src.close()
	if err := b.writeFormats(ctx, &files, src, m, res); err != nil {
		return nil, err
	}
	m.Disk = src.layout
	content, err := encode(m)
	if err != nil {
		return nil, err
	}
	f, err := files.create(res.Manifest)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(content); err != nil {
		return nil, explainFull(res.Manifest, err)
	}
	if compat == nil {
		err = b.besideOutputs(ctx, &files, t, m, res)
	} else {
		for _, o := range res.Outputs {
			err = errors.Join(err, compat.keepOld(o.Path, time.Now()))
		}
	}
	if err != nil {
		return nil, err
	}
	if err := files.commit(); err != nil {
		return nil, err
	}
	return res, nil
}

// writeFormats writes the image in each format that is wanted, and notes it in
// the manifest by its name.
func (b *build) writeFormats(ctx context.Context, files *pending, src *source, m *Manifest, res *Result) error {
	for _, name := range b.outputs {
		b.count.Done++
		for _, p := range formatOf(name).parts() {
			line, started := b.progress.Start("write "+p.label(name)), time.Now()
			out, err := b.writeOutput(ctx, files, name, p, src)
			b.timeline.ran(&step{Name: "write " + p.label(name)}, time.Since(started), "", err != nil)
			if err != nil {
				line.Done(err, "")
				return err
			}
			line.Done(nil, fmt.Sprintf("%s, %d MiB of data", out.Path, out.Data>>20))
			b.progress.Count(b.count) // which has the output that is done
			noted := *out
			noted.Path = filepath.Base(out.Path)
			m.Outputs = append(m.Outputs, noted)
			res.Outputs = append(res.Outputs, *out)
		}
	}
	return nil
}

// besideOutputs writes everything else that is known of an image.
func (b *build) besideOutputs(ctx context.Context, files *pending, t *tree.Tree, m *Manifest, res *Result) error {
	var err error
	if res.saved, err = b.saveManifests(files); err != nil {
		return err
	}
	if err := b.describe(ctx, files, t, res); err != nil {
		return err
	}
	return b.writeReport(files, m)
}

// saveManifests copies what hooks put into DIB_MANIFEST_SAVE_DIR to NAME.d
// beside the outputs, and returns the paths. Called by diskimage-builder's
// names, hooks put it where it belongs themselves.
func (b *build) saveManifests(files *pending) ([]string, error) {
	from, to := filepath.Join(b.dir(), manifestsName), filepath.Join(b.opts.Out, b.def.Name+".d")
	var saved []string
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p == from {
			return fs.SkipAll
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		path := filepath.Join(to, strings.TrimPrefix(p, from))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err := files.create(path)
		if err != nil {
			return err
		}
		saved = append(saved, path)
		_, err = f.Write(content)
		return explainFull(path, err)
	})
	return saved, err
}

func encode(v any) ([]byte, error) {
	content, err := json.MarshalIndent(v, "", "  ")
	return append(content, '\n'), err
}

// pending are files that are written and not yet seen.
type pending []pendingFile

type pendingFile struct {
	path string
	file *atomicfile.File
}

func (p *pending) create(path string) (*os.File, error) {
	f, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return nil, explainFull(path, err)
	}
	*p = append(*p, pendingFile{path, f})
	return f.File, nil
}

// commit shows the files, in the order they were created in. What can fail is
// done for all of them before the first is seen.
func (p *pending) commit() error {
	for _, f := range *p {
		if err := f.file.Sync(); err != nil {
			return explainFull(f.path, err)
		}
	}
	for _, f := range *p {
		if err := f.file.Commit(); err != nil {
			return explainFull(f.path, err)
		}
	}
	return nil
}

// abort removes the files that were not committed.
func (p *pending) abort() {
	for _, f := range *p {
		f.file.Abort()
	}
}

// writeOutput writes one file of an output, which others see when files are
// committed.
func (b *build) writeOutput(ctx context.Context, files *pending, name string, p part, src *source) (*Output, error) {
	ending := p.ending
	if b.opts.Compat != nil {
		ending = compatEnding(ending)
	}
	out := &Output{Format: name, Path: filepath.Join(b.opts.Out, b.def.Name+"."+ending)}
	f, err := files.create(out.Path)
	if err != nil {
		return nil, err
	}
	if err = p.write(ctx, f, src); err == nil {
		err = out.measure(f)
	}
	if err == nil && b.opts.Compat != nil {
		err = b.opts.Compat.writeChecksums(files, out, f)
	}
	if err != nil {
		return nil, explainFull(out.Path, err)
	}
	return out, nil
}

// explainFull says what to do about a full file system.
func explainFull(path string, err error) error {
	x, ran := errors.AsType[*command.ExitError](err)
	full := ran && slices.ContainsFunc(x.Tail, saysFull)
	if !full && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return command.Hint(fmt.Errorf("%s: %w", path, unix.ENOSPC), "free some space there, or name another directory with -o")
}

// saysFull tells whether a line that a program printed means a full file
// system: in most programs' words, or mksquashfs'.
func saysFull(line string) bool {
	return strings.Contains(line, "No space left on device") || strings.Contains(line, "out of space on output filesystem")
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
