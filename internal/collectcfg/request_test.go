package collectcfg

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// transport answers without a network.
type transport func(*http.Request) *http.Response

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r), nil }

// A change is told at once, but not more than a few times a second; what is no
// change is asked for with a pause.
func TestLongPollPauses(t *testing.T) {
	for name, tc := range map[string]struct {
		takes  time.Duration // until the answer
		status int
		etag   string
		want   time.Duration // until it is told
	}{
		"a change":           {10 * time.Second, http.StatusOK, "new", 10 * time.Second},
		"a quick change":     {10 * time.Millisecond, http.StatusOK, "new", changePause},
		"the same again":     {0, http.StatusOK, "old", longPollPause},
		"an error":           {0, http.StatusInternalServerError, "new", longPollPause},
		"an error after all": {5 * time.Second, http.StatusBadGateway, "", 5*time.Second + longPollPause},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := transport(func(r *http.Request) *http.Response {
				time.Sleep(tc.takes)
				return &http.Response{
					StatusCode: tc.status, Header: http.Header{"Etag": {tc.etag}}, Body: io.NopCloser(strings.NewReader("{}")), Request: r,
				}
			})
			q, w := &Request{Name: "x"}, &web{client: &http.Client{Transport: server}, timeout: time.Minute}
			began := time.Now()
			if err := q.await(t.Context(), w, target{url: "http://server/", etag: "old"}); err != nil {
				t.Errorf("%s: await = %v", name, err)
			}
			if took := time.Since(began); took != tc.want {
				t.Errorf("%s: told after %s, want %s", name, took, tc.want)
			}
		})
	}
}
