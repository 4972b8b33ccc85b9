package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"goldsmith/internal/api"
	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
)

// site is a server as 'imgpipe serve' is one, behind a network that loses what
// the test wants.
type site struct {
	t      *testing.T
	dir    string
	db     *store.DB
	engine *engine.Engine
	images *registry.Layout
	url    string
	conf   *settings
	tokens map[string]string // files, by workers
	end    func()            // ends the server, which start begins anew
	// lose tells whether a request's connection breaks; nil: none does.
	lose atomic.Pointer[func(*http.Request) bool]
}

func newSite(t *testing.T) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, tokens: map[string]string{}, dir: filepath.Join(t.TempDir(), "server")}
	conf := &settings{Dir: s.dir, Listen: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	opened, err := step.OpenStore(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	s.images = opened.Images
	if s.db, err = store.Open(t.Context(), filepath.Join(s.dir, "imgpipe.db")); err != nil {
		t.Fatal(err)
	}
	s.engine, s.conf = engine.New(s.db), conf
	t.Cleanup(func() {
		s.end()
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
	s.start()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: conf.Listen})
	proxy.ErrorLog = log.New(io.Discard, "", 0) // of requests that workers gave up
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lose := s.lose.Load(); lose != nil && (*lose)(r) {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	s.url = front.URL
	return s
}

// start begins to serve.
func (s *site) start() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, slog.New(slog.DiscardHandler), s.conf) }()
	s.end = func() {
		cancel()
		if err := <-served; err != nil {
			s.t.Error(err)
		}
		s.end = func() {}
	}
	for range 100 {
		if c, err := net.Dial("tcp", s.conf.Listen); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Error("nobody listens")
}

// worker is what 'imgpipe worker' makes, in a directory of its own. Its stages
// called build make an image, which no script can.
func (s *site) worker(name string) *remote {
	s.t.Helper()
	secret, err := api.NewAccess(s.db).Add(s.t.Context(), name, api.Work, 0, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		s.t.Fatal(err)
	}
	client, err := api.NewClient(s.url, file, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.tokens[name] = file
	dir := filepath.Join(s.t.TempDir(), name)
	opened, err := ownStore(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	progress := command.NewProgress("imgpipe", command.IO{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}}, false)
	s.t.Cleanup(progress.Close)
	r := &remote{client: client, runner: &step.Runner{Env: step.Env{Store: opened}, Progress: progress}, dir: dir}
	r.attempt = func(ctx context.Context, a *engine.Assignment, m *command.Meter) engine.Result {
		if a.Stage != "build" {
			return r.runner.Work(ctx, a, m)
		}
		digest, err := makeImage(ctx, opened.Images, s.t.TempDir())
		if err != nil {
			return unfinished(ctx, err)
		}
		return engine.Result{State: pipeline.Passed, Image: digest}
	}
	return r
}

// makeImage puts an image of some size into a layout, with its manifest.
func makeImage(ctx context.Context, l *registry.Layout, dir string) (string, error) {
	var disk bytes.Buffer
	for i := range 60000 {
		sum := sha256.Sum256([]byte(fmt.Sprint(i)))
		disk.Write(sum[:])
	}
	path := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(path, disk.Bytes(), 0o644); err != nil {
		return "", err
	}
	sum := sha256.Sum256(disk.Bytes())
	digest, _, err := l.PutImage(ctx, path, registry.Image{Name: "demo", Version: "1", Arch: "amd64", Size: int64(disk.Len()), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		return "", err
	}
	_, err = l.Attach(digest, registry.ManifestType, nil, registry.Blob{Title: "manifest.json", MediaType: registry.ManifestType, Content: []byte("{}")})
	return digest, err
}

// run makes a run of build and smoke, each for a worker that can do it.
func (s *site) run() int64 {
	s.t.Helper()
	dir := s.t.TempDir()
	file := filepath.Join(dir, "p.yaml")
	err := errors.Join(os.WriteFile(filepath.Join(dir, "smoke.sh"), []byte("#!/bin/sh\necho tested\ntest -s \"$GOLDSMITH_LAYOUT/index.json\"\n"), 0o755),
		os.WriteFile(file, []byte(`apiVersion: goldsmith/v1
name: carried
stages:
  - {name: build, uses: script, requires: [builds], with: {run: smoke.sh}}
  - {name: smoke, uses: script, requires: [tests], with: {run: smoke.sh, evidence: site-check}}
`), 0o644))
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := pipeline.LoadWith(file, nil, step.Names())
	if err != nil {
		s.t.Fatal(err)
	}
	id, err := s.engine.Submit(s.t.Context(), engine.Submission{Pipeline: p, File: file, Author: "eva", Actor: "eva"})
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// until has workers work until a run has ended, and returns its image.
func (s *site) until(id int64, workers map[string]*remote) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, len(workers))
	for capability, r := range workers {
		w := &engine.Worker{Hub: r.client, Work: r.work, Info: engine.WorkerInfo{Slots: 1, Capabilities: []string{capability}}}
		go func() { ended <- w.Run(ctx, ctx) }()
	}
	var run *pipeline.Run
	for ctx.Err() == nil && (run == nil || !run.Status.Ended()) {
		var err error
		if run, err = s.engine.Run(s.t.Context(), id); err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	for range workers {
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	}
	if run.Status != pipeline.Passed {
		for _, st := range run.Stages {
			s.t.Errorf("%+v", st)
		}
		s.t.Fatalf("%+v", run)
	}
	return run.Stages[len(run.Stages)-1].Image
}

// whole holds a layout to having the image, with what is attached to it.
func whole(t *testing.T, l *registry.Layout, digest string, kinds ...string) {
	t.Helper()
	if err := l.Extract(t.Context(), digest, filepath.Join(t.TempDir(), "disk")); err != nil {
		t.Error(err)
	}
	list, err := l.Referrers(digest, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list {
		got = append(got, r.ArtifactType)
	}
	if !slices.Equal(got, kinds) {
		t.Errorf("%s has %q attached; want %q", l.Dir(), got, kinds)
	}
}

// An image goes from the worker that made it by way of the server to one that
// tests it, and its evidence comes back, over a network that loses every ninth
// request for images.
func TestImagesAreCarried(t *testing.T) {
	persistFirst = 10 * time.Millisecond
	t.Cleanup(func() { persistFirst = 500 * time.Millisecond })
	s := newSite(t)
	var n atomic.Int64
	lose := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v2/") && n.Add(1)%9 == 0 }
	s.lose.Store(&lose)
	builder, tester := s.worker("builder"), s.worker("tester")
	digest := s.until(s.run(), map[string]*remote{"builds": builder, "tests": tester})
	for _, l := range []*registry.Layout{s.images, tester.runner.Env.Store.Images} {
		whole(t, l, digest, registry.ManifestType, registry.EvidenceType)
	}
	whole(t, builder.runner.Env.Store.Images, digest, registry.ManifestType)
	if n.Load() < 8 {
		t.Errorf("only %d requests", n.Load())
	}
	if _, err := ownStore(s.dir); command.Status(err) != command.StatusUsage {
		t.Errorf("a server's directory for a worker's: %v", err)
	}
}

// A worker that is killed while it sends an image leaves nothing that counts,
// and the next attempt is right.
func TestKilledWhileSending(t *testing.T) {
	s := newSite(t)
	id := s.run()
	builder := s.worker("builder")
	ctx, kill := context.WithCancelCause(t.Context())
	lose := func(r *http.Request) bool {
		if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/uploads/") {
			_, _ = r.Body.Read(make([]byte, 100))
			kill(engine.ErrDraining)
			return true
		}
		return false
	}
	s.lose.Store(&lose)
	a, err := builder.client.Claim(ctx, engine.WorkerInfo{Slots: 1, Capabilities: []string{"builds"}}, 10*time.Second)
	if err != nil || a == nil {
		t.Fatalf("%v, %v", a, err)
	}
	if r := builder.work(ctx, a, command.NewMeter()); r.State != pipeline.Failed || r.Class != engine.ClassInfra {
		t.Errorf("%+v", r)
	}
	if list, err := s.images.List(); err != nil || len(list) != 0 {
		t.Errorf("the server has %v, %v", list, err)
	}
	if err := builder.client.Finish(t.Context(), a.Attempt, engine.Result{State: pipeline.Interrupted, Returned: true}); err != nil {
		t.Fatal(err)
	}
	s.lose.Store(nil)
	digest := s.until(id, map[string]*remote{"builds": builder, "tests": s.worker("tester")})
	whole(t, s.images, digest, registry.ManifestType, registry.EvidenceType)
}
