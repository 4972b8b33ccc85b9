package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"goldsmith/internal/command"
)

// Client speaks with the server for an agent. Its methods may be called by
// several goroutines.
type Client struct {
	// Say is told when the server does not answer, and when it does again. Nil
	// means nobody is. It is set before the first call.
	Say func(format string, args ...any)

	base  *url.URL
	token Token
	http  *http.Client
	pause time.Duration // after the first failed attempt
}

// callTime bounds one attempt, maxPause the time between two.
const (
	callTime = MaxPoll + 20*time.Second
	maxPause = 10 * time.Second
)

// NewClient makes a client of the server at a URL, http or https.
func NewClient(server string, token Token) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, command.Usage(fmt.Sprintf("server %q: no URL", server), "write http://ADDRESS:PORT")
	}
	if token == "" {
		return nil, command.Usage("there is no token for the server", "")
	}
	t := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: MaxPoll + 10*time.Second,
	}
	return &Client{base: u, token: token, pause: 200 * time.Millisecond, http: &http.Client{
		Transport: t,
		// The token is for this server and no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Server is the server's address, for messages.
func (c *Client) Server() string { return c.base.Host }

// Task asks for a task other than the one with the ID after, which ended; empty
// takes any. The answer may be that there is none ([Wait]).
func (c *Client) Task(ctx context.Context, after string) (*Task, error) {
	var t Task
	err := c.insist(ctx, func(ctx context.Context) error {
		t = Task{}
		return c.call(ctx, http.MethodGet, pathTask+"?after="+url.QueryEscape(after), nil, &t)
	})
	if err == nil {
		err = t.Check()
	}
	if err != nil {
		return nil, err
	}
	return &t, nil
}

// Inventory tells what the machine has.
func (c *Client) Inventory(ctx context.Context, inv *Inventory) error {
	return c.insist(ctx, func(ctx context.Context) error {
		return c.call(ctx, http.MethodPost, pathInventory, inv, nil)
	})
}

// Result tells how a task ended. That the server knows already is no error: an
// answer was lost.
func (c *Client) Result(ctx context.Context, r *Result) error {
	tried := false
	return c.insist(ctx, func(ctx context.Context) error {
		err := c.call(ctx, http.MethodPost, pathResult, r, nil)
		if no, ok := errors.AsType[*Refusal](err); ok && tried && no.Status == http.StatusConflict {
			return nil
		}
		tried = true
		return err
	})
}

// sayAfter is how many failures in a row are worth a word.
const sayAfter = 5

// insist tries until the server answers, if by a refusal, or ctx ends.
func (c *Client) insist(ctx context.Context, try func(context.Context) error) error {
	pause := c.pause
	for failed := 1; ; failed++ {
		limited, stop := context.WithTimeout(ctx, callTime)
		err := try(limited)
		stop()
		no, refused := errors.AsType[*Refusal](err)
		if err == nil || refused && no.Status < http.StatusInternalServerError {
			if c.Say != nil && failed > sayAfter {
				c.Say("server %s answers again", c.Server())
			}
			return err
		}
		if c.Say != nil && failed == sayAfter {
			c.Say("server %s does not answer: %v; it is asked until it does", c.Server(), err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("server %s: %w", c.Server(), err)
		}
		pause = min(2*pause, maxPause)
	}
}

// call makes one attempt. in and out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	target := strings.TrimSuffix(c.base.String(), "/") + path
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+string(c.token))
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil:
		return err
	case len(b) > MaxBody:
		return fmt.Errorf("%s: an answer of more than %d bytes", path, MaxBody)
	case resp.StatusCode != http.StatusOK:
		no := &Refusal{}
		if json.Unmarshal(b, no) != nil || no.Text == "" {
			no.Text = "refused without a reason"
		}
		no.Status, no.Text = resp.StatusCode, fmt.Sprintf("%s: %.500s", path, command.Line(no.Text))
		return no
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Reach returns nil when the server can be connected to.
func (c *Client) Reach(ctx context.Context) error {
	port := c.base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[c.base.Scheme]
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(c.base.Hostname(), port))
	if err != nil {
		return err
	}
	return conn.Close()
}
