package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

// A server or its registry that is away when an attempt ends is waited for: what
// was found out is neither lost nor found out again.
func TestAwayAtTheEnd(t *testing.T) {
	persistFirst = 50 * time.Millisecond
	t.Cleanup(func() { persistFirst = 500 * time.Millisecond })
	for what, first := range map[string]string{"log": "/log", "files": "/files/", "registry": "/v2/", "end": "/finish"} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t)
			var once sync.Once
			var away atomic.Bool
			lose := func(r *http.Request) bool {
				if strings.Contains(r.URL.Path, first) && r.Method != http.MethodGet {
					once.Do(func() {
						away.Store(true)
						time.AfterFunc(2*time.Second, func() { away.Store(false) })
					})
				}
				// Heartbeats go through: the attempt stays the worker's.
				return away.Load() && !strings.HasSuffix(r.URL.Path, "/beat")
			}
			s.lose.Store(&lose)
			s.once(s.run())
		})
	}
	t.Run("restart", func(t *testing.T) {
		s := newSite(t)
		var once sync.Once
		restarted := make(chan struct{})
		lose := func(r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/finish") {
				once.Do(func() {
					s.end()
					time.AfterFunc(time.Second, func() { s.start(); close(restarted) })
				})
			}
			return false
		}
		s.lose.Store(&lose)
		s.once(s.run())
		<-restarted
	})
}

// once holds a run to passing at the first attempt at each stage.
func (s *site) once(id int64) {
	s.t.Helper()
	s.until(id, map[string]*remote{"builds": s.worker("builder"), "tests": s.worker("tester")})
	r, err := s.engine.Run(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, st := range r.Stages {
		if len(st.Attempts) != 1 {
			s.t.Errorf("%s: %+v", st.Name, st.Attempts)
		}
	}
}

// Variables by which the test's program is a worker that makes images.
const asWorker = "IMGPIPE_TEST_WORKER" // server, token file and directory, by blanks

// workAsTold is that worker.
func workAsTold(told string) error {
	words := strings.Fields(told)
	client, err := api.NewClient(words[0], words[1], "")
	if err != nil {
		return err
	}
	opened, err := ownStore(words[2])
	if err != nil {
		return err
	}
	r := &remote{client: client, dir: words[2], runner: &step.Runner{Env: step.Env{Store: opened}}}
	r.attempt = func(ctx context.Context, _ *engine.Assignment, _ *command.Meter) engine.Result {
		digest, err := makeImage(ctx, opened.Images, words[2])
		if err != nil {
			return unfinished(ctx, err)
		}
		return engine.Result{State: pipeline.Passed, Image: digest}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w := &engine.Worker{Hub: client, Work: r.work, Info: engine.WorkerInfo{Slots: 1, Capabilities: []string{"builds"}}}
	return w.Run(ctx, ctx)
}

// A worker's process that is killed while it sends an image leaves nothing that
// counts: its stage is done again by another, and what came of the image goes.
func TestSIGKILLWhileSending(t *testing.T) {
	s := newSite(t)
	id := s.run()
	first := s.worker("first") // for its token and directory
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", asWorker, s.url, s.tokens["first"], first.dir))
	cmd.Stderr = os.Stderr
	killed := make(chan struct{})
	var once sync.Once
	lose := func(r *http.Request) bool {
		if r.Method != http.MethodPatch || !strings.Contains(r.URL.Path, "/uploads/") {
			return false
		}
		lost := false
		once.Do(func() {
			lost = true
			// Half of it arrives.
			half, _ := http.NewRequestWithContext(t.Context(), r.Method, "http://"+s.conf.Listen+r.URL.Path, strings.NewReader(strings.Repeat("x", 1000)))
			half.Header = r.Header.Clone()
			half.Header.Del("Content-Range")
			if a, err := http.DefaultClient.Do(half); err == nil {
				_ = a.Body.Close()
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			close(killed)
		})
		return lost
	}
	s.lose.Store(&lose)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-killed:
	case <-time.After(time.Minute):
		t.Error("nothing was sent")
		_ = cmd.Process.Kill()
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	s.halves(true)
	if list, err := s.images.List(); err != nil || len(list) != 0 {
		t.Errorf("the server has %v, %v", list, err)
	}
	s.later()
	digest := s.until(id, map[string]*remote{"builds": s.worker("second"), "tests": s.worker("tester")})
	whole(t, s.images, digest, registry.ManifestType, registry.EvidenceType)
	s.halves(false)
	r, err := s.engine.Run(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range r.Stages[0].Attempts {
		got = append(got, fmt.Sprint(a.Worker, " ", a.Status, " ", a.Class))
	}
	if want := "first failed lost, second passed "; strings.Join(got, ", ") != want {
		t.Errorf("attempts: %q; want %q", strings.Join(got, ", "), want)
	}
}

// halves holds the registry to having uploads that have not ended, or none.
func (s *site) halves(some bool) {
	s.t.Helper()
	list, err := filepath.Glob(filepath.Join(s.images.Dir(), ".uploads", "*"))
	if err != nil || len(list) > 0 != some {
		s.t.Errorf("uploads: %q, %v", list, err)
	}
}

// quiet waits until the server has done with what it got of uploads.
func (s *site) quiet() {
	s.t.Helper()
	for last, same := "", 0; same < 10; time.Sleep(50 * time.Millisecond) {
		list, err := filepath.Glob(filepath.Join(s.images.Dir(), ".uploads", "*"))
		now := ""
		for _, file := range list {
			if fi, err := os.Stat(file); err == nil {
				now += fmt.Sprintln(file, fi.Size(), fi.ModTime())
			}
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if same++; now != last {
			last, same = now, 0
		}
	}
}

// later is two hours later for attempts that are silent and uploads that have
// not ended.
func (s *site) later() {
	s.t.Helper()
	s.quiet()
	past := time.Now().Add(-2 * time.Hour)
	list, err := filepath.Glob(filepath.Join(s.images.Dir(), ".uploads", "*"))
	for _, file := range list {
		err = errors.Join(err, os.Chtimes(file, past, past))
	}
	err = errors.Join(err, s.db.Tx(s.t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(s.t.Context(), "UPDATE attempt SET expires = ? WHERE ended = 0", store.Millis(past))
		return err
	}))
	if err != nil {
		s.t.Fatal(err)
	}
}
