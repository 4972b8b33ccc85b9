package registry

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"goldsmith/internal/atomicfile"
)

// pushed is a manifest that somebody wants to be here.
type pushed struct {
	raw  []byte
	d    v1.Descriptor // how the index lists it
	tag  string        // empty: none
	subj *v1.Descriptor
	// What must be here: blobs, and manifests of an index.
	blobs, children []v1.Descriptor
}

// putManifest takes a manifest, whose blobs must be here.
func (s *served) putManifest(c *call) error {
	raw, err := io.ReadAll(http.MaxBytesReader(c.w, patient(c), MaxManifest))
	if err != nil {
		return err
	}
	p, err := parsePushed(raw, c.r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	if err := s.name(c, p); err != nil {
		return err
	}
	if err := s.layout.accept(p); err != nil {
		return err
	}
	if p.subj != nil {
		c.w.Header().Set("OCI-Subject", p.subj.Digest.String())
	}
	c.w.Header().Set("Location", fmt.Sprintf("/v2/%s/manifests/%s", c.repository, p.d.Digest))
	c.w.Header().Set("Docker-Content-Digest", p.d.Digest.String())
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// name compares the name by which a manifest is pushed with what it is.
func (s *served) name(c *call, p *pushed) error {
	if h, err := v1.NewHash(c.arg); err == nil {
		if h != p.d.Digest {
			return bad(http.StatusBadRequest, "DIGEST_INVALID", "the manifest's digest is %s", p.d.Digest)
		}
		return nil
	}
	// A tag that looks like a digest could be taken for one.
	if _, err := hex.DecodeString(c.arg); !tagRE.MatchString(c.arg) || err == nil && len(c.arg) == 64 {
		return bad(http.StatusBadRequest, "MANIFEST_INVALID", "not a tag or SHA-256 digest")
	}
	if p.tag = c.arg; s.Protected == nil {
		return nil
	}
	protected, err := s.Protected(c.r, p.tag)
	if err == nil && protected {
		err = bad(http.StatusForbidden, "DENIED", "the tag %s is not pushed: push by digest; a channel is moved by a promotion", p.tag)
	}
	return err
}

// parsePushed reads a manifest or an index of them.
func parsePushed(raw []byte, contentType string) (*pushed, error) {
	invalid := func(what string) (*pushed, error) {
		return nil, bad(http.StatusBadRequest, "MANIFEST_INVALID", "%s", what)
	}
	said, _, err := mime.ParseMediaType(contentType)
	if err != nil || !slices.Contains(taken, types.MediaType(said)) {
		return nil, bad(http.StatusUnsupportedMediaType, "MANIFEST_INVALID", "media type %q: only manifests and indexes of OCI images are taken", contentType)
	}
	h, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return invalid(err.Error())
	}
	p := &pushed{raw: raw, subj: m.Subject, d: v1.Descriptor{MediaType: types.MediaType(said), Size: size, Digest: h, ArtifactType: m.ArtifactType}}
	switch {
	case m.SchemaVersion != 2:
		return invalid("schemaVersion is not 2")
	case m.MediaType != "" && string(m.MediaType) != said:
		return invalid("mediaType differs from the request's")
	}
	if p.d.MediaType == types.OCIImageIndex {
		im, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return invalid(err.Error())
		}
		p.children = im.Manifests
	} else {
		p.blobs = append([]v1.Descriptor{m.Config}, m.Layers...)
	}
	all := append(slices.Clone(p.blobs), p.children...)
	if p.subj != nil {
		all = append(all, *p.subj)
		p.d.Annotations = map[string]string{AnnotationSubject: p.subj.Digest.String()}
	}
	for _, d := range all {
		if d.Digest.Algorithm != "sha256" || d.Size < 0 {
			return invalid("a descriptor has no SHA-256 digest or no size")
		}
	}
	if m.ArtifactType == ImageType {
		if _, err := parseImage(h, m); err != nil {
			return invalid(err.Error())
		}
	}
	return p, nil
}

// accept lists a manifest, and moves its tag. What it names must be here. All
// of that is one step for those who collect what nobody needs.
func (l *Layout) accept(p *pushed) error {
	return l.update(func(im *v1.IndexManifest) error {
		for _, b := range p.blobs {
			fi, err := os.Lstat(l.blobPath(b.Digest))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err != nil || !fi.Mode().IsRegular() || fi.Size() != b.Size {
				return bad(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "the blob %s of %d bytes is not here", b.Digest, b.Size)
			}
		}
		for _, m := range p.children {
			if !lists(im, m.Digest) {
				return bad(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "the manifest %s is not here", m.Digest)
			}
		}
		if err := atomicfile.Write(l.blobPath(p.d.Digest), p.raw, 0o644); err != nil {
			return err
		}
		if p.tag != "" {
			untag(im, p.tag)
			tagged := p.d
			tagged.Annotations = map[string]string{annotationRef: p.tag}
			if p.subj != nil {
				tagged.Annotations[AnnotationSubject] = p.subj.Digest.String()
			}
			im.Manifests = append(im.Manifests, tagged)
		} else if !lists(im, p.d.Digest) {
			im.Manifests = append(im.Manifests, p.d)
		}
		return nil
	})
}
