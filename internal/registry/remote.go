package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"goldsmith/internal/command"
	"goldsmith/internal/release"
)

// Push copies an image of the layout, and its signatures, to a registry: ref is
// HOST/REPOSITORY with a ":TAG" or nothing, which means the digest alone. The
// image keeps its digest. Credentials are those of docker(1) and podman(1)
// logins.
func (l *Layout) Push(ctx context.Context, digest, ref string) error {
	h, err := l.Resolve(digest)
	if err != nil {
		return err
	}
	to, err := parseRef(ref, h)
	if err != nil {
		return err
	}
	m, err := l.manifest(h)
	if err != nil {
		return err
	}
	if _, err := parseImage(h, m); err != nil {
		return err
	}
	if err := l.verifyAll(ctx, m); err != nil {
		return err
	}
	img, err := l.path.Image(h)
	if err != nil {
		return err
	}
	if err := remote.Write(to, img, options(ctx)...); err != nil {
		return explain(ref, err)
	}
	signatures, err := l.Referrers(h.String(), SignatureType)
	if err != nil {
		return err
	}
	for _, s := range signatures {
		if err := l.PushAttached(ctx, s.Digest, ref); err != nil {
			return err
		}
	}
	return nil
}

// PushAttached copies what is attached to an image to the repository where the
// image is; ref may have a tag or digest, which is not looked at.
func (l *Layout) PushAttached(ctx context.Context, digest, ref string) error {
	h, err := v1.NewHash(digest)
	if err != nil {
		return err
	}
	to, err := name.ParseReference(ref)
	if err != nil {
		return badRef(ref, err)
	}
	img, err := l.path.Image(h)
	if err != nil {
		return err
	}
	if err := remote.Write(to.Context().Digest(digest), img, options(ctx)...); err != nil {
		return explain(ref, err)
	}
	return nil
}

// PullDescription copies the manifest and the description of an image from a
// registry into the layout, without its disk, and returns its digest. That is
// enough to attach something to it.
func (l *Layout) PullDescription(ctx context.Context, ref string) (string, error) {
	img, d, err := find(ctx, ref)
	if err != nil {
		return "", err
	}
	if err := l.fetchDescription(img); err != nil {
		return "", explain(ref, err)
	}
	return d.Digest.String(), l.list(d, nil)
}

// fetchDescription brings the manifest and the description of an image into the
// layout.
func (l *Layout) fetchDescription(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	if m.Config.Size > release.MaxSize {
		return command.BadInput(fmt.Errorf("the image's description has %d bytes", m.Config.Size), notOurs)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	if _, err := l.putBytes(config, string(m.Config.MediaType)); err != nil {
		return err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	_, err = l.putBytes(raw, string(m.MediaType))
	return err
}

// Pull copies an image from a registry into the layout and returns its digest.
// ref is HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST. Everything is verified
// on its way; what is no image of ours is refused before its disk is fetched.
func (l *Layout) Pull(ctx context.Context, ref string) (string, error) {
	img, d, err := find(ctx, ref)
	if err != nil {
		return "", err
	}
	if err := l.fetch(ctx, img); err != nil {
		return "", explain(ref, err)
	}
	return d.Digest.String(), l.list(d, nil)
}

// fetch brings the blobs of an image into the layout, the manifest last. Those
// that are there, and whole, are not fetched.
func (l *Layout) fetch(ctx context.Context, img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	dir, done, err := l.ingest(ctx)
	if err != nil {
		return err
	}
	defer done()
	for _, d := range m.Layers {
		if l.verify(ctx, d) == nil && l.freshen(d.Digest) == nil {
			continue
		}
		if err := l.fetchLayer(img, d.Digest, filepath.Join(dir, d.Digest.Hex)); err != nil {
			return err
		}
	}
	return l.fetchDescription(img)
}

// fetchLayer fetches one layer by way of the file part.
func (l *Layout) fetchLayer(img v1.Image, h v1.Hash, part string) error {
	layer, err := img.LayerByDigest(h)
	if err != nil {
		return err
	}
	in, err := layer.Compressed() // it is verified as it is read
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(part)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return l.take(part, h)
}

// find asks a registry for an image of ours, and returns it with the descriptor
// by which an index lists it. Only its manifest is fetched.
func find(ctx context.Context, ref string) (v1.Image, v1.Descriptor, error) {
	bad := func(err error) (v1.Image, v1.Descriptor, error) { return nil, v1.Descriptor{}, err }
	from, err := name.ParseReference(ref)
	if err != nil {
		return bad(badRef(ref, err))
	}
	img, err := remote.Image(from, options(ctx)...)
	if err != nil {
		return bad(explain(ref, err))
	}
	raw, err := img.RawManifest()
	if err != nil {
		return bad(explain(ref, err))
	}
	m, err := img.Manifest()
	if err != nil {
		return bad(explain(ref, err))
	}
	h, err := img.Digest()
	if err != nil {
		return bad(explain(ref, err))
	}
	if _, err := parseImage(h, m); err != nil {
		return bad(foreign(ref, err))
	}
	return img, v1.Descriptor{MediaType: m.MediaType, Size: int64(len(raw)), Digest: h,
		ArtifactType: m.ArtifactType}, nil
}

const notOurs = "name an image that imgbuild has made"

// foreign says that what ref names is no image of ours.
func foreign(ref string, err error) error {
	return command.BadInput(fmt.Errorf("%s: %w", ref, err), notOurs)
}

func parseRef(ref string, h v1.Hash) (name.Reference, error) {
	if strings.Contains(ref, "@") {
		return nil, badRef(ref, errors.New("a digest cannot be chosen"))
	}
	if !strings.Contains(ref[strings.LastIndex(ref, "/")+1:], ":") {
		ref += "@" + h.String()
	}
	r, err := name.ParseReference(ref, name.StrictValidation)
	if err != nil {
		return nil, badRef(ref, err)
	}
	return r, nil
}

func badRef(ref string, err error) error {
	return command.Usage(fmt.Sprintf("%s: %v", ref, err), "a registry's image is named HOST/REPOSITORY:TAG")
}

func options(ctx context.Context) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("goldsmith"),
	}
}

// explain says what to do about a registry's answer.
func explain(ref string, err error) error {
	err = fmt.Errorf("%s: %w", ref, err)
	te, ok := errors.AsType[*transport.Error](err)
	switch {
	case ok && (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden):
		return command.Hint(err, "log in to the registry (docker login, podman login or skopeo login)")
	case ok && te.StatusCode == http.StatusNotFound:
		return command.Hint(err, "the registry has no such image")
	}
	return err
}
