package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// house is a server over an empty database.
type house struct {
	t      *testing.T
	db     *store.DB
	engine *engine.Engine
	server *Server
	url    string
	dir    string
}

func open(t *testing.T, db *store.DB) *house {
	t.Helper()
	h := &house{t: t, db: db, engine: engine.New(db), dir: t.TempDir()}
	queue, err := engine.StartDispatcher(t.Context(), h.engine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = queue.Close() })
	h.server = New(Config{Engine: h.engine, DB: db, Dir: h.dir, Sources: []string{h.dir}, Version: "test",
		Submit: func(ctx context.Context, file string, inputs map[string]string, author, actor string) (int64, error) {
			p, err := pipeline.LoadWith(file, inputs, []string{"work"})
			if err != nil {
				return 0, err
			}
			return h.engine.Submit(ctx, engine.Submission{Pipeline: p, File: file, Author: author, Actor: actor})
		}})
	web := httptest.NewServer(h.server)
	t.Cleanup(web.Close)
	h.url = web.URL
	return h
}

// token makes a token and returns the file that holds it.
func (h *house) token(name string, role Role) string {
	h.t.Helper()
	secret, err := h.server.access.Add(h.t.Context(), name, role, 0, "test")
	if err != nil {
		h.t.Fatal(err)
	}
	file := filepath.Join(h.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return file
}

func (h *house) client(name string, role Role) *Client {
	h.t.Helper()
	c, err := NewClient(h.url, h.token(name, role), "")
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *house) pipeline(text string) string {
	h.t.Helper()
	file := filepath.Join(h.dir, "p.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: goldsmith/v1\nname: test\n"+text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return file
}

// A run is made, worked on and looked at over HTTP alone.
func TestRunOverHTTP(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		h := open(t, db)
		op, worker := h.client("op", Operator), h.client("w1", Work)
		var made Submitted
		file := h.pipeline("stages:\n  - {name: build, uses: work}\n  - {name: smoke, uses: work}\n")
		if err := op.Call(t.Context(), http.MethodPost, "/v1/runs", Submission{File: file}, &made, time.Minute); err != nil {
			t.Fatal(err)
		}
		w := &engine.Worker{Info: engine.WorkerInfo{Slots: 1}, Hub: worker, Work: func(ctx context.Context, a *engine.Assignment, m *command.Meter) engine.Result {
			path := fmt.Sprintf("/v1/work/%d/log", a.Attempt)
			for range 2 { // said twice, kept once
				if err := worker.Send(ctx, http.MethodPost, path+"?offset=0", strings.NewReader("hello from "+a.Stage+"\n"), nil, time.Minute); err != nil {
					t.Error(err)
				}
			}
			if err := worker.Send(ctx, http.MethodPut, fmt.Sprintf("/v1/work/%d/files/tests/x", a.Attempt), strings.NewReader("x"), nil, time.Minute); err != nil {
				t.Error(err)
			}
			return engine.Result{State: pipeline.Passed, Image: "sha256:1"}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx, ctx) }()
		var r pipeline.Run
		for range 20 {
			if err := op.Call(t.Context(), http.MethodGet, fmt.Sprintf("/v1/runs/%d?changed=20", made.Run), nil, &r, time.Minute); err != nil {
				t.Fatal(err)
			}
			if r.Status.Ended() {
				break
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if r.Status != pipeline.Passed || r.Stages[1].Attempts[0].Worker != "w1" || r.Author != "op" {
			t.Errorf("%+v", r)
		}
		log, err := os.ReadFile(filepath.Join(engine.AttemptDir(h.dir, made.Run, "build", 1), "log"))
		if err != nil || string(log) != "hello from build\n" {
			t.Errorf("log %q, %v", log, err)
		}
		if b, err := os.ReadFile(filepath.Join(engine.AttemptDir(h.dir, made.Run, "smoke", 1), "tests/x")); err != nil || string(b) != "x" {
			t.Errorf("file %q, %v", b, err)
		}
		if status, body := h.get(fmt.Sprintf("/v1/runs/%d/stages/build/log?offset=6", made.Run), op.token); status != 200 || body != "from build\n" {
			t.Errorf("%d %q", status, body)
		}
	})
}

func (h *house) get(path, token string) (int, string) { return h.do(http.MethodGet, path, token, nil) }

func (h *house) do(method, path, token string, body io.Reader) (int, string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, body)
	if err != nil {
		h.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

// Each route asks for its role: who has none of those that suffice is refused,
// and that is written down.
func TestRoles(t *testing.T) {
	h := open(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	tokens := map[Role]string{"": ""}
	for _, role := range Roles() {
		tokens[role] = h.client(string(role), role).token
	}
	refused := 0
	for _, rt := range h.server.routes() {
		path := inPath.ReplaceAllString(rt.path, "1")
		for role, token := range tokens {
			if rt.path == "/v1/work/claim" && role == Work {
				continue // it waits
			}
			status, _ := h.do(rt.method, path, token, strings.NewReader("{}"))
			allowed := rt.role == "" || role == rt.role || role == Admin && rt.role != Work || rt.role == Viewer && role != Work && role != ""
			denied := status == http.StatusUnauthorized || status == http.StatusForbidden
			if allowed == denied || !allowed && (role == "") != (status == http.StatusUnauthorized) {
				t.Errorf("%s %s as %q: %d", rt.method, rt.path, role, status)
			}
			if status == http.StatusForbidden {
				refused++
			}
		}
	}
	all, err := h.server.access.Audit(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	forbidden := 0
	for _, r := range all {
		if r.Status == http.StatusForbidden {
			forbidden++
		}
	}
	if forbidden != refused || refused == 0 {
		t.Errorf("%d refusals, %d written down", refused, forbidden)
	}
}

// What is hostile is refused, and leaves nothing.
func TestHostile(t *testing.T) {
	h := open(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	op, w1, w2 := h.client("op", Operator), h.client("w1", Work), h.client("w2", Work)
	file := h.pipeline("stages:\n  - {name: build, uses: work}\n")
	if err := os.Symlink("/etc/passwd", filepath.Join(h.dir, "link")); err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]int{
		`{"file": "/etc/passwd"}`:                             400,
		`{"file": "` + h.dir + `/link"}`:                      400,
		`{"file": "` + h.dir + `/../x"}`:                      400,
		`{"file": "p.yaml"}`:                                  400,
		`{"file": "` + file + `", "more": 1}`:                 400,
		`{"file": "` + file + `"} {}`:                         400,
		`{"file": "` + strings.Repeat("a", maxBody) + `"}`:    413,
		`{"file": "` + file + `", "inputs": {"nothere": ""}}`: 400,
	} {
		if status, answer := h.do("POST", "/v1/runs", op.token, strings.NewReader(body)); status != want {
			t.Errorf("%.60s: %d %s", body, status, answer)
		}
	}
	if err := op.Call(t.Context(), "POST", "/v1/runs", Submission{File: file}, nil, time.Minute); err != nil {
		t.Fatal(err)
	}
	a, err := w1.Claim(t.Context(), engine.WorkerInfo{Name: "w2", Slots: 1}, 10*time.Second)
	if err != nil || a == nil {
		t.Fatalf("%v, %v", a, err)
	}
	// Another worker's token.
	if err := w2.Finish(t.Context(), a.Attempt, engine.Result{State: pipeline.Passed}); !errors.Is(err, engine.ErrLost) {
		t.Errorf("another's token: %v", err)
	}
	if o, err := w2.Beat(t.Context(), a.Attempt, "", 0); err != nil || !o.Lost {
		t.Errorf("another's token: %+v, %v", o, err)
	}
	// What acts on a terminal, and too much of it; and of another's attempt.
	for client, text := range map[*Client]string{w1: "boot\x1b[2J\n" + strings.Repeat("x", 100000), w2: "forged"} {
		if _, err := client.Beat(t.Context(), a.Attempt, text, 0); err != nil {
			t.Error(err)
		}
	}
	if r, err := h.engine.Run(t.Context(), a.Run); err != nil || !strings.HasPrefix(r.Stages[0].Attempts[0].Progress, "boot [2J xxx") || len(r.Stages[0].Attempts[0].Progress) > 210 {
		t.Errorf("%+v, %v", r.Stages[0].Attempts, err)
	}
	if status, _ := h.do("POST", fmt.Sprintf("/v1/work/%d/beat", a.Attempt), w1.token, strings.NewReader(`{"progress": "`+strings.Repeat("x", maxBody)+`", "wait_s": 0}`)); status != 413 {
		t.Errorf("a large heartbeat: %d", status)
	}
	files := fmt.Sprintf("/v1/work/%d/files/", a.Attempt)
	for _, name := range []string{"..%2f..%2fx", "%2fetc%2fx", "log", "a/../../../x", "%2e/log", "x/%2e%2e/log", "%2e"} {
		if status, _ := h.do("PUT", files+name, w1.token, strings.NewReader("x")); status == 200 {
			t.Errorf("file %s was taken", name)
		}
	}
	// A link that was left there by whatever means.
	dir := engine.AttemptDir(h.dir, a.Run, a.Stage, a.Number)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(t.TempDir(), filepath.Join(dir, "out"))); err != nil {
		t.Fatal(err)
	}
	if status, _ := h.do("PUT", files+"out/x", w1.token, strings.NewReader("x")); status == 200 {
		t.Error("a link was followed")
	}
	if err := w1.Finish(t.Context(), a.Attempt, engine.Result{State: "running"}); err == nil {
		t.Error("a state that is no end was taken")
	}
	if err := w1.Finish(t.Context(), a.Attempt, engine.Result{State: pipeline.Passed}); err != nil {
		t.Error(err)
	}
	if err := w1.Finish(t.Context(), a.Attempt, engine.Result{State: pipeline.Failed}); !errors.Is(err, engine.ErrLost) {
		t.Errorf("said twice: %v", err)
	}
	for _, token := range []string{"gst_x", "Basic x", strings.Repeat("gst_", 1000), "gst_" + strings.Repeat("A", 43)} {
		if status, _ := h.get("/v1/runs", token); status != 401 {
			t.Errorf("token %.20q: %d", token, status)
		}
	}
}

// A token that is revoked or whose time is over does not count.
func TestTokenEnds(t *testing.T) {
	h := open(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	c := h.client("eve", Viewer)
	short, err := h.server.access.Add(t.Context(), "short", Viewer, time.Hour, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.server.access.Add(t.Context(), "eve", Admin, 0, "test"); err == nil {
		t.Error("a second token of the same name")
	}
	for _, token := range []string{c.token, short} {
		if status, _ := h.get("/v1/runs", token); status != 200 {
			t.Error(status)
		}
	}
	if err := h.server.access.Revoke(t.Context(), "eve", "test"); err != nil {
		t.Fatal(err)
	}
	h.server.access.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	for _, token := range []string{c.token, short} {
		if status, _ := h.get("/v1/runs", token); status != 401 {
			t.Error(status)
		}
	}
}

// The description is one, and of all routes.
func TestOpenAPI(t *testing.T) {
	h := open(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	_, body := h.get("/openapi.json", "")
	doc, err := openapi3.NewLoader().LoadFromData([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	n := 0
	for _, p := range doc.Paths.Map() {
		n += len(p.Operations())
	}
	if n != len(h.server.routes()) {
		t.Errorf("%d operations of %d routes", n, len(h.server.routes()))
	}
	again, err := json.Marshal(h.server.Describe())
	if err != nil || !bytes.Equal(append(again, '\n'), []byte(body)) {
		t.Errorf("described twice, differently (%v)", err)
	}
}

func TestFigures(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		h := open(t, db)
		c := h.client("prometheus", Viewer)
		op := h.client("op", Operator)
		if err := op.Call(t.Context(), "POST", "/v1/runs", Submission{File: h.pipeline("stages:\n  - {name: build, uses: work}\n")}, nil, time.Minute); err != nil {
			t.Fatal(err)
		}
		_, body := h.get("/metrics", c.token)
		for _, want := range []string{`imgpipe_runs{state="running"} 1`, "imgpipe_database_up 1", `imgpipe_http_requests_total{route="POST /v1/runs",status="200"} 1`} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s in\n%s", want, body)
			}
		}
		if status, _ := h.get("/readyz", ""); status != 200 {
			t.Error(status)
		}
		_ = db.Close()
		if status, _ := h.get("/readyz", ""); status != 503 {
			t.Error("ready without a database")
		}
	})
}

// Who sends a head and no body gets an answer, and is let go of.
func TestNoBody(t *testing.T) {
	h := open(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	c, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.1 401 ")) {
		t.Errorf("%q, %v", b, err)
	}
}
