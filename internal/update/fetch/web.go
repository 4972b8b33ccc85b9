package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"goldsmith/internal/command"
)

// timing is how patient a fetcher is, and whom it tells.
type timing struct {
	stall time.Duration                    // a server that does not give an answer, or the next 64 KiB, in that time is given up
	pause time.Duration                    // before the first new try; it doubles with each
	tries int                              // in a row that brought nothing
	say   func(format string, args ...any) // told why a source is asked again; nil: nobody
}

// usual allows for slow lines, 2 KiB a second, and for a server that is started
// anew.
var usual = timing{stall: 30 * time.Second, pause: time.Second, tries: 6}

// permanent is an error that another try does not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

var errStalled = errors.New("the server stalls")

// web asks servers of HTTP.
type web struct {
	client *http.Client
	timing timing
}

func newWeb(t timing) *web {
	plain := http.DefaultTransport.(*http.Transport).Clone()
	plain.DisableCompression = true // ranges are of what lies there
	plain.ResponseHeaderTimeout = 2 * t.stall
	return &web{&http.Client{Transport: plain}, t}
}

func (w *web) close() error {
	w.client.CloseIdleConnections()
	return nil
}

// get asks for n bytes from off on, or for everything if n < 0. A server may
// ignore the range: then the stream begins at 0 and is the whole file.
func (w *web) get(ctx context.Context, url, accept string, off, n int64) (*stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &patient{cancel: cancel, stall: w.timing.stall, ctx: ctx}
	p.timer = time.AfterFunc(w.timing.stall, func() { cancel(errStalled) })
	s, err := w.ask(ctx, url, accept, off, n, p)
	if err != nil {
		_ = p.Close()
		return nil, p.explain(err)
	}
	return s, nil
}

func (w *web) ask(ctx context.Context, url, accept string, off, n int64, p *patient) (*stream, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, permanent{err}
	}
	req.Header.Set("User-Agent", "goldsmith")
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if n >= 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	}
	res, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	p.body = res.Body
	switch {
	case res.StatusCode == http.StatusOK:
		return &stream{p, 0, true}, nil
	case res.StatusCode == http.StatusPartialContent && n >= 0:
		if got := res.Header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", off)) {
			return nil, fmt.Errorf("%s: asked for bytes from %d on, the server gives %q", url, off, got)
		}
		return &stream{p, off, false}, nil
	}
	return nil, final(fmt.Errorf("%s: the server says %s", url, res.Status), res.StatusCode)
}

// final marks an error that came with a status as permanent, unless the server
// may say something else soon.
func final(err error, status int) error {
	if status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
		return err
	}
	return permanent{err}
}

// answered does so with an error of the registry client.
func answered(err error) error {
	if te, ok := errors.AsType[*transport.Error](err); ok {
		return final(err, te.StatusCode)
	}
	return err
}

// patient is the body of an answer that must go on.
type patient struct {
	body   io.ReadCloser
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
	read   int // since the timer was set
}

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.body.Read(b)
	if p.read += n; p.read >= 64<<10 {
		p.read = 0
		p.timer.Reset(p.stall)
	}
	return n, p.explain(err)
}

// explain says why the request was cancelled, if it was.
func (p *patient) explain(err error) error {
	if err != nil && err != io.EOF && errors.Is(context.Cause(p.ctx), errStalled) {
		return errStalled
	}
	return err
}

func (p *patient) Close() error {
	p.timer.Stop()
	p.cancel(nil)
	if p.body == nil {
		return nil
	}
	return p.body.Close()
}

// repository is an image's place in an OCI registry.
type repository struct {
	repo name.Repository
	web  *web
	opts []remote.Option
}

func openRegistry(ctx context.Context, ref string, t timing) (source, error) {
	repo, err := name.NewRepository(ref)
	if err != nil {
		return nil, permanent{command.Usage(fmt.Sprintf("%s: %v", ref, err),
			"name oci:DIRECTORY, the URL of a layout, or HOST/REPOSITORY, with @ and the digest")}
	}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, repo)
	if err != nil {
		return nil, err
	}
	w := newWeb(t)
	limited, stop := context.WithTimeoutCause(ctx, t.stall, errStalled) // a login brings a token, no more
	defer stop()
	rt, err := transport.NewWithContext(limited, repo.Registry, auth, w.client.Transport,
		[]string{repo.Scope(transport.PullScope)})
	if err != nil {
		if context.Cause(limited) == errStalled {
			err = errStalled
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", ref, answered(err)), w.close())
	}
	w.client.Transport = rt
	return &repository{repo, w, []remote.Option{
		remote.WithTransport(rt), remote.WithUserAgent("goldsmith"),
	}}, nil
}

func (r *repository) close() error { return r.web.close() }

func (r *repository) url(kind string, h v1.Hash) string {
	return fmt.Sprintf("%s://%s/v2/%s/%s/%s", r.repo.Scheme(), r.repo.RegistryStr(), r.repo.RepositoryStr(), kind, h)
}

func (r *repository) manifest(ctx context.Context, h v1.Hash) (*stream, error) {
	return r.web.get(ctx, r.url("manifests", h), string(types.OCIManifestSchema1), 0, -1)
}

func (r *repository) blob(ctx context.Context, h v1.Hash, off, n int64) (*stream, error) {
	return r.web.get(ctx, r.url("blobs", h), "", off, n)
}

func (r *repository) signatures(ctx context.Context, image v1.Hash) ([]v1.Hash, error) {
	ctx, cancel := context.WithTimeout(ctx, r.web.timing.stall)
	defer cancel()
	index, err := remote.Referrers(r.repo.Digest(image.String()), append(r.opts, remote.WithContext(ctx))...)
	if err != nil {
		return nil, answered(err)
	}
	im, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return candidates(im.Manifests, image), nil
}
