package registry

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// open opens a blob. What is no regular file of the layout itself is not there:
// no link is followed out of it.
func (s *served) open(h v1.Hash) (*os.File, fs.FileInfo, error) {
	root, err := os.OpenRoot(s.layout.dir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	unknown := bad(http.StatusNotFound, "BLOB_UNKNOWN", "there is no such blob")
	f, err := root.OpenFile(filepath.Join("blobs", h.Algorithm, h.Hex), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, unknown
	}
	if err != nil {
		s.Log.Warn("a blob cannot be opened", "digest", h.String(), "error", err)
		return nil, nil, unknown
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = unknown
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, nil
}

// read reads and verifies a manifest's bytes.
func (s *served) read(h v1.Hash) ([]byte, error) {
	f, _, err := s.open(h)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxManifest+1))
	if err != nil {
		return nil, err
	}
	if got, _, _ := v1.SHA256(bytes.NewReader(b)); got != h {
		return nil, fmt.Errorf("%s: blob %s is damaged: its content is %s", s.layout.dir, h, got)
	}
	return b, nil
}

// manifest answers with a manifest, named by tag or digest. To ask whether it
// is there keeps it from collections for a while: whoever pushes does.
func (s *served) manifest(c *call) error {
	d, err := s.named(c.arg)
	if err != nil {
		return err
	}
	b, err := s.read(d.Digest)
	if err != nil {
		return err
	}
	if c.r.Method == http.MethodHead {
		if err := s.layout.freshen(d.Digest); err != nil {
			return err
		}
	}
	c.content(string(d.MediaType), d.Digest)
	http.ServeContent(c.w, c.r, "", time.Time{}, bytes.NewReader(b))
	return nil
}

// content sets the headers of an answer that has a digest.
func (c *call) content(mediaType string, h v1.Hash) {
	c.w.Header().Set("Content-Type", mediaType)
	c.w.Header().Set("Docker-Content-Digest", h.String())
	c.w.Header().Set("Etag", `"`+h.String()+`"`)
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
}

// blob answers with a blob or a range of it. Readers verify it. As with a
// manifest, to ask whether it is there keeps it for a while.
func (s *served) blob(c *call) error {
	h, err := digest(c.arg)
	if err != nil {
		return err
	}
	f, _, err := s.open(h)
	if err != nil {
		return err
	}
	defer f.Close()
	if c.r.Method == http.MethodHead {
		if err := s.layout.freshen(h); err != nil {
			return err
		}
	}
	c.content("application/octet-stream", h)
	http.ServeContent(c.w, c.r, "", time.Time{}, f)
	return nil
}

// tags lists tags in their order, at most n, those after last.
func (s *served) tags(c *call) error {
	all, err := s.layout.Tags()
	if err != nil {
		return err
	}
	query := c.r.URL.Query()
	names := []string{}
	for name := range all {
		if name > query.Get("last") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if text := query.Get("n"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return bad(http.StatusBadRequest, "UNSUPPORTED", "n is no number")
		}
		if n < len(names) {
			if names = names[:n]; n > 0 {
				next := url.Values{"n": {text}, "last": {names[n-1]}}
				c.w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, c.repository, next.Encode()))
			}
		}
	}
	return c.json("application/json", map[string]any{"name": c.repository, "tags": names})
}

// referrers lists what is attached to a manifest, whether that is here or not.
func (s *served) referrers(c *call) error {
	subject, err := digest(c.arg)
	if err != nil {
		return err
	}
	im, err := s.layout.index()
	if err != nil {
		return err
	}
	out := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	want := c.r.URL.Query().Get("artifactType")
	for _, d := range im.Manifests {
		if about := d.Annotations[AnnotationSubject]; about != "" && about != subject.String() || lists(&out, d.Digest) {
			continue
		}
		m, err := s.parsed(d.Digest)
		if err != nil {
			return err
		}
		t := cmp.Or(m.ArtifactType, string(m.Config.MediaType))
		if m.Subject == nil || m.Subject.Digest != subject || want != "" && t != want {
			continue
		}
		out.Manifests = append(out.Manifests, v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest,
			ArtifactType: t, Annotations: m.Annotations})
	}
	if want != "" {
		c.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return c.json(string(types.OCIImageIndex), out)
}

func (s *served) parsed(h v1.Hash) (*v1.Manifest, error) {
	b, err := s.read(h)
	if err != nil {
		return nil, err
	}
	return v1.ParseManifest(bytes.NewReader(b))
}

func (c *call) json(mediaType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", mediaType)
	c.w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = c.w.Write(b) // whoever asked is gone
	return nil
}
