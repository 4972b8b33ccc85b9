package refreshcfg

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/metadata"
)

// server answers with the statuses in turn, the last one for ever, and keeps
// the requests.
func server(t *testing.T, statuses ...int) (url string, got func() []string) {
	var mu sync.Mutex
	var seen []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), body))
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(statuses[min(len(seen), len(statuses))-1])
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		all := seen
		seen = nil
		return all
	}
}

func document(t *testing.T, text string) *metadata.Object {
	t.Helper()
	v, err := metadata.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v.(*metadata.Object)
}

func reporter(t *testing.T) Reporter {
	dir := t.TempDir()
	r := Reporter{Base: dir + "/base", State: dir + "/state", Deployed: dir + "/told", Console: dir + "/console"}
	if err := os.WriteFile(r.Console, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r Reporter) console(t *testing.T) string {
	b, err := os.ReadFile(r.Console)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReportSuccess(t *testing.T) {
	url, got := server(t, 503, 200)
	doc := document(t, `{"completion-signal": "`+url+`/signal?x=1", "completion-token": "secret", "instance-id": "i-1"}`)
	if told, err := reporter(t).Report(t.Context(), doc, nil); err != nil || !told {
		t.Fatal(told, err)
	}
	one := `POST /signal?x=1 application/json Bearer secret ` +
		`{"Status":"SUCCESS","Reason":"Configuration complete","UniqueId":"i-1","Data":"refreshcfg ran every phase"}`
	if d := cmp.Diff([]string{one, one}, got()); d != "" {
		t.Errorf("requests (-want +got):\n%s", d)
	}
}

func TestReportNobody(t *testing.T) {
	if told, err := reporter(t).Report(t.Context(), document(t, `{"instance-id": "i"}`), nil); told || err != nil {
		t.Errorf("Report = %v, %v without a URL", told, err)
	}
}

func failure(lines ...string) error {
	return &Failure{"configure", &hook.Error{
		Path: "/x/configure.d/20-y", Status: 2, Tail: lines,
		Err: &command.ExitError{Args: []string{"y"}, Status: 2},
	}}
}

func TestReportFailure(t *testing.T) {
	url, got := server(t, 204)
	doc := document(t, `{"completion-signal": "`+url+`", "completion-token": "secret", "completion-handle": "`+url+`", "instance-id": "i"}`)
	if _, err := reporter(t).Report(t.Context(), doc, failure("a", "b: secret")); err != nil {
		t.Fatal(err)
	}
	all := got()
	_, body, _ := strings.Cut(all[0], "secret ")
	var r map[string]string
	if err := json.Unmarshal([]byte(body), &r); err != nil || len(all) != 1 {
		t.Fatal(err, all)
	}
	want := map[string]string{
		"Status": "FAILURE", "Reason": "configure/20-y: exit status 2: b: (token)", "UniqueId": "i",
		"Data": "refreshcfg stopped at the first failure",
	}
	if d := cmp.Diff(want, r); d != "" {
		t.Errorf("body (-want +got):\n%s", d)
	}
}

func TestReportRefused(t *testing.T) {
	for _, status := range []int{401, 404, 302} {
		url, got := server(t, status)
		r := reporter(t)
		_, err := r.Report(t.Context(), document(t, `{"completion-signal": "`+url+`/hidden", "completion-token": "secret"}`), nil)
		if n := len(got()); err == nil || n != 1 || !strings.Contains(err.Error(), fmt.Sprint("answer ", status)) {
			t.Errorf("%d: Report = %v after %d requests; want one, final", status, err, n)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "hidden")) {
			t.Errorf("%d: the error tells too much: %v", status, err)
		}
		if s := r.console(t); s != "" {
			t.Errorf("%d: shown on the console, with a network: %q", status, s)
		}
	}
	for _, url := range []string{"ftp://x/", "not a url", "http://[::1", "http:///x"} {
		doc := document(t, `{"completion-signal": "`+url+`", "completion-token": "t"}`)
		if _, err := reporter(t).Report(t.Context(), doc, nil); !strings.Contains(fmt.Sprint(err), "not an http or https URL") {
			t.Errorf("Report to %s = %v; want bad input", url, err)
		}
	}
}

// refusing is a transport without a network.
type refusing struct{ tries int }

func (r *refusing) RoundTrip(*http.Request) (*http.Response, error) {
	r.tries++
	return nil, errors.New("connection refused")
}

// Without a network a run takes a minute longer, and no more; the outcome is
// kept without what is secret, shown, and sent by the next run.
func TestReportWithoutNetwork(t *testing.T) {
	r := reporter(t)
	url, got := server(t, 200)
	doc := document(t, `{"completion-signal": "`+url+`/?sig=hidden", "completion-token": "secret", "instance-id": "i"}`)
	synctest.Test(t, func(t *testing.T) {
		none := &refusing{}
		old := http.DefaultTransport
		http.DefaultTransport = none
		defer func() { http.DefaultTransport = old }()
		start := time.Now()
		_, err := r.Report(t.Context(), doc, failure("no \x1b[2Jlight"))
		if took := time.Since(start); err == nil || took > signalTotal || took < signalTotal/2 || none.tries < 5 {
			t.Errorf("Report = %v after %s and %d tries; want a minute at most", err, took, none.tries)
		}
		start = time.Now()
		if r.Resend(t.Context(), doc) || time.Since(start) > resendTotal {
			t.Errorf("sent without a network, or %s", time.Since(start))
		}
	})
	if want := "refreshcfg: FAILURE: configure/20-y: exit status 2: no  [2Jlight (could not be reported: no network)\n"; r.console(t) != want {
		t.Errorf("console %q; want %q", r.console(t), want)
	}
	kept, err := os.ReadFile(filepath.Join(r.State, unsentRecord))
	if err != nil || strings.Contains(string(kept), "hidden") || strings.Contains(string(kept), "secret") {
		t.Errorf("kept %s, %v", kept, err)
	}
	other := document(t, `{"completion-signal": "`+url+`/other", "completion-token": "secret", "instance-id": "i"}`)
	if r.Resend(t.Context(), other) {
		t.Error("sent to somebody else")
	}
	if !r.Resend(t.Context(), doc) || r.Resend(t.Context(), doc) {
		t.Error("not sent once")
	}
	if all := got(); len(all) != 1 || !strings.Contains(all[0], `Bearer secret {"Status":"FAILURE","Reason":"configure/20-y`) {
		t.Errorf("requests %q", all)
	}
}

const heatDocument = `{"instance-id": "i-1", "completion-handle": "URL/handle", "completion-signal": "URL/signal", "deployments": [
	{"id": "one/../1", "group": "os-apply-config", "inputs": [{"name": "deploy_signal_id", "type": "String", "value": "URL/one?sig=s3cret"}]},
	{"id": "2", "group": "script", "inputs": [{"name": "deploy_signal_id", "value": "URL/two"}]}, 17,
	{"id": "3", "group": "os-apply-config", "inputs": []}]}`

// Heat's handles are told of success, in the original's words.
func TestReportHeat(t *testing.T) {
	url, got := server(t, 200)
	r := reporter(t)
	doc := document(t, strings.ReplaceAll(heatDocument, "URL", url))
	if told, err := r.Report(t.Context(), doc, failure()); told || err != nil {
		t.Errorf("of a failure: %v, %v", told, err)
	}
	for _, want := range []string{"PUT /handle, POST /signal, POST /one?sig=s3cret", "PUT /handle, POST /signal"} {
		if told, err := r.Report(t.Context(), doc, nil); !told || err != nil {
			t.Fatal(told, err)
		}
		var short []string
		for _, req := range got() {
			fields := strings.SplitN(req, " ", 5)
			short = append(short, fields[0]+" "+fields[1])
			body := `{"Status":"SUCCESS","Reason":"Configuration Complete","UniqueId":"i-1","Data":"Finished os-refresh-config."}`
			if strings.HasPrefix(fields[1], "/one") {
				body = `{"deploy_stdout":"os-apply-config deployment one/../1 completed","deploy_status_code":"0"}`
			}
			if fields[2] != "application/json" || fields[3] != "" || fields[4] != body {
				t.Errorf("%q", req)
			}
		}
		if all := strings.Join(short, ", "); all != want {
			t.Errorf("requests %s; want %s", all, want)
		}
	}
	if _, err := os.Stat(r.Deployed + "/one%2F..%2F1"); err != nil {
		t.Error(err)
	}
	writeHook(t, r.Base+"/post-configure.d/99-refresh-completed", "")
	if told, err := r.Report(t.Context(), doc, nil); told || err != nil || len(got()) > 0 {
		t.Errorf("the image has a hook for that, and yet: %v, %v", told, err)
	}
}

// Heat takes a signal with 200 and nothing else; what it refuses is not printed.
func TestReportHeatRefuses(t *testing.T) {
	url, got := server(t, 204)
	r := reporter(t)
	_, err := r.Report(t.Context(), document(t, strings.ReplaceAll(heatDocument, "URL", url)), nil)
	if err == nil || len(got()) != 3 || strings.Contains(err.Error(), "s3cret") || strings.Count(err.Error(), "answer 204") != 3 {
		t.Errorf("Report = %v", err)
	}
	if entries, _ := os.ReadDir(r.Deployed); len(entries) > 0 {
		t.Errorf("remembered %v", entries)
	}
}

func TestFileName(t *testing.T) {
	for id, want := range map[string]string{
		"4fa0-1": "4fa0-1", "../x": "%2E.%2Fx", ".": "%2E", "a b\n": "a%20b%0A", "é": "%C3%A9", strings.Repeat("x", 201): sum([]byte(strings.Repeat("x", 201))),
	} {
		if got := fileName(id); got != want {
			t.Errorf("fileName(%q) = %q; want %q", id, got, want)
		}
	}
}
