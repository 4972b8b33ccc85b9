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
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// Signal is where and as whom a machine reports that its configuration ended.
type Signal struct {
	URL      string
	Token    string // a bearer token; never printed
	Instance string
}

// SignalFrom reads the metadata keys completion-signal, completion-token and
// instance-id. ok is false when there is nowhere to report to.
func SignalFrom(doc *metadata.Object) (s Signal, ok bool) {
	s.URL, _ = doc.Text("completion-signal")
	s.Token, _ = doc.Text("completion-token")
	s.Instance, _ = doc.Text("instance-id")
	return s, s.URL != ""
}

// report is the body, as Heat's wait conditions expect it.
type report struct {
	Status   string // SUCCESS or FAILURE
	Reason   string
	UniqueID string `json:"UniqueId"`
	Data     string
}

// maxReason bounds what is told of a failure.
const maxReason = 2000

func (s Signal) body(failed error) []byte {
	r := report{"SUCCESS", "Configuration complete", s.Instance, "refreshcfg ran every phase"}
	if failed != nil {
		r.Status, r.Reason, r.Data = "FAILURE", failed.Error(), "refreshcfg stopped at the first failure"
		if f, ok := errors.AsType[*Failure](failed); ok {
			r.Reason = f.Reason()
		}
		if s.Token != "" {
			r.Reason = strings.ReplaceAll(r.Reason, s.Token, "(token)")
		}
		if len(r.Reason) > maxReason {
			r.Reason = strings.ToValidUTF8(r.Reason[:maxReason], "")
		}
	}
	b, _ := json.Marshal(r) // strings always marshal
	return b
}

// Retries: all attempts together take at most a minute.
const (
	signalTotal   = 60 * time.Second
	signalAttempt = 15 * time.Second
	firstPause    = time.Second
	longestPause  = 8 * time.Second
)

// Send reports the end of a run, failed being its error. What may pass by
// itself, no connection or a 5xx answer, is tried again for up to a minute; any other
// answer than 2xx is final.
func (s Signal) Send(ctx context.Context, failed error) error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return command.BadInput(errors.New("completion-signal: not an http or https URL"), "mend the metadata")
	}
	ctx, cancel := context.WithTimeout(ctx, signalTotal)
	defer cancel()
	body := s.body(failed)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		again, err := s.post(ctx, body)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("completion signal to %s: %w", u.Host, err)
		if !again {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// post tries once and says whether another try may help.
func (s Signal) post(ctx context.Context, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, signalAttempt)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return false, errors.New("the request cannot be made; is the URL right?")
	}
	req.Header.Set("Content-Type", "application/json")
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
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
		return true, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	return resp.StatusCode >= 500, fmt.Errorf("answer %s", resp.Status)
}
