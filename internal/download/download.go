// Package download brings what a URL names into a file, and leaves the file
// alone when the server has nothing newer: the file is the cache.
//
// It is cache-url of diskimage-builder without curl: HTTP, HTTPS and local
// files. The file appears by rename when everything has arrived; a download
// that breaks off leaves the old one, and so does one that is not what somebody
// said it would be.
package download

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
)

// Outcome is what a download came to.
type Outcome int

// Outcomes of a download.
const (
	First     Outcome = iota // there was no file
	Forced                   // fetched without asking whether it is newer
	Changed                  // the server's was newer
	Unchanged                // the file is as new as the server's
	Empty                    // the server sent nothing; the file was kept
)

// ErrNotFound is what the server has no file for (HTTP status 404), or what
// is no file here.
var ErrNotFound = errors.New("not found")

// DigestError says that something else came than what had to.
type DigestError struct{ Got, Want string } // SHA-256, hexadecimal

func (e *DigestError) Error() string {
	return fmt.Sprintf("the content has SHA-256 %s, not %s", e.Got, e.Want)
}

// Getter downloads. The zero value is ready to use.
type Getter struct {
	Force bool          // ask the server, and all caches on the way, for a new copy
	Tries int           // how often a failure that may pass is met; 0 means 4
	Delay time.Duration // between tries; 0 means 30 seconds
	// Backoff makes each delay twice as long as the one before.
	Backoff bool
	Limit   int64  // most bytes that are taken; 0 means any number
	SHA256  string // hexadecimal, of what must come; empty means anything may
	Final   bool   // something else than SHA256 is not asked for again
	// Retrying is told of each failure that is followed by another try; nil
	// means nobody is.
	Retrying func(err error)
}

// connectTimeout bounds the wait for a server that does not answer. The
// transfer itself may take as long as it needs.
const connectTimeout = 10 * time.Second

// Get brings rawURL into the file dest, whose directory is made when it is not
// there. A dest that is a named pipe gets the content written to it. Errors
// name the URL without its password.
func (g *Getter) Get(ctx context.Context, rawURL, dest string) (Outcome, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return 0, command.BadInput(errors.New("not a URL"), "expected http://, https:// or file:///path")
	}
	fi, err := os.Stat(dest)
	if err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	if err == nil && fi.IsDir() {
		return 0, command.BadInput(fmt.Errorf("%s: is a directory", dest), "name the file to write")
	}
	t := transfer{getter: g, url: u, dest: dest}
	switch {
	case err != nil:
	case fi.Mode()&os.ModeNamedPipe != 0:
		t.pipe = true
	case fi.Size() > 0 && !g.Force:
		t.since = fi.ModTime()
	}
	out, err := t.run(ctx)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", u.Redacted(), err)
	}
	return out, nil
}

// transfer is one Get.
type transfer struct {
	getter *Getter
	url    *url.URL
	dest   string
	pipe   bool
	since  time.Time // of the file that is there; zero when there is none
}

// errTransient marks a failure that another try may not meet.
type errTransient struct{ error }

func (e errTransient) Unwrap() error { return e.error }

// run tries until it works, fails for good, or has been tried often enough.
func (t *transfer) run(ctx context.Context) (Outcome, error) {
	tries, delay := t.getter.Tries, t.getter.Delay
	if tries == 0 {
		tries = 4
	}
	if delay == 0 {
		delay = 30 * time.Second
	}
	for try := 1; ; try++ {
		out, err := t.once(ctx)
		if _, again := errors.AsType[errTransient](err); !again || try >= tries || ctx.Err() != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return out, err
		}
		if t.getter.Retrying != nil {
			t.getter.Retrying(fmt.Errorf("%s: %w", t.url.Redacted(), err))
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(delay):
		}
		if t.getter.Backoff {
			delay *= 2
		}
	}
}

func (t *transfer) once(ctx context.Context) (Outcome, error) {
	body, modified, out, err := t.open(ctx)
	if err != nil || out == Unchanged {
		return out, err
	}
	defer body.Close()
	if t.pipe {
		return out, t.toPipe(body)
	}
	if err := os.MkdirAll(filepath.Dir(t.dest), 0o755); err != nil {
		return 0, err
	}
	f, err := atomicfile.Create(t.dest, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Abort()
	n, err := t.receive(f, body)
	if err != nil {
		return 0, err
	}
	if n == 0 && !t.since.IsZero() {
		return Empty, nil
	}
	if err := f.Commit(); err != nil {
		return 0, err
	}
	if !modified.IsZero() {
		// The next question is "newer than this?": the server's own word for
		// the time does not depend on the clock here.
		return out, os.Chtimes(t.dest, modified, modified)
	}
	return out, nil
}

// receive copies what comes and compares it with what may come. A proxy that
// gave something else may give the right thing the next time.
func (t *transfer) receive(w io.Writer, body io.Reader) (int64, error) {
	limit, want := t.getter.Limit, t.getter.SHA256
	if limit > 0 {
		body = io.LimitReader(body, limit+1)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), body)
	switch got := hex.EncodeToString(sum.Sum(nil)); {
	case err != nil:
		return n, errTransient{err}
	case limit > 0 && n > limit:
		return n, errTransient{fmt.Errorf("more than %d bytes", limit)}
	case want != "" && got != want:
		err := error(&DigestError{Got: got, Want: want})
		if !t.getter.Final {
			err = errTransient{err}
		}
		return n, err
	}
	return n, nil
}

// toPipe writes to a named pipe what has arrived as a whole: whoever reads
// there must not see half of it.
func (t *transfer) toPipe(body io.Reader) error {
	tmp, err := os.CreateTemp("", "download")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := t.receive(tmp, body); err != nil {
		return err
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	pipe, err := os.OpenFile(t.dest, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(pipe, tmp)
	return errors.Join(err, pipe.Close())
}

// open asks for the content, which the caller closes, unless it is Unchanged.
func (t *transfer) open(ctx context.Context) (io.ReadCloser, time.Time, Outcome, error) {
	out := First
	switch {
	case t.getter.Force:
		out = Forced
	case !t.since.IsZero():
		out = Changed
	}
	switch t.url.Scheme {
	case "file":
		return t.openFile(out)
	case "http", "https":
		return t.openHTTP(ctx, out)
	}
	return nil, time.Time{}, 0, command.BadInput(fmt.Errorf("scheme %q is not known", t.url.Scheme),
		"expected http://, https:// or file:///path")
}

func (t *transfer) openFile(out Outcome) (io.ReadCloser, time.Time, Outcome, error) {
	none := time.Time{}
	f, err := os.Open(t.url.Path)
	if os.IsNotExist(err) {
		return nil, none, 0, ErrNotFound
	}
	if err != nil {
		return nil, none, 0, err
	}
	fi, err := f.Stat()
	if err != nil || fi.IsDir() {
		return nil, none, 0, errors.Join(err, f.Close(), errors.New("is a directory"))
	}
	if !t.since.IsZero() && !fi.ModTime().After(t.since) {
		return nil, none, Unchanged, f.Close()
	}
	return f, fi.ModTime(), out, nil
}

// client keeps connections only as long as one download follows another.
var client = &http.Client{Transport: &http.Transport{
	Proxy:               http.ProxyFromEnvironment,
	DialContext:         (&net.Dialer{Timeout: connectTimeout}).DialContext,
	TLSHandshakeTimeout: connectTimeout,
	MaxIdleConnsPerHost: 8,
	IdleConnTimeout:     2 * time.Second,
}}

func (t *transfer) openHTTP(ctx context.Context, out Outcome) (io.ReadCloser, time.Time, Outcome, error) {
	none := time.Time{}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), nil)
	if err != nil {
		return nil, none, 0, err
	}
	// A file that was compressed on the way is not the server's file.
	req.Header.Set("Accept-Encoding", "identity")
	if t.getter.Force {
		req.Header.Set("Pragma", "no-cache, must-revalidate")
		req.Header.Set("Cache-Control", "no-cache, must-revalidate")
	}
	if !t.since.IsZero() {
		req.Header.Set("If-Modified-Since", t.since.UTC().Format(http.TimeFormat))
	}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // it names the URL, which Get does
		}
		return nil, none, 0, errTransient{err}
	}
	switch code := resp.StatusCode; code {
	case http.StatusOK:
		modified, _ := http.ParseTime(resp.Header.Get("Last-Modified"))
		return resp.Body, modified, out, nil
	case http.StatusNotModified:
		return nil, none, Unchanged, resp.Body.Close()
	case http.StatusNotFound:
		return nil, none, 0, errors.Join(ErrNotFound, resp.Body.Close())
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil, none, 0, errTransient{errors.Join(unexpected(code), resp.Body.Close())}
	default:
		return nil, none, 0, errors.Join(unexpected(code), resp.Body.Close())
	}
}

func unexpected(code int) error { return fmt.Errorf("the server answered with status %d", code) }
