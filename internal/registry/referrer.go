package registry

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Blob is one file that is attached to an image.
type Blob struct {
	Title     string // file name
	MediaType string
	Content   []byte
}

// Referrer is something that is attached to an image.
type Referrer struct {
	Digest       string
	ArtifactType string
	Annotations  map[string]string
}

// Attach stores blobs as a manifest whose subject is the image with that
// digest.
func (l *Layout) Attach(digest, artifactType string, annotations map[string]string, blobs ...Blob) (string, error) {
	h, err := l.Resolve(digest)
	if err != nil {
		return "", err
	}
	subject, err := l.bytes(h, MaxManifest)
	if err != nil {
		return "", err
	}
	config, err := l.putBytes([]byte("{}"), EmptyType)
	if err != nil {
		return "", err
	}
	m := &v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType,
		Config: config, Annotations: annotations,
		Subject: &v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(subject)), Digest: h},
	}
	for _, b := range blobs {
		d, err := l.putBytes(b.Content, b.MediaType)
		if err != nil {
			return "", err
		}
		d.Annotations = map[string]string{annotationTitle: b.Title}
		m.Layers = append(m.Layers, d)
	}
	got, err := l.putManifest(m)
	return got.String(), err
}

// Referrers returns what is attached to the image with that digest, of one
// artifact type or of any when it is empty, in the order it was attached.
func (l *Layout) Referrers(digest, artifactType string) ([]Referrer, error) {
	subject, err := l.Resolve(digest)
	if err != nil {
		return nil, err
	}
	im, err := l.index()
	if err != nil {
		return nil, err
	}
	var out []Referrer
	for _, d := range im.Manifests {
		if t := l.artifactType(d); t == ImageType || artifactType != "" && t != artifactType {
			continue
		}
		m, err := l.manifest(d.Digest)
		if err != nil {
			return nil, err
		}
		if m.Subject != nil && m.Subject.Digest == subject {
			out = append(out, Referrer{d.Digest.String(), m.ArtifactType, m.Annotations})
		}
	}
	return out, nil
}

// Attached returns the content of the file called title in a referrer.
func (l *Layout) Attached(referrer, title string) ([]byte, error) {
	h, err := v1.NewHash(referrer)
	if err != nil {
		return nil, err
	}
	m, err := l.manifest(h)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(m.Layers, func(d v1.Descriptor) bool { return d.Annotations[annotationTitle] == title })
	if i < 0 {
		return nil, nil
	}
	return l.bytes(m.Layers[i].Digest, MaxManifest)
}
