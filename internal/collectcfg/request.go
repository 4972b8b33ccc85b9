package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/metadata"
)

// Request reads an object from a server (docs/formats.md, "Metadata over
// HTTP"). A server that can is asked to answer when the object has changed;
// others are polled, and need not send what they have sent before.
type Request struct {
	Name      string // of the source and of its document
	URL       string // empty: Seed says
	TokenFile string // of a bearer token; empty: Seed says, or none
	CAFile    string
	Timeout   time.Duration
	Keys      []string // of deployments
	// Seed is where URL and token are taken from that are not set: the keys
	// metadata-url and metadata-token of what it read last. nil: nowhere.
	Seed *NoCloud
	// Original sends a HEAD request first, every time, and reads everything.
	Original bool

	web  *web
	docs []Document

	mu      sync.Mutex // guards the fields below
	asked   target     // as it was last asked
	fetched chan struct{}
}

// target is what is asked, and what is known of its answer.
type target struct{ url, token, etag, modified string }

// longPoll is how long a server is asked to wait for a change. Servers and
// what is between may close connections that are silent for longer.
const longPoll = 50 * time.Second

// longPollPause is the pause after such a request that brought nothing, for
// servers that do not do as they say; changePause the least time from one that
// brought a change to the next.
const (
	longPollPause = time.Second
	changePause   = 250 * time.Millisecond
)

// target finds out where to ask.
func (q *Request) target() (target, error) {
	t := target{url: q.URL}
	if q.Seed != nil && t.url == "" {
		t.url, _ = q.Seed.last.Text("metadata-url")
	}
	if t.url == "" {
		return t, unconfigured{errors.New("no URL is set")}
	}
	if q.TokenFile != "" {
		b, err := readBounded(unix.AT_FDCWD, q.TokenFile, 0)
		if err != nil {
			return t, temporary{err}
		}
		t.token = strings.TrimSpace(string(b))
	} else if q.Seed != nil {
		t.token, _ = q.Seed.last.Text("metadata-token")
	}
	if strings.ContainsFunc(t.token, unprintable) {
		return t, temporary{errors.New("the token is no token: a letter is not printable ASCII")}
	}
	return t, nil
}

func (q *Request) client() (*web, error) {
	if q.web != nil {
		return q.web, nil
	}
	w, err := newWeb(q.Timeout, q.CAFile, q.Original)
	if err != nil {
		return nil, temporary{err}
	}
	q.web = w
	return w, nil
}

// ask asks for what is new since the last answer, waiting for it at most so
// long.
func (q *Request) ask(ctx context.Context, w *web, t target, wait time.Duration) (*answer, error) {
	req, err := w.request(ctx, http.MethodGet, t.url)
	if err != nil {
		return nil, temporary{err}
	}
	set := func(name, value string) {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if t.token != "" {
		set("Authorization", "Bearer "+t.token)
	}
	set("If-None-Match", t.etag)
	set("If-Modified-Since", t.modified)
	if wait > 0 {
		set("Prefer", fmt.Sprintf("wait=%d", int(wait.Seconds())))
	}
	return w.do(req, wait, http.StatusNotModified)
}

// Collect delivers one document of the source's name, and one for each
// deployment in it.
func (q *Request) Collect(ctx context.Context) ([]Document, error) {
	t, err := q.target()
	if err != nil {
		return nil, err
	}
	w, err := q.client()
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	if t.url == q.asked.url && t.token == q.asked.token && q.docs != nil && !q.Original {
		t = q.asked
	}
	q.mu.Unlock()
	if q.Original {
		if err := head(ctx, w, t.url); err != nil {
			return nil, err
		}
	}
	a, err := q.ask(ctx, w, t, 0)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusNotModified {
		v, err := metadata.Parse(q.Name, []byte(a.text(q.Original)))
		if err != nil {
			return nil, temporary{fmt.Errorf("what the server sends is no JSON: %w", err)}
		}
		o, ok := v.(*metadata.Object)
		if !ok {
			return nil, temporary{errors.New("what the server sends is no object")}
		}
		docs, err := explode(q.Name, o, q.Keys)
		if err != nil {
			return nil, err
		}
		q.docs = docs
		t.etag, t.modified = a.header.Get("Etag"), a.header.Get("Last-Modified")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = t
	select {
	case q.answered() <- struct{}{}:
	default:
	}
	return q.docs, nil
}

// Follows says that the source learns from c where to ask.
func (q *Request) Follows(c Collector) bool {
	seed, ok := c.(*NoCloud)
	return ok && seed == q.Seed
}

// answered delivers when Collect has had an answer. The lock is held.
func (q *Request) answered() chan struct{} {
	if q.fetched == nil {
		q.fetched = make(chan struct{}, 1)
	}
	return q.fetched
}

// head sends the request by which the original learns nothing that it uses.
func head(ctx context.Context, w *web, address string) error {
	req, err := w.request(ctx, http.MethodHead, address)
	if err != nil {
		return temporary{err}
	}
	once := *w.client
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a, err := (&web{&once, w.timeout, w.original}).do(req, 0)
	if a != nil { // whatever the status
		return nil
	}
	return err
}

// Notify asks the server to answer when something changes (RFC 7240,
// "Prefer: wait"), as long as it says that it does.
func (q *Request) Notify(ctx context.Context, wake func()) error {
	q.mu.Lock()
	answered := q.answered()
	q.mu.Unlock()
	wake()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-answered:
		}
		q.mu.Lock()
		t := q.asked
		q.mu.Unlock()
		if t.etag == "" && t.modified == "" {
			return errPolled
		}
		w, err := newWeb(q.Timeout, q.CAFile, q.Original)
		if err != nil {
			return err
		}
		if err := q.await(ctx, w, t); err != nil {
			return err
		}
		w.client.CloseIdleConnections()
		if ctx.Err() != nil {
			return nil
		}
		wake() // and go on when that has been answered
	}
}

// errPolled says that a server is to be polled, which nobody needs to be told.
var errPolled = errors.New("")

// await returns when the server has something new, or cannot be asked, which
// Collect then says.
func (q *Request) await(ctx context.Context, w *web, t target) error {
	for {
		began := time.Now()
		a, err := q.ask(ctx, w, t, longPoll)
		if err == nil && a.status == http.StatusNotModified && !strings.Contains(a.header.Get("Preference-Applied"), "wait") {
			return errPolled
		}
		pause := longPollPause
		if err == nil && a.status != http.StatusNotModified &&
			(a.header.Get("Etag") != t.etag || a.header.Get("Last-Modified") != t.modified) {
			pause = max(0, changePause-time.Since(began))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if err != nil || a.status != http.StatusNotModified {
			return nil
		}
	}
}
