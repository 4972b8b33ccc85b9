package machineapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type caller struct {
	t      *testing.T
	server *httptest.Server
}

// serve makes a server with an image layout, and its machine m-1.
func serve(t *testing.T) (*caller, *Machine) {
	t.Helper()
	images := t.TempDir()
	for name, text := range map[string]string{"index.json": "{}", "lock": "secret", "blobs/sha256/" + strings.Repeat("a", 64): "0123456789"} {
		path := filepath.Join(images, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(images, "blobs/sha256", strings.Repeat("b", 64))); err != nil {
		t.Fatal(err)
	}
	c := &caller{t: t}
	var s *Server
	c.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(w, r) }))
	t.Cleanup(c.server.Close)
	s = New(c.server.URL, images)
	m, err := s.Add("m-1", map[string]any{"redis": map[string]any{"port": 6380}, "completion-token": "mine"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add("m-1", nil); err == nil {
		t.Error("two machines have one instance id")
	}
	return c, m
}

func (c *caller) do(method, path, body string, header ...string) (int, http.Header, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.server.URL+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.server.Client().Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func TestSignals(t *testing.T) {
	c, m := serve(t)
	const url = "/v1/signal/m-1"
	good := `{"Status":"SUCCESS","Reason":"Configuration complete","UniqueId":"m-1","Data":"x"}`
	bearer := "Bearer " + m.Token
	for _, tt := range []struct {
		name, method, url, token, body string
		want                           int
	}{
		{"no token", "POST", url, "", good, 403},
		{"no bearer", "POST", url, m.Token, good, 403},
		{"another token", "POST", url, "Bearer x" + m.Token, good, 403},
		{"another machine", "POST", "/v1/signal/m-2", bearer, good, 403},
		{"not JSON", "POST", url, bearer, "{", 400},
		{"no status", "POST", url, bearer, `{"Status":"MAYBE"}`, 400},
		{"another id", "POST", url, bearer, strings.Replace(good, "m-1", "m-2", 1), 400},
		{"too large", "POST", url, bearer, `{"Data":"` + strings.Repeat("x", maxSignal) + `"}`, 413},
		{"not a POST", "GET", url, bearer, good, 405},
		{"right", "POST", url, bearer, good, 200},
		{"again", "POST", url, bearer, strings.Replace(good, "SUCCESS", "FAILURE", 1), 200},
	} {
		if got, _, _ := c.do(tt.method, tt.url, tt.body, "Authorization", tt.token); got != tt.want {
			t.Errorf("%s: HTTP %d; want %d", tt.name, got, tt.want)
		}
	}
	for _, ok := range []bool{true, false} {
		if s, err := m.Signal(t.Context()); err != nil || s.OK() != ok || s.Reason != "Configuration complete" {
			t.Errorf("the signal is %+v, %v", s, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := m.Signal(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no signal: %v", err)
	}
	for range keptSignal {
		c.do("POST", url, good, "Authorization", bearer)
	}
	if got, _, _ := c.do("POST", url, good, "Authorization", bearer); got != 429 {
		t.Errorf("a flood of signals: HTTP %d", got)
	}
	m.Forget()
	m.Forget()
	if got, _, _ := c.do("POST", url, good, "Authorization", bearer); got != 403 {
		t.Errorf("a replayed signal: HTTP %d", got)
	}
	if len(m.Token) < 40 || json.Valid([]byte(m.Token)) {
		t.Errorf("token %q", m.Token)
	}
}

func TestMetadata(t *testing.T) {
	c, m := serve(t)
	const url = "/v1/metadata/m-1"
	bearer := []string{"Authorization", "Bearer " + m.Token}
	if code, _, _ := c.do("GET", url, ""); code != 403 {
		t.Errorf("without a token: HTTP %d", code)
	}
	code, h, body := c.do("GET", url, "", bearer...)
	var md map[string]any
	if err := json.Unmarshal([]byte(body), &md); err != nil || code != 200 || md["instance-id"] != "m-1" || md["redis"] == nil ||
		md["completion-token"] != m.Token || md["metadata-url"] != c.server.URL+url {
		t.Errorf("metadata %d %v (%v)", code, md, err)
	}
	same := append(bearer, "If-None-Match", h.Get("ETag"))
	if code, _, _ := c.do("GET", url, "", same...); code != 304 {
		t.Errorf("unchanged: HTTP %d", code)
	}
	if code, h, _ := c.do("GET", url, "", append(same, "Prefer", "respond-async, wait=1")...); code != 304 || h.Get("Preference-Applied") != "wait=1" {
		t.Errorf("unchanged for a second: HTTP %d, %q", code, h.Get("Preference-Applied"))
	}
	// Who waits is answered when it changes, and when it is over.
	type answer struct {
		code int
		body string
	}
	answers := make(chan answer)
	wait := func(etag string) {
		code, _, body := c.do("GET", url, "", append(bearer, "If-None-Match", etag, "Prefer", "wait=50")...)
		answers <- answer{code, body}
	}
	go wait(h.Get("ETag"))
	time.Sleep(50 * time.Millisecond)
	if err := m.Tell(map[string]any{"image": map[string]any{"digest": "sha256:1"}}); err != nil {
		t.Fatal(err)
	}
	if a := <-answers; a.code != 200 || !strings.Contains(a.body, "sha256:1") || strings.Contains(a.body, "redis") {
		t.Errorf("changed: %+v", a)
	}
	_, h, _ = c.do("GET", url, "", bearer...)
	go wait(h.Get("ETag"))
	time.Sleep(50 * time.Millisecond)
	m.Forget()
	if a := <-answers; a.code != 403 {
		t.Errorf("forgotten: %+v", a)
	}
	if err := m.Tell(map[string]any{"bad": func() {}}); err == nil {
		t.Error("what is no JSON was taken")
	}
}

func TestImages(t *testing.T) {
	c, _ := serve(t)
	blob := "/images/blobs/sha256/" + strings.Repeat("a", 64)
	for path, want := range map[string]int{
		"/images/index.json": 200, blob: 200, "/images/lock": 404, "/images/": 404, "/images/blobs/sha256/": 404,
		"/images/blobs/sha256/" + strings.Repeat("b", 64): 404, "/images/../lock": 404, "/": 404,
	} {
		if code, _, body := c.do("GET", path, ""); code != want || strings.Contains(body, "secret") {
			t.Errorf("%s: HTTP %d; want %d", path, code, want)
		}
	}
	if code, _, body := c.do("GET", blob, "", "Range", "bytes=2-4"); code != 206 || body != "234" {
		t.Errorf("a range: HTTP %d %q", code, body)
	}
}

// What is refused is told of, but not so often that a log fills up.
func TestRefused(t *testing.T) {
	s := New("http://example", "")
	var told []string
	s.Refused = func(r *http.Request, why string) { told = append(told, r.URL.Path+": "+why) }
	m, err := s.Add("i-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(token string) int {
		r := httptest.NewRequest(http.MethodPost, "/v1/signal/i-1", strings.NewReader(`{"Status": "SUCCESS", "UniqueId": "i-1"}`))
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	for range 3 {
		if got := ask("of another machine"); got != http.StatusForbidden {
			t.Errorf("status %d", got)
		}
	}
	m.Forget()
	if got := ask(m.Token); got != http.StatusForbidden {
		t.Errorf("a signal that is said again after the machine is gone: status %d", got)
	}
	if len(told) != 1 || told[0] != "/v1/signal/i-1: this token is not for this machine" {
		t.Errorf("told: %q", told)
	}
}
