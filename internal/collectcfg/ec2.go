package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"goldsmith/internal/metadata"
)

// EC2 reads the metadata service of EC2 and of those that imitate it, or what
// a config drive has of it. It is asked until it has answered once: an
// instance's metadata do not change while it runs.
type EC2 struct {
	URL     string // without a slash at the end
	Timeout time.Duration
	// Original asks without a token, reads everything, and lets a cached
	// document win for ever.
	Original bool
	Cache    *Cache

	devices blockDevices
	web     *web
	token   string
	docs    []Document
}

// Limits of the tree that a metadata service may be.
const (
	ec2Depth    = 12
	ec2Requests = 2000
	ec2Bytes    = maxFile
	// ec2TokenTime is how long a service has to answer for a token: one that
	// has none often says nothing.
	ec2TokenTime = 2 * time.Second
)

// Notify never wakes: see EC2.
func (e *EC2) Notify(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// Collect delivers one document, "ec2".
func (e *EC2) Collect(ctx context.Context) ([]Document, error) {
	if e.docs != nil {
		return e.docs, nil
	}
	if e.Original {
		if docs := e.Cache.cached("ec2"); docs != nil {
			return docs, nil
		}
	}
	var docs []Document
	err := e.devices.with(configLabel, func(_ string, v volume) error {
		data, err := v.ReadFile(ec2OnDrive, maxFile)
		if err != nil {
			return err
		}
		if d := document("ec2", data); !falsy(d.Value) {
			docs = []Document{d}
		}
		return nil
	})
	if docs == nil { // whatever a drive lacks, the service may have
		tree, err2 := e.ask(ctx)
		if err2 != nil {
			if err != nil && !IsUnavailable(err) {
				err2 = temporary{fmt.Errorf("%w; and %w", err2, err)}
			}
			return nil, err2
		}
		docs = []Document{{Name: "ec2", Value: tree}}
	}
	e.docs = docs
	return docs, nil
}

// walk is one reading of the service.
type walk struct {
	*EC2
	ctx             context.Context
	requests, bytes int
}

func (e *EC2) ask(ctx context.Context) (any, error) {
	if e.web == nil {
		w, err := newWeb(e.Timeout, "", e.Original)
		if err != nil {
			return nil, err
		}
		e.web = w
	}
	if !e.Original {
		if err := e.getToken(ctx); err != nil {
			return nil, err
		}
	}
	return (&walk{EC2: e, ctx: ctx}).directory(e.URL+"/", 0)
}

// getToken asks for a session token (IMDSv2). A service that has none is
// asked without.
func (e *EC2) getToken(ctx context.Context) error {
	e.token = ""
	u, err := url.Parse(e.URL)
	if err != nil {
		return temporary{errors.New("not the URL of an HTTP server")}
	}
	u = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/latest/api/token"}
	req, err := e.web.request(ctx, http.MethodPut, u.String())
	if err != nil {
		return temporary{err}
	}
	req.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "600")
	quick := *e.web
	quick.timeout = min(quick.timeout, ec2TokenTime)
	a, err := quick.do(req, 0)
	if err != nil || len(a.body) > 1024 || strings.ContainsFunc(string(a.body), unprintable) {
		return ctx.Err()
	}
	e.token = string(a.body)
	return nil
}

// get reads one URL of the service.
func (w *walk) get(address string) (string, error) {
	if w.requests++; w.requests > ec2Requests {
		return "", temporary{fmt.Errorf("%s: more than %d values", w.EC2.URL, ec2Requests)}
	}
	req, err := w.web.request(w.ctx, http.MethodGet, address)
	if err != nil {
		return "", temporary{err}
	}
	if w.token != "" {
		req.Header.Set("X-Aws-Ec2-Metadata-Token", w.token)
	}
	a, err := w.web.do(req, 0)
	if err != nil {
		return "", err
	}
	if w.bytes += len(a.body); w.bytes > ec2Bytes {
		return "", temporary{fmt.Errorf("%s: more than %d MiB", w.EC2.URL, ec2Bytes>>20)}
	}
	return a.text(w.Original), nil
}

// directory reads everything below a URL that ends with a slash.
func (w *walk) directory(address string, depth int) (any, error) {
	list, err := w.get(address)
	if err != nil {
		return nil, err
	}
	if depth >= ec2Depth {
		return nil, temporary{fmt.Errorf("%s: nested too deeply", w.EC2.URL)}
	}
	tree := &metadata.Object{}
	for _, line := range strings.Split(list, "\n") {
		key, isDir, ok := ec2Key(line)
		if !ok || !w.Original && ec2Rotates(address+line) {
			continue
		}
		var value any
		if isDir {
			value, err = w.directory(address+key+"/", depth+1)
		} else {
			value, err = w.get(address + key)
		}
		if err != nil {
			return nil, err
		}
		tree.Set(key, value)
	}
	return tree, nil
}

// ec2Key is what a line of a listing names: "name", "name/", or "0=name" for
// the directory "0". What could lead elsewhere is passed over.
func ec2Key(line string) (key string, isDir, ok bool) {
	key, _, numbered := strings.Cut(strings.TrimSuffix(line, "\r"), "=")
	key, slash := strings.CutSuffix(key, "/")
	bad := key == "" || key == "." || key == ".." || len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(`/\?#%`, r)
	})
	return key, numbered || slash, !bad
}

// ec2Rotates says that what is below a URL changes by itself: keys that the
// service renews, which are fetched where they are needed and not kept on disk.
func ec2Rotates(address string) bool {
	return strings.Contains(address, "/iam/security-credentials") ||
		strings.Contains(address, "/identity-credentials/ec2")
}
