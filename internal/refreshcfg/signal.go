package refreshcfg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// outcome is how a run ended, as Heat's wait conditions word it.
type outcome struct {
	Status   string // SUCCESS or FAILURE
	Reason   string
	UniqueID string `json:"UniqueId"`
	Data     string
}

// maxReason bounds what is told of a failure, in bytes.
const maxReason = 2000

// outcomeOf words the end of a run, failed being its error. What is secret is
// taken out.
func outcomeOf(failed error, instance, secret string) outcome {
	o := outcome{"SUCCESS", "Configuration complete", instance, "refreshcfg ran every phase"}
	if failed == nil {
		return o
	}
	o.Status, o.Reason, o.Data = "FAILURE", failed.Error(), "refreshcfg stopped at the first failure"
	if f, ok := errors.AsType[*Failure](failed); ok {
		o.Reason = f.Reason()
	}
	if secret != "" {
		o.Reason = strings.ReplaceAll(o.Reason, secret, "(token)")
	}
	if len(o.Reason) > maxReason {
		o.Reason = strings.ToValidUTF8(o.Reason[:maxReason], "")
	}
	return o
}

// message is one thing to tell a server.
type message struct {
	what        string // for people: "completion signal"
	method, url string
	token       string // a bearer token; never printed
	body        []byte
	only200     bool         // Heat's handles answer nothing else when they took it
	taken       func() error // remembers that it was told; may be nil
}

// host is where a message goes, as people may be told: the rest of a URL may
// be a secret.
func (m *message) host() string {
	if u, err := url.Parse(m.url); err == nil {
		return u.Host
	}
	return "its URL"
}

// How messages are sent: all of them in at most a minute, and each once before
// any is tried again.
const (
	signalTotal   = 60 * time.Second
	signalAttempt = 15 * time.Second
	firstPause    = time.Second
	longestPause  = 8 * time.Second
)

// deliver sends messages. What may pass by itself, no connection or a 5xx
// answer, is tried again until the time is over. The error names what did not
// arrive; it is an offline error where a server was not reached.
func deliver(ctx context.Context, list []message, total time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, total)
	defer cancel()
	var final []error
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		var open []message
		var errs []error
		for _, m := range list {
			again, err := m.post(ctx)
			switch {
			case err == nil && m.taken != nil:
				err = m.taken()
				fallthrough
			case err == nil || !again:
				final = append(final, err)
			default:
				open, errs = append(open, m), append(errs, err)
			}
		}
		if list = open; len(list) == 0 {
			return errors.Join(final...)
		}
		select {
		case <-ctx.Done():
			return errors.Join(append(final, errs...)...)
		case <-time.After(pause):
		}
	}
}

// offline marks that a server was not reached.
type offline struct{ error }

func (o offline) Unwrap() error { return o.error }

// post tries once and says whether another try may help.
func (m *message) post(ctx context.Context) (again bool, err error) {
	u, err := url.Parse(m.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return false, command.BadInput(fmt.Errorf("%s: not an http or https URL", m.what), "mend the metadata")
	}
	ctx, cancel := context.WithTimeout(ctx, signalAttempt)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, m.method, m.url, bytes.NewReader(m.body))
	if err != nil {
		return false, fmt.Errorf("%s: the request cannot be made; is the URL right?", m.what)
	}
	req.Header.Set("Content-Type", "application/json")
	if m.token != "" {
		req.Header.Set("Authorization", "Bearer "+m.token)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the token is for this address only
	}}
	resp, err := client.Do(req)
	if err != nil {
		// The URL may hold a secret too: of the error, only the cause.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return true, offline{fmt.Errorf("%s to %s: %w", m.what, m.host(), err)}
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode == http.StatusOK || resp.StatusCode/100 == 2 && !m.only200 {
		return false, nil
	}
	again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
	return again, fmt.Errorf("%s to %s: answer %s", m.what, m.host(), resp.Status)
}

// Console is where people look at a machine without a network.
const Console = "/dev/console"

// show prints an outcome where somebody may see it. It never waits.
func (o outcome) show(console string) {
	f, err := os.OpenFile(console, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return // a container has none
	}
	defer f.Close()
	reason := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' ' // what a terminal would obey
		}
		return r
	}, o.Reason)
	fmt.Fprintf(f, "refreshcfg: %s: %s (could not be reported: no network)\n", o.Status, reason)
}

// fileName makes a file name of an identifier from somewhere: what could lead
// out of a directory or hide a file is written %XX.
func fileName(id string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
	var b strings.Builder
	for i, c := range []byte(id) {
		if strings.IndexByte(plain, c) < 0 || c == '.' && i == 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	if name := b.String(); len(name) <= 200 {
		return name
	}
	return sum([]byte(id))
}

// marshal is JSON of plain structs, which always can be.
func marshal(v any) []byte {
	b, _ := json.Marshal(v)
	return slices.Clip(b)
}
