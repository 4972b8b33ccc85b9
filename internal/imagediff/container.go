package imagediff

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/baseimage"
	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/internal/tree"
)

// tar reads an archive of files.
func (c *collector) tar(r io.Reader) error {
	buf := make([]byte, 256<<10)
	for tr := tar.NewReader(command.Reader(c.ctx, r)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return c.root()
		}
		if err != nil {
			return err
		}
		if err := c.tarFile(h, tr, buf); err != nil {
			return err
		}
	}
}

func (c *collector) tarFile(h *tar.Header, tr io.Reader, buf []byte) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	e, err := baseimage.TarEntry(h)
	if err != nil {
		return err
	}
	return c.add(e, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, tr, buf)
		return err
	})
}

// Names that hide what lower layers have (image-spec, layer.md, "Whiteouts").
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// layer reads a layer of a container image over the lower ones.
func (c *collector) layer(r io.Reader) error {
	upper := newCollector(c.ctx, c.image)
	upper.left, upper.texts = c.left, c.texts
	hidden := map[string]bool{} // names, and directories with a slash for what is in them
	buf := make([]byte, 256<<10)
	for tr := tar.NewReader(command.Reader(c.ctx, r)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		p := tree.Clean(h.Name)
		dir, base := path.Split(p)
		switch name, ok := strings.CutPrefix(base, whiteout); {
		case base == opaque:
			hidden[dir] = true
		case ok:
			hidden[dir+name] = true
		default:
			if target := tree.Clean(h.Linkname); h.Typeflag == tar.TypeLink && upper.files[target] == nil {
				upper.files[target] = c.files[target] // of a lower layer
			}
			if err := upper.tarFile(h, tr, buf); err != nil {
				return err
			}
		}
		if len(hidden) > maxFiles {
			return fmt.Errorf("more than %d whiteouts", maxFiles)
		}
	}
	c.left, c.texts = upper.left, upper.texts
	c.cover(upper.files, hidden)
	return nil
}

// cover takes away what a layer hides or replaces, and adds its files.
func (c *collector) cover(files map[string]*file, hidden map[string]bool) {
	gone := func(p string) bool {
		if hidden[p] {
			return true
		}
		for dir := path.Dir(p); ; dir = path.Dir(dir) {
			if dir == "." {
				return hidden[""]
			}
			above := files[dir]
			if hidden[dir] || hidden[dir+"/"] || above != nil && !above.entry.IsDir() {
				return true
			}
		}
	}
	for p := range c.files {
		if p != "." && gone(p) {
			delete(c.files, p)
		}
	}
	for p, f := range files {
		if f != nil {
			c.files[p] = f
		}
	}
}

// layout opens the files of an OCI image layout by name.
type layout func(name string) (io.ReadCloser, error)

func dirLayout(dir string) layout {
	return func(name string) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, name)) }
}

var layoutName = regexp.MustCompile(`^(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

// maxBlobs bounds the blobs of a layout in an archive.
const maxBlobs = 10_000

// tarLayout finds the files of a layout in an archive that is not packed. It
// returns nil for other archives.
func tarLayout(f *os.File) (layout, error) {
	at := map[string][2]int64{} // name → offset, size
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	for tr := tar.NewReader(f); ; { // it reads whole blocks and skips by seeking
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		if h.Typeflag == tar.TypeReg && !layoutName.MatchString(name) || len(at) > maxBlobs {
			return nil, nil
		}
		if h.Typeflag == tar.TypeReg {
			off, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			at[name] = [2]int64{off, h.Size}
		}
	}
	if _, ok := at["oci-layout"]; !ok {
		return nil, nil
	}
	return func(name string) (io.ReadCloser, error) {
		where, ok := at[name]
		if !ok {
			return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		}
		return io.NopCloser(io.NewSectionReader(f, where[0], where[1])), nil
	}, nil
}

const (
	maxManifest   = 4 << 20 // bytes
	maxNested     = 4       // indexes in indexes
	annotationRef = "org.opencontainers.image.ref.name"
)

func (l layout) read(name string) ([]byte, error) {
	rc, err := l(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, maxManifest+1))
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxManifest)
	}
	return b, err
}

func blobName(d v1.Descriptor) string {
	return path.Join("blobs", path.Base(d.Digest.Algorithm), path.Base(d.Digest.Hex))
}

// layout reads the image of a layout that has the tag, or its only one.
func (c *collector) layout(l layout, tag string) error {
	raw, err := l.read("index.json")
	if err != nil {
		return err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	found := map[v1.Hash]v1.Descriptor{}
	for _, d := range index.Manifests {
		if tag == "" && attachments[d.ArtifactType] {
			continue
		}
		if tag == "" || d.Annotations[annotationRef] == tag {
			found[d.Digest] = d
		}
	}
	if len(found) != 1 {
		what := "images"
		if tag != "" {
			what = fmt.Sprintf("images tagged %q", tag)
		}
		return command.BadInput(fmt.Errorf("%d %s", len(found), what), "name one of them: oci:DIRECTORY:TAG")
	}
	for _, d := range found {
		return c.manifest(l, d, maxNested)
	}
	return nil
}

// attachments are artifacts that say something of an image, and are none.
var attachments = map[string]bool{registry.ManifestType: true, registry.EvidenceType: true}

// manifest reads an image by its manifest, through indexes to the first.
func (c *collector) manifest(l layout, d v1.Descriptor, depth int) error {
	raw, err := l.read(blobName(d))
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != d.Digest.Hex {
		return fmt.Errorf("blob %s is damaged", d.Digest)
	}
	if d.MediaType.IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		if len(index.Manifests) == 0 || depth == 0 {
			return errors.New("an index without an image")
		}
		return c.manifest(l, index.Manifests[0], depth-1)
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if len(m.Layers) > 0 && m.Layers[0].MediaType == registry.DiskType {
		c.image.Size = m.Layers[0].Size
		return c.blob(l, m.Layers[0], c.packed)
	}
	c.image.Format = "container"
	for i, d := range m.Layers {
		if !d.MediaType.IsLayer() {
			return fmt.Errorf("layer %d is %s, which holds no files", i+1, d.MediaType)
		}
		c.image.Size += d.Size
		if err := c.blob(l, d, c.layer); err != nil {
			return fmt.Errorf("layer %s: %w", d.Digest, err)
		}
	}
	return c.root()
}

// root adds the root directory where an archive has none.
func (c *collector) root() error {
	if c.files["."] != nil {
		return nil
	}
	return c.add(&tree.Entry{Path: ".", Mode: tree.ModeDir | 0o755}, nil)
}

// blob unpacks a blob for f, and then holds it to its digest.
func (c *collector) blob(l layout, d v1.Descriptor, f func(io.Reader) error) error {
	rc, err := l(blobName(d))
	if err != nil {
		return err
	}
	defer rc.Close()
	sum := sha256.New()
	stored := io.TeeReader(command.Reader(c.ctx, rc), sum)
	z, _, err := baseimage.Decompress(stored)
	if err != nil {
		return err
	}
	defer z.Close()
	if err := f(z); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(z, maxContent)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != d.Digest.Hex {
		return errors.New("damaged: its content has another digest")
	}
	return nil
}
