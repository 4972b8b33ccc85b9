package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/pipeline/engine"
)

// Client asks a server. It is an engine.Hub.
type Client struct {
	url   string
	token string
	http  *http.Client
}

// NewClient returns a client of the server at url. token is a file that holds
// the token and that others cannot read; ca is a file with certificates that
// count in place of the system's, empty for those. Without TLS it takes
// loopback addresses only: the token would be read on the way.
func NewClient(server, token, ca string) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, command.Usage(fmt.Sprintf("server %q: expected a URL such as https://images.example.org:8443", server), "")
	}
	if host := u.Hostname(); u.Scheme == "http" && host != "127.0.0.1" && host != "::1" && host != "localhost" {
		return nil, command.Usage(fmt.Sprintf("server %q: without TLS the token could be read on the way", server), "use https")
	}
	secret, err := readSecret(token)
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, command.BadInput(fmt.Errorf("%s: no certificate in it", ca), "expected PEM")
		}
	}
	return &Client{strings.TrimRight(server, "/"), secret, &http.Client{Transport: t}}, nil
}

func readSecret(file string) (string, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return "", command.BadInput(fmt.Errorf("%s: others can read it", file), "chmod 600 "+file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(b))
	if !strings.HasPrefix(secret, secretPrefix) {
		return "", command.BadInput(fmt.Errorf("%s: no token of imgpipe", file), "'imgpipe token add' makes one")
	}
	return secret, nil
}

// Images is the server's registry.
func (c *Client) Images() registry.Peer {
	return registry.Peer{URL: c.url, Token: c.token, Transport: c.http.Transport}
}

// Call sends in and reads the answer into out; either may be nil. limit is how
// long it may take.
func (c *Client) Call(ctx context.Context, method, path string, in, out any, limit time.Duration) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	return c.Send(ctx, method, path, body, out, limit)
}

// Send is Call with a body that is sent as it is.
func (c *Client) Send(ctx context.Context, method, path string, body io.Reader, out any, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	a, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case len(b) > maxAnswer:
		return fmt.Errorf("%s: an answer of more than %d bytes", c.url, maxAnswer)
	case a.StatusCode != http.StatusOK:
		return c.problem(a.StatusCode, b)
	case out == nil:
		return nil
	}
	return json.Unmarshal(b, out)
}

const maxAnswer = 64 << 20

// Copy has an answer that is no JSON read by take, and returns how many bytes
// it had.
func (c *Client) Copy(ctx context.Context, path string, limit time.Duration, take func(io.Reader) error) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	a, err := c.http.Do(r)
	if err != nil {
		return 0, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
		return 0, errors.Join(err, c.problem(a.StatusCode, b))
	}
	var n counter
	err = take(io.TeeReader(a.Body, &n))
	return int64(n), err
}

type counter int64

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// problem is the error that an answer tells of.
func (c *Client) problem(status int, body []byte) error {
	var p Problem
	if json.Unmarshal(body, &p) != nil || p.Error == "" {
		p.Error = http.StatusText(status)
	}
	err := fmt.Errorf("%s: %s", c.url, command.Plain(p.Error))
	err = &answered{err, status}
	hint := command.Plain(p.Hint)
	switch {
	case status == http.StatusGone:
		return errors.Join(engine.ErrLost, err)
	case status == http.StatusConflict:
		return command.Busy(err, hint)
	case Temporary(err):
		return command.Hint(err, hint)
	}
	return command.BadInput(err, hint)
}

// answered is an error that a server told of.
type answered struct {
	error
	status int
}

func (a *answered) Unwrap() error { return a.error }

// Temporary tells whether what failed may go well when it is tried again: the
// server or the network has a problem.
func Temporary(err error) bool {
	if a, ok := errors.AsType[*answered](err); ok {
		return a.status >= http.StatusInternalServerError || a.status == http.StatusTooManyRequests
	}
	return registry.Temporary(err)
}

// Missing tells whether the server does not have what it was asked for.
func Missing(err error) bool {
	a, ok := errors.AsType[*answered](err)
	return ok && a.status == http.StatusNotFound
}

// slack is how much longer than it waits an answer may take.
const slack = 20 * time.Second

// Claim implements engine.Hub.
func (c *Client) Claim(ctx context.Context, w engine.WorkerInfo, wait time.Duration) (*engine.Assignment, error) {
	var out Claimed
	err := c.Call(ctx, http.MethodPost, "/v1/work/claim", Claim{w, wait.Seconds()}, &out, wait+slack)
	return out.Assignment, err
}

// Beat implements engine.Hub.
func (c *Client) Beat(ctx context.Context, attempt int64, progress string, wait time.Duration) (o engine.Order, err error) {
	err = c.Call(ctx, http.MethodPost, fmt.Sprintf("/v1/work/%d/beat", attempt), Beat{progress, wait.Seconds()}, &o, wait+slack)
	return o, err
}

// Finish implements engine.Hub.
func (c *Client) Finish(ctx context.Context, attempt int64, r engine.Result) error {
	return c.Call(ctx, http.MethodPost, fmt.Sprintf("/v1/work/%d/finish", attempt), r, nil, slack)
}

// Leave implements engine.Hub.
func (c *Client) Leave(ctx context.Context, _ string) error {
	return c.Call(ctx, http.MethodPost, "/v1/work/leave", nil, nil, slack)
}

var _ engine.Hub = (*Client)(nil)
