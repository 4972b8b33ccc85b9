package refreshcfg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/metadata"
)

// base makes a tree of hooks; each prints its own name.
func base(t *testing.T, hooks map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range hooks {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/bash\necho ${0##*/}\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func run(t *testing.T, c Config) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	c.Stdout, c.Log, c.Lock = &out, io.Discard, filepath.Join(t.TempDir(), "lock")
	err = Run(t.Context(), c)
	return strings.Join(strings.Fields(out.String()), " "), err
}

func TestPhasesInOrder(t *testing.T) {
	got, err := run(t, Config{Base: base(t, map[string]string{
		"migration.d/1-m": "", "post-configure.d/1-p": "", "configure.d/2-c": "", "configure.d/10-c": "",
		"pre-configure.d/9-x": "", "error.d/1-e": "", "other.d/1-o": "",
	})})
	if want := "9-x 2-c 10-c 1-p 1-m"; err != nil || got != want {
		t.Errorf("ran %q, %v; want %q", got, err, want)
	}
}

func TestFailureRunsErrorHooks(t *testing.T) {
	got, err := run(t, Config{Base: base(t, map[string]string{
		"pre-configure.d/1-a": "", "configure.d/2-bad": "echo oh >&2; echo 'hint: mend it' >&2; exit 3\n",
		"post-configure.d/1-never": "", "error.d/1-e": "", "error.d/2-e": "exit 1\n",
	})})
	if want := "1-a 2-bad 1-e 2-e"; got != want {
		t.Errorf("ran %q; want %q", got, want)
	}
	f, ok := errors.AsType[*Failure](err)
	if !ok || f.Reason() != "configure/2-bad: exit status 3: oh" || command.Status(err) != 1 {
		t.Errorf("Run = %v; want the failure of configure/2-bad", err)
	}
}

func TestTimeout(t *testing.T) {
	got, err := run(t, Config{
		Base:    base(t, map[string]string{"configure.d/1-slow": "sleep 60\n", "error.d/1-e": ""}),
		Timeout: 300 * time.Millisecond,
	})
	f, ok := errors.AsType[*Failure](err)
	if !ok || !strings.HasSuffix(f.Reason(), "configure.d/1-slow: still running after 300ms: ended") || got != "1-slow 1-e" {
		t.Errorf("ran %q, %v; want the timeout, and error.d", got, err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	held, err := takeLock(path)
	if err != nil {
		t.Fatal(err)
	}
	err = Run(t.Context(), Config{Base: dir, Lock: path})
	if command.Status(err) != command.StatusBusy || !strings.Contains(err.Error(), fmt.Sprintf("process %d holds the lock", os.Getpid())) {
		t.Errorf("Run = %v, status %d; want busy", err, command.Status(err))
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Config{Base: dir, Lock: path}); err != nil {
		t.Errorf("Run after the lock was released: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || len(b) != 0 {
		t.Errorf("the lock file holds %q, %v after the run", b, err)
	}
}

func TestSignalFrom(t *testing.T) {
	doc := &metadata.Object{}
	if _, ok := SignalFrom(doc); ok {
		t.Error("a signal without a URL")
	}
	doc.Set("completion-signal", "http://x/")
	doc.Set("completion-token", "t")
	doc.Set("instance-id", "i-1")
	if s, ok := SignalFrom(doc); !ok || s != (Signal{"http://x/", "t", "i-1"}) {
		t.Errorf("SignalFrom = %+v, %v", s, ok)
	}
}

// server answers with the statuses in turn and keeps the requests.
func server(t *testing.T, statuses ...int) (url string, got func() []string) {
	var seen []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), body))
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(statuses[min(len(seen), len(statuses))-1])
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string { return seen }
}

func TestSendSuccess(t *testing.T) {
	url, got := server(t, 503, 200)
	if err := (Signal{url + "/signal?x=1", "secret", "i-1"}).Send(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	one := `POST /signal?x=1 application/json Bearer secret ` +
		`{"Status":"SUCCESS","Reason":"Configuration complete","UniqueId":"i-1","Data":"refreshcfg ran every phase"}`
	if d := cmp.Diff([]string{one, one}, got()); d != "" {
		t.Errorf("requests (-want +got):\n%s", d)
	}
}

func TestSendFailure(t *testing.T) {
	url, got := server(t, 204)
	failed := &Failure{"configure", &hook.Error{
		Path: "/x/configure.d/20-y", Status: 2, Tail: []string{"a", "b: secret"},
		Err: &command.ExitError{Args: []string{"y"}, Status: 2},
	}}
	if err := (Signal{url, "secret", "i"}).Send(t.Context(), failed); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(got()[0], "secret ")
	var r map[string]string
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"Status": "FAILURE", "Reason": "configure/20-y: exit status 2: b: (token)", "UniqueId": "i",
		"Data": "refreshcfg stopped at the first failure",
	}
	if d := cmp.Diff(want, r); d != "" {
		t.Errorf("body (-want +got):\n%s", d)
	}
}

func TestSendRefused(t *testing.T) {
	for _, status := range []int{401, 404, 302} {
		url, got := server(t, status)
		err := Signal{url + "/hidden", "secret", "i"}.Send(t.Context(), nil)
		if err == nil || len(got()) != 1 || !strings.Contains(err.Error(), fmt.Sprint("answer ", status)) {
			t.Errorf("%d: Send = %v after %d requests; want one, final", status, err, len(got()))
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "hidden")) {
			t.Errorf("%d: the error tells too much: %v", status, err)
		}
	}
	for _, url := range []string{"ftp://x/", "not a url", "http://[::1"} {
		if err := (Signal{URL: url}).Send(t.Context(), nil); command.Status(err) != command.StatusUsage {
			t.Errorf("Send to %s = %v; want bad input", url, err)
		}
	}
}

// refusing is a transport without a network.
type refusing struct{ tries int }

func (r *refusing) RoundTrip(*http.Request) (*http.Response, error) {
	r.tries++
	return nil, errors.New("connection refused")
}

func TestSendGivesUpWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		none := &refusing{}
		old := http.DefaultTransport
		http.DefaultTransport = none
		defer func() { http.DefaultTransport = old }()
		start := time.Now()
		err := Signal{URL: "http://192.0.2.1/"}.Send(t.Context(), nil)
		if took := time.Since(start); err == nil || took > signalTotal || took < signalTotal/2 || none.tries < 5 {
			t.Errorf("Send = %v after %s and %d tries; want a minute at most", err, took, none.tries)
		}
	})
}
