package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/release"
	"goldsmith/internal/sparse"
)

// Image describes an image: what PutImage stores and Image reads.
type Image struct {
	Digest   string   `json:"digest"` // of the OCI manifest; set by Image
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Arch     string   `json:"arch"` // as Debian names it; empty when read from an image older than release descriptions
	Elements []string `json:"elements"`
	Size     int64    `json:"size"`   // of the raw disk, in bytes
	SHA256   string   `json:"sha256"` // of the raw disk, in hexadecimal

	// Where root and kernel image lie in the disk; nil for a disk that is not
	// of goldsmith's own layout.
	Root *release.Root `json:"root,omitempty"`
	UKI  *release.UKI  `json:"uki,omitempty"`
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

// release is the description that machines read.
func (i *Image) release() *release.Release {
	return &release.Release{
		Format: release.Format, Name: i.Name, Version: i.Version, Arch: i.Arch,
		Disk: release.Disk{Size: i.Size, SHA256: i.SHA256}, Root: i.Root, UKI: i.UKI,
	}
}

// Check says what is wrong with an image's description.
func (i *Image) Check() error { return i.release().Check() }

// cuts are where a chunk of the disk must end, in bytes.
func (i *Image) cuts() (at []int64) {
	if i.Root != nil {
		at = append(at, i.Root.Offset, i.Root.Offset+i.Root.Size)
	}
	if i.UKI != nil {
		at = append(at, i.UKI.Offset, i.UKI.Offset+i.UKI.Size)
	}
	return at
}

// PutImage packs the raw disk at path into the layout and returns the image's
// digest. The same disk always gives the same digest; an image that is there
// already, and whole, is not packed again and path not read. Otherwise a disk
// that does not have the size and SHA-256 that img names is refused.
func (l *Layout) PutImage(ctx context.Context, path string, img Image) (digest string, existed bool, err error) {
	description, err := img.release().Encode()
	if err != nil {
		return "", false, err
	}
	if d, ok, err := l.find(ctx, img, description); ok || err != nil {
		return d, ok, err
	}
	layers, err := l.putDisk(ctx, path, img)
	if err != nil {
		return "", false, err
	}
	config, err := l.putBytes(description, release.MediaType)
	if err != nil {
		return "", false, err
	}
	h, err := l.putManifest(&v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: ImageType,
		Config: config, Layers: layers, Annotations: img.annotations(),
	})
	return h.String(), false, err
}

// find returns the image that says the same of itself as img, if everything of
// it is whole.
func (l *Layout) find(ctx context.Context, img Image, description []byte) (string, bool, error) {
	im, err := l.index()
	if err != nil {
		return "", false, err
	}
	config, _, err := v1.SHA256(bytes.NewReader(description))
	if err != nil {
		return "", false, err
	}
	for _, d := range im.Manifests {
		if l.artifactType(d) != ImageType {
			continue
		}
		m, err := l.manifest(d.Digest)
		if err != nil || m.Config.Digest != config || !maps.Equal(m.Annotations, img.annotations()) {
			continue // one that cannot be read is no reason to store no other
		}
		if _, err := parseImage(d.Digest, m); err != nil {
			continue
		}
		if err := l.verifyAll(ctx, m); err == nil && l.claim(d.Digest) {
			return d.Digest.String(), true, nil
		} else if ctx.Err() != nil {
			return "", false, err
		}
	}
	return "", false, nil
}

// verifyAll verifies everything that a manifest names.
func (l *Layout) verifyAll(ctx context.Context, m *v1.Manifest) error {
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := l.verify(ctx, d); err != nil {
			return err
		}
	}
	return nil
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

// Image reads and verifies an image's manifest and its description.
func (l *Layout) Image(digest string) (*Image, error) {
	h, err := l.Resolve(digest)
	if err != nil {
		return nil, err
	}
	m, err := l.manifest(h)
	if err != nil {
		return nil, err
	}
	img, err := parseImage(h, m)
	if err != nil || m.Config.MediaType == EmptyType {
		return img, err
	}
	description, err := l.bytes(m.Config.Digest, release.MaxSize)
	if err != nil {
		return nil, err
	}
	r, err := release.Parse(description)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", h, err)
	}
	if r.Name != img.Name || r.Version != img.Version || r.Disk != (release.Disk{Size: img.Size, SHA256: img.SHA256}) {
		return nil, fmt.Errorf("image %s: its annotations and its description differ", h)
	}
	img.Arch, img.Root, img.UKI = r.Arch, r.Root, r.UKI
	return img, nil
}

// parseImage reads what an image's manifest says. Its first layer is the disk.
// Images from before there were release descriptions have the empty
// configuration and no chunk index; they go on being read.
func parseImage(h v1.Hash, m *v1.Manifest) (*Image, error) {
	bad := func(what string) (*Image, error) { return nil, fmt.Errorf("image %s: %s", h, what) }
	old := m.Config.MediaType == EmptyType && len(m.Layers) == 1
	switch {
	case m.ArtifactType != ImageType:
		return bad(fmt.Sprintf("artifact type %q is not %s", m.ArtifactType, ImageType))
	case len(m.Layers) == 0 || m.Layers[0].MediaType != DiskType:
		return bad("expected a first layer of type " + DiskType)
	case !old && (m.Config.MediaType != release.MediaType || len(m.Layers) != 2 || m.Layers[1].MediaType != ChunksType):
		return bad("expected a release description and a second layer of type " + ChunksType)
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
	return img, nil
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
	img, err := parseImage(h, m)
	if err != nil {
		return err
	}
	layer := m.Layers[0]
	in, err := l.path.Blob(layer.Digest)
	if err != nil {
		return fmt.Errorf("%s: blob %s is not there", l.dir, layer.Digest)
	}
	defer in.Close()
	packed := sha256.New()
	z, err := zstd.NewReader(io.TeeReader(command.Reader(ctx, io.LimitReader(in, layer.Size)), packed),
		zstd.WithDecoderMaxMemory(256<<20))
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
