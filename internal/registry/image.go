package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/sparse"
)

// Image describes an image: what PutImage stores and Image reads.
type Image struct {
	Digest   string   `json:"digest"` // of the OCI manifest; set by Image
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Elements []string `json:"elements"`
	Size     int64    `json:"size"`   // of the raw disk, in bytes
	SHA256   string   `json:"sha256"` // of the raw disk, in hexadecimal
}

func (i *Image) annotations() map[string]string {
	return map[string]string{
		AnnotationName:       i.Name,
		AnnotationVersion:    i.Version,
		AnnotationElements:   strings.Join(i.Elements, ","),
		AnnotationDiskSHA256: i.SHA256,
		AnnotationDiskSize:   strconv.FormatInt(i.Size, 10),
	}
}

// PutImage compresses the raw disk at path into the layout and returns the
// image's digest. The same disk always gives the same digest; an image that is
// there already, and whole, is not compressed again and path not read.
// Otherwise a disk that does not have the size and SHA-256 that img names is
// refused.
func (l *Layout) PutImage(ctx context.Context, path string, img Image) (digest string, existed bool, err error) {
	if d, ok, err := l.find(ctx, img); ok || err != nil {
		return d, ok, err
	}
	layer, err := l.putDisk(ctx, path, img)
	if err != nil {
		return "", false, err
	}
	layer.Annotations = map[string]string{annotationTitle: "disk.raw.zst"}
	config, err := l.putBytes([]byte("{}"), emptyType)
	if err != nil {
		return "", false, err
	}
	h, err := l.putManifest(&v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: ImageType,
		Config: config, Layers: []v1.Descriptor{layer}, Annotations: img.annotations(),
	})
	return h.String(), false, err
}

// find returns the image that says the same of itself as img, if it and its
// disk are whole.
func (l *Layout) find(ctx context.Context, img Image) (string, bool, error) {
	im, err := l.index()
	if err != nil {
		return "", false, err
	}
	for _, d := range im.Manifests {
		if l.artifactType(d) != ImageType {
			continue
		}
		m, err := l.manifest(d.Digest)
		if err != nil || !maps.Equal(m.Annotations, img.annotations()) {
			continue // one that cannot be read is no reason to store no other
		}
		_, layer, err := parseImage(d.Digest, m)
		if err != nil {
			continue
		}
		if err := l.verify(ctx, layer); err == nil {
			return d.Digest.String(), true, nil
		} else if ctx.Err() != nil {
			return "", false, err
		}
	}
	return "", false, nil
}

// verify reads a blob and compares it with its descriptor.
func (l *Layout) verify(ctx context.Context, d v1.Descriptor) error {
	f, err := os.Open(l.blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, command.Reader(ctx, f), make([]byte, 1<<20))
	if err != nil {
		return err
	}
	if n != d.Size || hex.EncodeToString(h.Sum(nil)) != d.Digest.Hex {
		return fmt.Errorf("%s: blob %s is damaged", l.dir, d.Digest)
	}
	return nil
}

// putDisk compresses a raw disk into a blob.
func (l *Layout) putDisk(ctx context.Context, path string, img Image) (v1.Descriptor, error) {
	none := v1.Descriptor{}
	in, err := os.Open(path)
	if err != nil {
		return none, err
	}
	defer in.Close()
	// The blob's name is known only when it is complete; it takes its place
	// by a second rename.
	ingest := filepath.Join(l.dir, "blobs", "disk-"+img.SHA256)
	f, err := atomicfile.Create(ingest, 0o644)
	if err != nil {
		return none, err
	}
	defer f.Abort()
	packed, raw := sha256.New(), sha256.New()
	// One thread: how the encoder splits work must not reach the bytes.
	z, err := zstd.NewWriter(io.MultiWriter(f, packed), zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return none, err
	}
	data, err := sparse.NewReader(in)
	if err != nil {
		return none, err
	}
	n, err := io.CopyBuffer(io.MultiWriter(z, raw), command.Reader(ctx, data), make([]byte, 1<<20))
	if closeErr := z.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return none, fmt.Errorf("compress %s: %w", path, err)
	}
	if sum := hex.EncodeToString(raw.Sum(nil)); n != img.Size || sum != img.SHA256 {
		return none, fmt.Errorf("%s: has %d bytes with SHA-256 %s; expected %d bytes with %s", path, n, sum, img.Size, img.SHA256)
	}
	fi, err := f.Stat()
	if err != nil {
		return none, err
	}
	if err := f.Commit(); err != nil {
		return none, err
	}
	h := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(packed.Sum(nil))}
	if err := os.Rename(ingest, l.blobPath(h)); err != nil {
		return none, err
	}
	return v1.Descriptor{MediaType: DiskType, Size: fi.Size(), Digest: h}, atomicfile.SyncDir(filepath.Dir(l.blobPath(h)))
}

// Image reads and verifies an image's manifest.
func (l *Layout) Image(digest string) (*Image, error) {
	h, err := l.Resolve(digest)
	if err != nil {
		return nil, err
	}
	m, err := l.manifest(h)
	if err != nil {
		return nil, err
	}
	img, _, err := parseImage(h, m)
	return img, err
}

func parseImage(h v1.Hash, m *v1.Manifest) (*Image, v1.Descriptor, error) {
	bad := func(what string) (*Image, v1.Descriptor, error) {
		return nil, v1.Descriptor{}, fmt.Errorf("image %s: %s", h, what)
	}
	if m.ArtifactType != ImageType {
		return bad(fmt.Sprintf("artifact type %q is not %s", m.ArtifactType, ImageType))
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != DiskType {
		return bad("expected one layer of type " + DiskType)
	}
	size, err := strconv.ParseInt(m.Annotations[AnnotationDiskSize], 10, 64)
	if err != nil || size <= 0 {
		return bad("annotation " + AnnotationDiskSize + " is no size")
	}
	sum := m.Annotations[AnnotationDiskSHA256]
	if b, err := hex.DecodeString(sum); err != nil || len(b) != sha256.Size {
		return bad("annotation " + AnnotationDiskSHA256 + " is no SHA-256")
	}
	img := &Image{
		Digest: h.String(), Name: m.Annotations[AnnotationName], Version: m.Annotations[AnnotationVersion],
		Size: size, SHA256: sum,
	}
	if e := m.Annotations[AnnotationElements]; e != "" {
		img.Elements = strings.Split(e, ",")
	}
	return img, m.Layers[0], nil
}

// Extract writes the raw disk of an image to the file dest, which appears
// when its size and digest have been verified. Zeros become holes.
func (l *Layout) Extract(ctx context.Context, digest, dest string) error {
	h, err := l.Resolve(digest)
	if err != nil {
		return err
	}
	m, err := l.manifest(h)
	if err != nil {
		return err
	}
	img, layer, err := parseImage(h, m)
	if err != nil {
		return err
	}
	in, err := l.path.Blob(layer.Digest)
	if err != nil {
		return fmt.Errorf("%s: blob %s is not there", l.dir, layer.Digest)
	}
	defer in.Close()
	packed := sha256.New()
	z, err := zstd.NewReader(io.TeeReader(command.Reader(ctx, io.LimitReader(in, layer.Size)), packed), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	f, err := atomicfile.Create(dest, 0o644)
	if err != nil {
		return err
	}
	defer f.Abort()
	raw := sha256.New()
	n, err := sparse.Copy(f.File, io.TeeReader(io.LimitReader(z, img.Size+1), raw))
	if err != nil {
		return fmt.Errorf("unpack %s: %w", layer.Digest, err)
	}
	if sum := hex.EncodeToString(raw.Sum(nil)); n != img.Size || sum != img.SHA256 {
		return fmt.Errorf("image %s: the disk has SHA-256 %s, the manifest says %s", h, sum, img.SHA256)
	}
	if sum := hex.EncodeToString(packed.Sum(nil)); sum != layer.Digest.Hex {
		return fmt.Errorf("image %s: blob %s is damaged", h, layer.Digest)
	}
	return f.Commit()
}
