package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/command"
	"goldsmith/internal/registry"
)

// source is where an image lies. What it gives is not to be trusted, neither
// in length nor in content.
type source interface {
	// manifest gives the manifest with that digest.
	manifest(ctx context.Context, h v1.Hash) (*stream, error)
	// signatures names manifests that may be signatures of the image.
	signatures(ctx context.Context, image v1.Hash) ([]v1.Hash, error)
	// blob gives n bytes of a blob from off on, or more.
	blob(ctx context.Context, h v1.Hash, off, n int64) (*stream, error)
	close() error
}

// stream is some bytes of a blob.
type stream struct {
	io.ReadCloser
	at  int64 // offset of the first byte
	all bool  // it goes on to the blob's end, whatever was asked for
}

// openSource takes a reference without its digest.
func openSource(ctx context.Context, ref string, t timing) (source, error) {
	dir, isDir := strings.CutPrefix(ref, "oci:")
	switch {
	case isDir:
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, permanent{command.BadInput(fmt.Errorf("%s: %w", ref, err), "")}
		}
		return &layout{directory{root}}, nil
	case strings.HasPrefix(ref, "http://"), strings.HasPrefix(ref, "https://"):
		u, err := url.Parse(ref)
		if err != nil || u.Host == "" {
			return nil, permanent{command.Usage(ref+": not a URL", "")}
		}
		return &layout{website{newWeb(t), u}}, nil
	case strings.Contains(ref, "://"):
		return nil, permanent{command.Usage(ref+": neither http nor https",
			"name oci:DIRECTORY, the URL of a layout, or HOST/REPOSITORY, with @ and the digest")}
	}
	return openRegistry(ctx, ref, t)
}

// files is a tree of files to read from.
type files interface {
	// open gives n bytes of a file from off on, or more; all of it if n < 0.
	open(ctx context.Context, name string, off, n int64) (*stream, error)
	close() error
}

// layout is an OCI image layout.
type layout struct{ files }

func (l *layout) manifest(ctx context.Context, h v1.Hash) (*stream, error) {
	return l.open(ctx, path.Join("blobs", h.Algorithm, h.Hex), 0, -1)
}

func (l *layout) blob(ctx context.Context, h v1.Hash, off, n int64) (*stream, error) {
	return l.open(ctx, path.Join("blobs", h.Algorithm, h.Hex), off, n)
}

// signatures reads the layout's index. Entries that say that they are
// something else, or another image's, are left out.
func (l *layout) signatures(ctx context.Context, image v1.Hash) ([]v1.Hash, error) {
	s, err := l.open(ctx, "index.json", 0, -1)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	b, err := readAll(s, maxLayoutIndex)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var im v1.IndexManifest
	if err := json.Unmarshal(b, &im); err != nil {
		return nil, permanent{fmt.Errorf("index.json: %w", err)}
	}
	return candidates(im.Manifests, image), nil
}

// maxLayoutIndex bounds a list of manifests, in bytes.
const maxLayoutIndex = 4 << 20

// maxSignatures is how many signatures of one image are looked at.
const maxSignatures = 32

// candidates are the descriptors that may be signatures of the image. The last
// ones come first: what was attached last is what its owner means. Registries
// from before artifactType say the configuration's type.
func candidates(list []v1.Descriptor, image v1.Hash) (out []v1.Hash) {
	for i := len(list) - 1; i >= 0 && len(out) < maxSignatures; i-- {
		d := list[i]
		of, known := d.Annotations[registry.AnnotationSubject]
		kind := d.ArtifactType == registry.SignatureType || d.ArtifactType == registry.EmptyType
		if kind && (!known || of == image.String()) && d.Digest.Algorithm == "sha256" {
			out = append(out, d.Digest)
		}
	}
	return out
}

// directory is a layout's directory. Links do not lead out of it.
type directory struct{ root *os.Root }

func (d directory) open(_ context.Context, name string, off, _ int64) (*stream, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, permanent{err}
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = permanent{fmt.Errorf("%s: not a regular file", name)}
	}
	if err == nil {
		_, err = f.Seek(off, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &stream{f, off, false}, nil
}

func (d directory) close() error { return d.root.Close() }

// website is a layout behind a URL.
type website struct {
	web  *web
	base *url.URL
}

func (w website) open(ctx context.Context, name string, off, n int64) (*stream, error) {
	return w.web.get(ctx, w.base.JoinPath(name).String(), "", off, n)
}

func (w website) close() error { return w.web.close() }

// readAll reads at most limit bytes; more are an error.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = permanent{fmt.Errorf("more than %d bytes", limit)}
	}
	return b, err
}
