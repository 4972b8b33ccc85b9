// Package registry keeps images and what was proved about them in an OCI image
// layout: a directory that any registry client understands
// (https://github.com/opencontainers/image-spec, image-layout.md, version 1.1).
//
// An image is a manifest of artifact type [ImageType] with two layers, the disk
// in compressed chunks and the index of them (package chunk). Its configuration
// is the release description (package release). Its identity is the digest of
// that manifest, everywhere. What is known about an image (its build manifest,
// test results, signatures) is attached to it: further manifests whose subject
// is the image. A tag is a name that is moved; nothing is ever decided by a tag.
//
// Everything read back is verified against its digest before it is used.
package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
)

// Media and artifact types (docs/formats.md).
const (
	ImageType    = "application/vnd.goldsmith.image.v1"
	DiskType     = "application/vnd.goldsmith.disk.raw.v1+zstd"
	ChunksType   = "application/vnd.goldsmith.chunks.v1"
	ManifestType = "application/vnd.goldsmith.build-manifest.v1+json"
	EvidenceType = "application/vnd.goldsmith.evidence.v1+json"
	// StatementType is that of a referrer with one layer, an in-toto statement in
	// a DSSE envelope (package attest).
	StatementType = "application/vnd.goldsmith.statement.v1"
	// SignatureType is that of a referrer with one layer, a DSSE envelope.
	SignatureType = "application/vnd.goldsmith.signature.v1"
	EmptyType     = "application/vnd.oci.empty.v1+json" // image-spec, manifest.md
)

// Annotations of an image's manifest.
const (
	AnnotationName       = "vnd.goldsmith.image.name"
	AnnotationVersion    = "vnd.goldsmith.image.version"
	AnnotationElements   = "vnd.goldsmith.image.elements" // comma-separated
	AnnotationDiskSHA256 = "vnd.goldsmith.disk.sha256"    // of the raw disk, in hexadecimal
	AnnotationDiskSize   = "vnd.goldsmith.disk.size"      // of the raw disk, in bytes
	// AnnotationSubject is in a layout's index, on what is attached to an image:
	// that image's digest. It saves readers fetching every manifest, and proves
	// nothing.
	AnnotationSubject = "vnd.goldsmith.subject"
	annotationTitle   = "org.opencontainers.image.title"
	annotationRef     = "org.opencontainers.image.ref.name"
)

// MaxManifest bounds a manifest that is read into memory, in bytes.
const MaxManifest = 4 << 20

// Layout is an OCI image layout directory.
type Layout struct {
	dir  string
	path layout.Path
}

// Open opens the layout in dir and makes it when it is not there.
func Open(dir string) (*Layout, error) {
	l := &Layout{dir: dir, path: layout.Path(dir)}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, fmt.Errorf("image layout: %w", err)
	}
	marker := filepath.Join(dir, "oci-layout")
	if _, err := os.Stat(marker); errors.Is(err, os.ErrNotExist) {
		if err := atomicfile.Write(marker, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
			return nil, fmt.Errorf("image layout: %w", err)
		}
	}
	return l, nil
}

// Dir is where the layout lies.
func (l *Layout) Dir() string { return l.dir }

// index reads index.json; a layout without one holds nothing.
func (l *Layout) index() (*v1.IndexManifest, error) {
	file := filepath.Join(l.dir, "index.json")
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}, nil
	}
	if err != nil {
		return nil, err
	}
	im, err := v1.ParseIndexManifest(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return im, nil
}

// update changes index.json under the lock; it is replaced as a whole.
func (l *Layout) update(change func(*v1.IndexManifest) error) error {
	unlock, err := l.lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	im, err := l.index()
	if err != nil {
		return err
	}
	if err := change(im); err != nil {
		return err
	}
	return l.write(im)
}

// write replaces index.json; the layout is locked.
func (l *Layout) write(im *v1.IndexManifest) error {
	b, err := json.MarshalIndent(im, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(l.dir, "index.json"), append(b, '\n'), 0o644)
}

// putManifest writes a manifest's blob and lists it in the index.
func (l *Layout) putManifest(m *v1.Manifest) (v1.Hash, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return v1.Hash{}, err
	}
	d, err := l.putBytes(raw, string(types.OCIManifestSchema1))
	if err != nil {
		return v1.Hash{}, err
	}
	d.ArtifactType = m.ArtifactType
	if m.Subject != nil {
		d.Annotations = map[string]string{AnnotationSubject: m.Subject.Digest.String()}
	}
	return d.Digest, l.list(d, m)
}

// list puts a manifest into the index unless it is there. What it is about,
// and what it names, must still be there: a collection may just have been. That
// is not asked where m is nil.
func (l *Layout) list(d v1.Descriptor, m *v1.Manifest) error {
	return l.update(func(im *v1.IndexManifest) error {
		if m != nil {
			if m.Subject != nil && !lists(im, m.Subject.Digest) {
				return l.collected(m.Subject.Digest)
			}
			for _, b := range append([]v1.Descriptor{d, m.Config}, m.Layers...) {
				if _, err := os.Stat(l.blobPath(b.Digest)); err != nil {
					return l.collected(b.Digest)
				}
			}
		}
		if !lists(im, d.Digest) {
			im.Manifests = append(im.Manifests, d)
		}
		return nil
	})
}

func lists(im *v1.IndexManifest, h v1.Hash) bool {
	return slices.ContainsFunc(im.Manifests, func(d v1.Descriptor) bool { return d.Digest == h })
}

func (l *Layout) collected(h v1.Hash) error {
	return command.Hint(fmt.Errorf("%s: %s was removed meanwhile", l.dir, h), "do it again")
}

// putBytes stores a small blob. One that is there already is kept if it is
// whole: a killed writer of another kind may have left half of it.
func (l *Layout) putBytes(b []byte, mediaType string) (v1.Descriptor, error) {
	h, size, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		return v1.Descriptor{}, err
	}
	_, err = l.bytes(h, size)
	if err == nil {
		err = l.freshen(h)
	}
	if err != nil {
		if err := atomicfile.Write(l.blobPath(h), b, 0o644); err != nil {
			return v1.Descriptor{}, fmt.Errorf("image layout: %w", err)
		}
	}
	return v1.Descriptor{MediaType: types.MediaType(mediaType), Size: size, Digest: h}, nil
}

func (l *Layout) blobPath(h v1.Hash) string {
	return filepath.Join(l.dir, "blobs", h.Algorithm, h.Hex)
}

// manifest reads and verifies the manifest with that digest.
func (l *Layout) manifest(h v1.Hash) (*v1.Manifest, error) {
	b, err := l.bytes(h, MaxManifest)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", h, err)
	}
	return m, nil
}

// bytes reads a blob of at most limit bytes and verifies it.
func (l *Layout) bytes(h v1.Hash, limit int64) ([]byte, error) {
	rc, err := l.path.Blob(h)
	if err != nil {
		return nil, fmt.Errorf("%s: blob %s is not there", l.dir, h)
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: blob %s is larger than %d bytes", l.dir, h, limit)
	}
	if got, _, _ := v1.SHA256(bytes.NewReader(b)); got != h {
		return nil, fmt.Errorf("%s: blob %s is damaged: its content is %s", l.dir, h, got)
	}
	return b, nil
}

var tagRE = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`) // distribution-spec, "Pulling manifests"

// Tag moves the tag called name to the image with that digest.
func (l *Layout) Tag(digest, name string) error {
	if !tagRE.MatchString(name) {
		return command.Usage(fmt.Sprintf("tag %q: not a valid tag", name), "letters, digits, '.', '_' and '-'")
	}
	h, err := l.Resolve(digest)
	if err != nil {
		return err
	}
	b, err := l.bytes(h, MaxManifest)
	if err != nil {
		return err
	}
	return l.update(func(im *v1.IndexManifest) error {
		if !lists(im, h) {
			return l.collected(h)
		}
		untag(im, name)
		im.Manifests = append(im.Manifests, v1.Descriptor{
			MediaType: types.OCIManifestSchema1, Size: int64(len(b)), Digest: h, ArtifactType: ImageType,
			Annotations: map[string]string{annotationRef: name},
		})
		return nil
	})
}

// untag takes a tag out of the index. The image that had it stays listed.
func untag(im *v1.IndexManifest, name string) {
	listed := map[v1.Hash]int{}
	for _, d := range im.Manifests {
		listed[d.Digest]++
	}
	im.Manifests = slices.DeleteFunc(im.Manifests, func(d v1.Descriptor) bool {
		return d.Annotations[annotationRef] == name && listed[d.Digest] > 1
	})
	for _, d := range im.Manifests {
		if d.Annotations[annotationRef] == name {
			delete(d.Annotations, annotationRef)
		}
	}
}

// artifactType is a descriptor's; tools that copy layouts leave it out, then
// the manifest itself says it.
func (l *Layout) artifactType(d v1.Descriptor) string {
	if d.ArtifactType != "" {
		return d.ArtifactType
	}
	m, err := l.manifest(d.Digest)
	if err != nil {
		return ""
	}
	return m.ArtifactType
}

// Tags returns every tag and the digest it stands for now.
func (l *Layout) Tags() (map[string]string, error) {
	im, err := l.index()
	if err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for _, d := range im.Manifests {
		if name := d.Annotations[annotationRef]; name != "" {
			tags[name] = d.Digest.String()
		}
	}
	return tags, nil
}

// List returns the digests of all images, in the order they came.
func (l *Layout) List() ([]string, error) {
	im, err := l.index()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, d := range im.Manifests {
		if l.artifactType(d) == ImageType && !slices.Contains(out, d.Digest.String()) {
			out = append(out, d.Digest.String())
		}
	}
	return out, nil
}

// Resolve returns the digest of an image that is named by its whole digest,
// the first characters of it (at least six, with or without "sha256:"), or a
// tag.
func (l *Layout) Resolve(name string) (v1.Hash, error) {
	im, err := l.index()
	if err != nil {
		return v1.Hash{}, err
	}
	var found []v1.Hash
	prefix := strings.TrimPrefix(name, "sha256:")
	for _, d := range im.Manifests {
		if l.artifactType(d) != ImageType {
			continue
		}
		if name != "" && d.Annotations[annotationRef] == name {
			return d.Digest, nil
		}
		if len(prefix) >= 6 && strings.HasPrefix(d.Digest.Hex, prefix) && !slices.Contains(found, d.Digest) {
			found = append(found, d.Digest)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return v1.Hash{}, command.Usage(fmt.Sprintf("%s: no image %q", l.dir, name),
			"'imgpipe status' lists images and tags")
	}
	return v1.Hash{}, command.Usage(fmt.Sprintf("%s: %d images begin with %q", l.dir, len(found), name),
		"give more of the digest")
}
