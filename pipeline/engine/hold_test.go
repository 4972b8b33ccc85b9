package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// How far a stage is stands in the tables a second later, clean and short, and
// its last word stays.
func TestProgress(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		next := make(chan struct{})
		w := &Worker{Info: WorkerInfo{Name: "w", Slots: 1}, Hub: f.engine, Work: func(_ context.Context, _ *Assignment, m *command.Meter) Result {
			p := command.NewProgress("test", command.IO{Stdout: io.Discard, Stderr: io.Discard}, false)
			defer p.Close()
			<-next // after the first heartbeat
			step := p.Metered(m).Start("boot\x1b[2J" + strings.Repeat("ä", 200))
			<-next
			step.Part(1, 4)
			<-next
			return Result{State: pipeline.Passed}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx, ctx) }()
		id := f.submit("stages:\n  - {name: build, uses: work}\n")
		said := func(want func(string) bool) {
			t.Helper()
			for begun := time.Now(); ; {
				r, err := f.engine.Run(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				got := ""
				if a := r.Stages[0].Attempts; len(a) > 0 {
					got = a[0].Progress
				}
				if want(got) {
					return
				}
				if time.Since(begun) > 4*time.Second { // less than BeatEvery
					t.Fatalf("it says %q", got)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		time.Sleep(300 * time.Millisecond)
		next <- struct{}{}
		said(func(s string) bool {
			return strings.HasPrefix(s, "boot [2Jää") && strings.HasSuffix(s, "ä…") && len(s) <= maxProgress+len("…")
		})
		next <- struct{}{}
		time.Sleep(tellEvery)
		next <- struct{}{}
		f.ended(id, 20*time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// flaky is a hub whose answers fail for a while after the work has ended.
type flaky struct {
	mu       sync.Mutex
	down     bool
	stop     string
	beats    []time.Time // that were heard
	finished time.Time
	drained  bool
}

func (f *flaky) Claim(_ context.Context, w WorkerInfo, _ time.Duration) (*Assignment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drained = f.drained || w.Draining
	return nil, nil
}

func (f *flaky) Beat(ctx context.Context, _ int64, _ string, wait time.Duration) (Order, error) {
	f.mu.Lock()
	o, down := Order{Stop: f.stop}, f.down
	if !down {
		f.beats = append(f.beats, time.Now())
	}
	f.mu.Unlock()
	switch {
	case down:
		return Order{}, errors.New("connection refused")
	case o.Stop == "":
		pause(ctx, wait)
	}
	return o, nil
}

func (f *flaky) Finish(context.Context, int64, Result) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return errors.New("connection refused")
	}
	f.finished = time.Now()
	return nil
}

func (*flaky) Leave(context.Context, string) error { return nil }

func (f *flaky) set(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

// gaps is the longest time without a heartbeat that was heard, until the end.
func (f *flaky) gap() (longest time.Duration) {
	last := f.beats[0]
	for _, b := range append(f.beats, f.finished) {
		longest = max(longest, b.Sub(last))
		last = b
	}
	return longest
}

func quietWorker(h Hub, work func(ctx context.Context) Result) *Worker {
	return &Worker{Hub: h, Log: slog.New(slog.DiscardHandler), Work: func(ctx context.Context, _ *Assignment, _ *command.Meter) Result { return work(ctx) }}
}

// A server that is away when an attempt ends hears of it when it is back.
func TestFinishLater(t *testing.T) {
	for _, away := range []time.Duration{20 * time.Second, 2 * time.Minute} {
		t.Run(fmt.Sprint(away), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := &flaky{}
				w := quietWorker(hub, func(context.Context) Result {
					time.Sleep(time.Minute)
					hub.set(true)
					time.AfterFunc(away, func() { hub.set(false) })
					return Result{State: pipeline.Passed}
				})
				w.attempt(t.Context(), &Assignment{Timeout: time.Hour})
				if hub.finished.IsZero() {
					t.Fatal("its end was never told")
				}
				if gap := hub.gap(); gap > away+BeatEvery+2*time.Second {
					t.Errorf("%s without a heartbeat; the server was away for %s", gap, away)
				}
			})
		})
	}
}

// A worker that must end does not wait for ever for a server that is away.
func TestFinishAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := &flaky{down: true}
		grace, end := context.WithCancel(t.Context())
		begun := time.Now()
		time.AfterFunc(5*time.Second, end)
		quietWorker(hub, func(ctx context.Context) Result {
			<-ctx.Done()
			return Result{State: pipeline.Failed}
		}).attempt(grace, &Assignment{Timeout: time.Hour})
		if d := time.Since(begun); d > 5*time.Second+AttemptLease+time.Second {
			t.Errorf("it took %s", d)
		}
	})
}

// What is told to end may take longer than a lease for that, and keeps its
// attempt meanwhile.
func TestSlowRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := &flaky{stop: "cancelled by eva"}
		w := quietWorker(hub, func(ctx context.Context) Result {
			<-ctx.Done()
			time.Sleep(3 * AttemptLease)
			return Result{State: pipeline.Failed}
		})
		w.attempt(t.Context(), &Assignment{Timeout: time.Hour})
		if hub.finished.IsZero() || hub.gap() > BeatEvery+time.Second {
			t.Errorf("finished %s, %s without a heartbeat", hub.finished, hub.gap())
		}
	})
}

// A worker that was told to end and has something left to do says that it takes
// nothing more.
func TestDraining(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		begun, go_ := make(chan struct{}), make(chan struct{})
		w := quietWorker(f.engine, func(context.Context) Result {
			close(begun)
			<-go_
			return Result{State: pipeline.Passed}
		})
		w.Info = WorkerInfo{Name: "w", Slots: 1}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx, context.WithoutCancel(ctx)) }()
		id := f.submit("stages:\n  - {name: build, uses: work}\n  - {name: smoke, uses: work}\n")
		<-begun
		cancel()
		for limit := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			list, err := f.engine.Workers(t.Context())
			if err != nil || time.Now().After(limit) {
				t.Fatalf("%+v, %v", list, err)
			}
			if len(list) == 1 && list[0].Draining {
				break
			}
		}
		close(go_)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r, err := f.engine.Run(t.Context(), id)
		if err != nil || r.Stages[0].Status != pipeline.Passed || len(r.Stages[1].Attempts) != 0 {
			t.Errorf("%+v, %v", r.Stages[1], err)
		}
	})
}
