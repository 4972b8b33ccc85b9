package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// counting is a dispatcher that counts what is asked for later.
type counting struct {
	mu    sync.Mutex
	later int
}

func (c *counting) Enqueue(_ context.Context, _ int64, at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !at.IsZero() {
		c.later++
	}
	return nil
}
func (*counting) Close() error { return nil }

// still is an engine that advances nothing by itself.
func still(t *testing.T) (*Engine, *counting) {
	t.Helper()
	e := New(storetest.Open(t, storetest.Where(t, "sqlite")))
	c := &counting{}
	e.Use(c)
	return e, c
}

// made makes a run and advances it once.
func made(t *testing.T, e *Engine, text, host string) int64 {
	t.Helper()
	id, err := e.Submit(t.Context(), Submission{Pipeline: parse(t, text), File: "/x", Author: "a", Actor: "a", Host: host})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Advance(t.Context(), id, "x", ""); err != nil {
		t.Fatal(err)
	}
	return id
}

const only = "stages:\n  - {name: build, uses: work}\n"

// Sweeps ask for nothing that was asked for before.
func TestTimersDoNotPileUp(t *testing.T) {
	e, c := still(t)
	made(t, e, "timeout: 24h\n"+only, "")
	c.later = 0
	for range 20 {
		if _, err := e.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if c.later > 1 {
		t.Errorf("20 sweeps asked for %d jobs", c.later)
	}
}

// A worker that beats is there, though it asks for nothing more.
func TestBusyWorkerIsThere(t *testing.T) {
	e, _ := still(t)
	clock := time.Now()
	e.Now = func() time.Time { return clock }
	made(t, e, only, "")
	a, err := e.Claim(t.Context(), WorkerInfo{Name: "w", Slots: 1}, 0)
	if err != nil || a == nil {
		t.Fatal(a, err)
	}
	for range 14 {
		clock = clock.Add(5 * time.Second)
		if o, err := e.Beat(t.Context(), a.Attempt, "", 0); err != nil || o != (Order{}) {
			t.Fatal(o, err)
		}
	}
	list, err := e.Workers(t.Context())
	if err != nil || len(list) != 1 {
		t.Errorf("a worker that beats is counted as gone: %v %v", list, err)
	}
}

// A run that is gone on with does not go beyond the cap.
func TestCapOfAdopted(t *testing.T) {
	e, _ := still(t)
	clock := time.Now()
	e.Now = func() time.Time { return clock }
	if err := e.db.Tx(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), "INSERT INTO setting (name, value) VALUES ('cap', '1') ON CONFLICT (name) DO UPDATE SET value = '1'")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.Greet(t.Context(), WorkerInfo{Name: "h1", Slots: 1}); err != nil {
		t.Fatal(err)
	}
	a := made(t, e, only, "h1") // ready; the host is killed
	clock = clock.Add(2 * time.Minute)
	made(t, e, only, "")
	x, err := e.Claim(t.Context(), WorkerInfo{Name: "w", Slots: 1}, 0)
	if err != nil || x == nil {
		t.Fatal(x, err)
	}
	if err := e.Greet(t.Context(), WorkerInfo{Name: "h2", Slots: 1}); err != nil {
		t.Fatal(err)
	}
	if err := e.Adopt(t.Context(), a, "op", "h2"); err != nil {
		t.Fatal(err)
	}
	y, err := e.Claim(t.Context(), WorkerInfo{Name: "h2", Slots: 1, Run: a}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if y != nil {
		t.Error("two tasks run with a cap of 1")
	}
}

// A run's time counts from when it was begun again.
func TestRetryHasItsTime(t *testing.T) {
	e, _ := still(t)
	clock := time.Now()
	e.Now = func() time.Time { return clock }
	id := made(t, e, "timeout: 1h\n"+only, "")
	a, err := e.Claim(t.Context(), WorkerInfo{Name: "w", Slots: 1}, 0)
	if err != nil || a == nil {
		t.Fatal(a, err)
	}
	if err := e.Finish(t.Context(), a.Attempt, Result{State: pipeline.Failed, Class: "test", Reason: "no"}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Advance(t.Context(), id, "x", ""); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(3 * time.Hour)
	if err := e.Retry(t.Context(), id, "", "op", ""); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := e.Advance(t.Context(), id, "x", ""); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := e.Run(t.Context(), id); err != nil || r.Status.Ended() {
		t.Errorf("it ended at once: %+v, %v", r, err)
	}
}

// A run that is damaged is not in the way of others.
func TestDamagedRun(t *testing.T) {
	e, _ := still(t)
	clock := time.Now()
	e.Now = func() time.Time { return clock }
	bad := made(t, e, only, "")
	good := made(t, e, "timeout: 1h\n"+only, "")
	if err := e.db.Tx(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), "DELETE FROM task WHERE run = ?", runName(bad))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(2 * time.Hour)
	if _, err := e.Sweep(t.Context()); err == nil {
		t.Error("nobody is told of the damaged run")
	}
	if r, err := e.Run(t.Context(), good); err != nil || r.Reason == "" {
		t.Errorf("a damaged run keeps the sweep from those after it: %+v, %v", r, err)
	}
}

// A worker whose hub does not answer stops before another may have its task.
func TestWorkerStopsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		w := &Worker{Hub: &mute{}, Log: slog.New(slog.DiscardHandler), Work: func(ctx context.Context, _ *Assignment, _ *command.Meter) Result {
			<-ctx.Done()
			return Result{}
		}}
		w.attempt(t.Context(), &Assignment{Timeout: time.Hour})
		if d := time.Since(begun); d > AttemptLease {
			t.Errorf("another may have it after %s, it stopped after %s", AttemptLease, d)
		}
	})
}

// mute is a hub that hangs.
type mute struct{}

func (*mute) Claim(context.Context, WorkerInfo, time.Duration) (*Assignment, error) { return nil, nil }
func (*mute) Beat(ctx context.Context, _ int64, _ string, wait time.Duration) (Order, error) {
	pause(ctx, wait+20*time.Second)
	return Order{}, errors.New("no answer")
}
func (*mute) Finish(context.Context, int64, Result) error { return nil }
func (*mute) Leave(context.Context, string) error         { return nil }
