package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"goldsmith/internal/command"
)

// Peer is a layout that somebody serves (Layout.Handler).
type Peer struct {
	URL       string            // of the server, without /v2/
	Token     string            // what it takes for a password
	Transport http.RoundTripper // nil: the usual one
}

// maxAttached bounds what is attached to an image in one piece, in bytes.
const maxAttached = 64 << 20

// peer is one that is asked now.
type peer struct {
	name.Repository
	options []remote.Option
}

func (p Peer) open(ctx context.Context) (*peer, error) {
	u, err := url.Parse(p.URL)
	if err != nil || u.Host == "" {
		return nil, command.Usage(fmt.Sprintf("server %q: expected a URL", p.URL), "")
	}
	var how []name.Option
	if u.Scheme == "http" {
		how = append(how, name.Insecure)
	}
	repository, err := name.NewRepository(u.Host+"/images", how...) // there, one is as good as another
	if err != nil {
		return nil, badRef(p.URL, err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithUserAgent("goldsmith"),
		remote.WithAuth(&authn.Basic{Username: "token", Password: p.Token})}
	if p.Transport != nil {
		options = append(options, remote.WithTransport(p.Transport))
	}
	return &peer{repository, options}, nil
}

// attached lists what a peer has that is attached to an image, in the order it
// came there.
func (p *peer) attached(digest string) ([]v1.Descriptor, error) {
	index, err := remote.Referrers(p.Digest(digest), p.options...)
	if err != nil {
		return nil, err
	}
	im, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return im.Manifests, nil
}

// image fetches a manifest, of an image or of what is attached to one.
func (p *peer) image(digest string) (v1.Image, v1.Descriptor, *v1.Manifest, error) {
	var d v1.Descriptor
	img, err := remote.Image(p.Digest(digest), p.options...)
	if err != nil {
		return nil, d, nil, err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return nil, d, nil, err
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, d, nil, err
	}
	h, err := v1.NewHash(digest) // which the manifest was compared with
	if err != nil {
		return nil, d, nil, err
	}
	d = v1.Descriptor{MediaType: m.MediaType, Size: int64(len(raw)), Digest: h, ArtifactType: m.ArtifactType}
	if m.Subject != nil {
		d.Annotations = map[string]string{AnnotationSubject: m.Subject.Digest.String()}
	}
	return img, d, m, nil
}

// Tag returns the digest that a tag stands for; "" when there is none.
func (p Peer) Tag(ctx context.Context, tag string) (string, error) {
	to, err := p.open(ctx)
	if err != nil {
		return "", err
	}
	d, err := remote.Head(to.Repository.Tag(tag), to.options...)
	if te, ok := errors.AsType[*transport.Error](err); ok && te.StatusCode == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return d.Digest.String(), nil
}

// Tags returns every tag and the digest it stands for.
func (p Peer) Tags(ctx context.Context) (map[string]string, error) {
	to, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	names, err := remote.List(to.Repository, to.options...)
	if err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for _, name := range names {
		digest, err := p.Tag(ctx, name)
		if err != nil {
			return nil, err
		}
		if digest != "" { // it may be gone by now
			tags[name] = digest
		}
	}
	return tags, nil
}

// Bring copies the image with that digest, and what is attached to it, from a
// peer. What is here already, and whole, is not fetched. Without disk, that of
// the image is not: its manifest, its description and what is attached are
// enough to compare it with another.
func (l *Layout) Bring(ctx context.Context, from Peer, digest string, disk bool) error {
	p, err := from.open(ctx)
	if err != nil {
		return err
	}
	img, d, m, err := p.image(digest)
	if err != nil {
		return err
	}
	if _, err := parseImage(d.Digest, m); err != nil {
		return foreign(from.URL, err)
	}
	if disk {
		err = l.fetch(ctx, img)
	} else {
		err, m = l.fetchDescription(img), nil
	}
	if err != nil {
		return err
	}
	if err := l.list(d, m); err != nil {
		return err
	}
	attached, err := p.attached(digest)
	if err != nil {
		return err
	}
	for _, a := range attached {
		if err := l.bringAttached(ctx, p, a, digest); err != nil {
			return fmt.Errorf("%s, which is attached to %s: %w", a.Digest, digest, err)
		}
	}
	return nil
}

func (l *Layout) bringAttached(ctx context.Context, p *peer, a v1.Descriptor, subject string) error {
	im, err := l.index()
	if err != nil {
		return err
	}
	if m, err := l.manifest(a.Digest); err == nil && lists(im, a.Digest) && l.verifyAll(ctx, m) == nil {
		return nil
	}
	img, d, m, err := p.image(a.Digest.String())
	if err != nil {
		return err
	}
	if m.Subject == nil || m.Subject.Digest.String() != subject {
		return errors.New("it is not")
	}
	left := int64(maxAttached)
	for _, layer := range m.Layers {
		if left -= layer.Size; layer.Size < 0 || left < 0 {
			return fmt.Errorf("more than %d bytes", maxAttached)
		}
	}
	if err := l.fetch(ctx, img); err != nil {
		return err
	}
	return l.list(d, m)
}

// Send copies the image with that digest, and what is attached to it, to a
// peer, unless it is there. Everything is verified first.
func (l *Layout) Send(ctx context.Context, to Peer, digest string) error {
	h, err := l.Resolve(digest)
	if err != nil {
		return err
	}
	p, err := to.open(ctx)
	if err != nil {
		return err
	}
	if err := l.send(ctx, p, h); err != nil {
		return err
	}
	there, err := p.attached(h.String())
	if err != nil {
		return err
	}
	here, err := l.Referrers(h.String(), "")
	if err != nil {
		return err
	}
	for _, r := range here {
		if slices.ContainsFunc(there, func(d v1.Descriptor) bool { return d.Digest.String() == r.Digest }) {
			continue
		}
		a, err := v1.NewHash(r.Digest)
		if err != nil {
			return err
		}
		if err := l.send(ctx, p, a); err != nil {
			return fmt.Errorf("%s, which is attached to %s: %w", a, h, err)
		}
	}
	return nil
}

// send copies one manifest with its blobs. To ask for it keeps it from the
// peer's collections for a while.
func (l *Layout) send(ctx context.Context, p *peer, h v1.Hash) error {
	_, err := remote.Head(p.Digest(h.String()), p.options...)
	te, answered := errors.AsType[*transport.Error](err)
	if err == nil || !answered || te.StatusCode != http.StatusNotFound {
		return err
	}
	m, err := l.manifest(h)
	if err != nil {
		return err
	}
	if err := l.verifyAll(ctx, m); err != nil {
		return err
	}
	img, err := l.path.Image(h)
	if err != nil {
		return err
	}
	return remote.Write(p.Digest(h.String()), img, p.options...)
}

// Follow makes a tag here stand for what it stands for at a peer, whose image
// must be here; "" takes it away.
func (l *Layout) Follow(tag, digest string) error {
	tags, err := l.Tags()
	if err != nil || tags[tag] == digest {
		return err
	}
	if digest != "" {
		return l.Tag(digest, tag)
	}
	return l.update(func(im *v1.IndexManifest) error {
		untag(im, tag)
		return nil
	})
}

// Temporary tells whether something failed that may go well a little later: the
// network, a server that begins anew, a collection that came between.
func Temporary(err error) bool {
	if te, ok := errors.AsType[*transport.Error](err); ok {
		return te.StatusCode >= 500 || te.StatusCode == http.StatusTooManyRequests ||
			slices.ContainsFunc(te.Errors, func(d transport.Diagnostic) bool { return d.Code == transport.ManifestBlobUnknownErrorCode })
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}
