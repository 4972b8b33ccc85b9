package collectcfg

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what a server may do to us.
const (
	maxBody      = maxFile
	maxHeaders   = 256 << 10
	maxRedirects = 5
	// bodyTime is how many times its time to begin an answer a server has to
	// finish it.
	bodyTime = 6
)

// web asks servers. Answers are bounded in size and time, redirections lead to
// the same server only, and no error tells a query or a password: they hold
// keys and signatures.
type web struct {
	client   *http.Client
	timeout  time.Duration // until an answer begins
	original bool
}

// newWeb makes a client. caFile names certificates to trust instead of the
// system's; empty: the system's. As the original, it follows redirections
// wherever they lead.
func newWeb(timeout time.Duration, caFile string, original bool) (*web, error) {
	t := &http.Transport{
		Proxy: proxy(original), MaxResponseHeaderBytes: maxHeaders, MaxIdleConns: 1,
		IdleConnTimeout: time.Minute, TLSHandshakeTimeout: timeout,
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", caFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	c := &http.Client{Transport: t, CheckRedirect: func(next *http.Request, before []*http.Request) error {
		first := before[0].URL
		switch {
		case len(before) > maxRedirects:
			return errors.New("too many redirections")
		case !original && (next.URL.Host != first.Host || next.URL.Scheme != first.Scheme):
			return fmt.Errorf("a redirection to %s, another server", plainURL(next.URL))
		}
		return nil
	}}
	return &web{c, timeout, original}, nil
}

// proxy chooses as the environment says; but nothing that is on the machine's
// own link, as metadata services are, unless as the original.
func proxy(original bool) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil && ip.IsLinkLocalUnicast() && !original {
			return nil, nil
		}
		return http.ProxyFromEnvironment(r)
	}
}

// request makes a request without a body.
func (w *web) request(ctx context.Context, method, address string) (*http.Request, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("not the URL of an HTTP server") // the error would tell the URL
	}
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, errors.New("not the URL of an HTTP server")
	}
	req.Header.Set("User-Agent", "goldsmith-collectcfg")
	return req, nil
}

// answer is what a server said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// text is the body as text, decoded as the server says. Text without a
// declared character set is Latin-1 for the original and UTF-8 for us.
func (a *answer) text(original bool) string {
	kind := strings.ToLower(a.header.Get("Content-Type"))
	latin := strings.Contains(kind, "charset=iso-8859-1") || strings.Contains(kind, "charset=latin-1") ||
		original && strings.HasPrefix(kind, "text/") && !strings.Contains(kind, "charset=")
	if !latin {
		return strings.ToValidUTF8(string(a.body), string(utf8.RuneError))
	}
	var b strings.Builder
	for _, c := range a.body {
		b.WriteRune(rune(c))
	}
	return b.String()
}

// do sends a request and reads the whole answer, beginning within the
// timeout beyond extra. Every error is temporary, also a status that is
// neither 2xx nor one of allowed.
func (w *web) do(req *http.Request, extra time.Duration, allowed ...int) (*answer, error) {
	most := extra + bodyTime*w.timeout
	ctx, cancel := context.WithTimeoutCause(req.Context(), most, errors.New("the answer takes too long"))
	defer cancel()
	begun := time.AfterFunc(extra+w.timeout, cancel)
	resp, err := w.client.Do(req.WithContext(ctx))
	late := !begun.Stop()
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL
		}
		if late && req.Context().Err() == nil {
			err = fmt.Errorf("no answer within %s", extra+w.timeout)
		}
		return nil, temporary{fmt.Errorf("%s %s: %w", req.Method, plainURL(req.URL), err)}
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode, header: resp.Header}
	good := a.status >= 200 && a.status < 300
	for _, s := range allowed {
		good = good || a.status == s
	}
	if !good {
		return a, temporary{fmt.Errorf("%s %s: %s", req.Method, plainURL(req.URL), resp.Status)}
	}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && len(a.body) > maxBody {
		err = fmt.Errorf("more than %d MiB", maxBody>>20)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, temporary{fmt.Errorf("%s %s: %w", req.Method, plainURL(req.URL), err)}
	}
	return a, nil
}

// plainURL is a URL without what may be secret.
func plainURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// unprintable is what no token holds.
func unprintable(r rune) bool { return r <= ' ' || r > '~' }
