package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
	m, err := img.Manifest()
	if err != nil {
		return "", explain(ref, err)
	}
	if m.Config.Size > release.MaxSize {
		return "", foreign(ref, fmt.Errorf("image %s: its description has %d bytes", d.Digest, m.Config.Size))
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return "", explain(ref, err)
	}
	if _, err := l.putBytes(config, string(m.Config.MediaType)); err != nil {
		return "", err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return "", explain(ref, err)
	}
	if _, err := l.putBytes(raw, string(m.MediaType)); err != nil {
		return "", err
	}
	return d.Digest.String(), l.list(d)
}

// Pull copies an image from a registry into the layout and returns its digest.
// ref is HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST. Everything is verified
// on its way; what is no image of ours is refused before its disk is fetched.
func (l *Layout) Pull(ctx context.Context, ref string) (string, error) {
	img, d, err := find(ctx, ref)
	if err != nil {
		return "", err
	}
	unlock, err := l.lock()
	if err != nil {
		return "", err
	}
	err = l.path.WriteImage(img) // it verifies each blob
	unlock()
	if err != nil {
		return "", explain(ref, err)
	}
	return d.Digest.String(), l.list(d)
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

// foreign says that what ref names is no image of ours.
func foreign(ref string, err error) error {
	return command.BadInput(fmt.Errorf("%s: %w", ref, err), "name an image that imgbuild has made")
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
