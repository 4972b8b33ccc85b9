package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// TestMain runs more tests at a time than there are processors: many wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(storetest.Main(m))
}

// parse reads a pipeline whose stages all use "work".
func parse(t testing.TB, text string) *pipeline.Pipeline {
	t.Helper()
	p, err := pipeline.Parse("test.yaml", []byte("apiVersion: goldsmith/v1\nname: test\n"+text), nil, []string{"work"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const chain = `
stages:
  - {name: build, uses: work}
  - {name: smoke, uses: work}
  - {name: metal, uses: work, needs: [build]}
  - {name: promote, uses: work, needs: [smoke, metal]}
`

// floor is where work is done: an engine, its queue and one worker.
type floor struct {
	t      testing.TB
	where  string
	engine *Engine
	queue  Dispatcher

	mu   sync.Mutex
	log  []string                                        // stages, as they were begun
	work func(ctx context.Context, a *Assignment) Result // nil: passes at once
}

func open(t testing.TB, where string) *floor {
	t.Helper()
	f := &floor{t: t, where: where, engine: New(storetest.Open(t, where))}
	var err error
	if f.queue, err = StartDispatcher(t.Context(), f.engine); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.queue.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// hire starts a worker and returns what ends it, as a kill would when now.
func (f *floor) hire(name string, slots int, caps ...string) (end func()) {
	w := &Worker{Info: WorkerInfo{Name: name, Slots: slots, Capabilities: caps}, Hub: f.engine, Work: f.do}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx, ctx); err != nil {
			f.t.Error(err)
		}
	}()
	end = sync.OnceFunc(func() { cancel(); <-done })
	f.t.Cleanup(end)
	return end
}

func (f *floor) do(ctx context.Context, a *Assignment, m *command.Meter) Result {
	f.mu.Lock()
	f.log = append(f.log, fmt.Sprintf("%d/%s/%d", a.Run, a.Stage, a.Number))
	work := f.work
	f.mu.Unlock()
	if work == nil {
		return Result{State: pipeline.Passed}
	}
	return work(ctx, a)
}

func (f *floor) begun() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *floor) submit(text string) int64 {
	f.t.Helper()
	id, err := f.engine.Submit(f.t.Context(), Submission{Pipeline: parse(f.t, text), File: "test.yaml", Actor: "test"})
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// ended waits for a run's end.
func (f *floor) ended(run int64, limit time.Duration) *pipeline.Run {
	f.t.Helper()
	deadline := time.After(limit)
	for {
		changed := f.engine.Store().Changed()
		r, err := f.engine.Run(f.t.Context(), run)
		if err != nil {
			f.t.Fatal(err)
		}
		if r.Status.Ended() {
			return r
		}
		select {
		case <-changed:
		case <-deadline:
			f.t.Fatalf("run %d did not end: %s", run, stages(r))
		}
	}
}

func stages(r *pipeline.Run) string {
	parts := []string{string(r.Status)}
	for _, s := range r.Stages {
		parts = append(parts, s.Name+" "+string(s.Status))
	}
	return strings.Join(parts, ", ")
}

func TestPassing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		f.hire("w1", 2)
		f.work = func(_ context.Context, a *Assignment) Result {
			r := Result{State: pipeline.Passed, Notes: []string{"note of " + a.Stage}}
			if a.Stage == "build" {
				r.Image = "sha256:abc"
			} else if a.Image != "sha256:abc" {
				t.Errorf("%s works on %q", a.Stage, a.Image)
			}
			return r
		}
		r := f.ended(f.submit(chain), 20*time.Second)
		if got := stages(r); got != "passed, build passed, smoke passed, metal passed, promote passed" {
			t.Error(got)
		}
		log := f.begun()
		if len(log) != 4 || log[0] != "1/build/1" || log[3] != "1/promote/1" {
			t.Errorf("begun: %q", log)
		}
		if r.Stages[0].Notes[0] != "note of build" || !r.Stages[0].Made || r.Stages[3].Image != "sha256:abc" {
			t.Errorf("%+v", r.Stages[0])
		}
	})
}

func TestFailing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		f.hire("w1", 2)
		f.work = func(_ context.Context, a *Assignment) Result {
			switch {
			case a.Stage == "smoke":
				return Result{State: pipeline.Failed, Class: "test", Reason: "bad", Exit: 1}
			case a.Stage == "metal" && a.Number == 1:
				return Result{State: pipeline.Failed, Class: ClassInfra, Reason: "silent"}
			}
			return Result{State: pipeline.Passed}
		}
		id := f.submit(chain)
		r := f.ended(id, 20*time.Second)
		if got := stages(r); got != "failed, build passed, smoke failed, metal passed, promote skipped" {
			t.Error(got)
		}
		if n := len(r.Stages[2].Attempts); n != 2 || !r.Stages[2].Attempts[0].Infra {
			t.Errorf("metal: %+v", r.Stages[2].Attempts)
		}
		if r.Reason != "stage smoke failed: bad" || r.Stages[1].Exit != 1 {
			t.Errorf("%q", r.Reason)
		}
		// What passed is kept when the rest is tried again.
		f.mu.Lock()
		f.work, f.log = nil, nil
		f.mu.Unlock()
		if err := f.engine.Retry(t.Context(), id, "", "op", ""); err != nil {
			t.Fatal(err)
		}
		if got := stages(f.ended(id, 20*time.Second)); got != "passed, build passed, smoke passed, metal passed, promote passed" {
			t.Error(got)
		}
		if got := f.begun(); !slices.Equal(got, []string{"1/smoke/2", "1/promote/1"}) {
			t.Errorf("begun again: %q", got)
		}
	})
}

// A cancel reaches what is running within a second, from another process, too.
func TestCancel(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		f.hire("w1", 1)
		begun, stopped := make(chan struct{}), make(chan time.Time, 1)
		f.work = func(ctx context.Context, _ *Assignment) Result {
			close(begun)
			<-ctx.Done()
			stopped <- time.Now()
			return Result{State: pipeline.Failed, Reason: context.Cause(ctx).Error()}
		}
		id := f.submit(chain)
		<-begun
		other := New(storetest.Open(t, db.Where()))
		at := time.Now()
		if err := other.Cancel(t.Context(), id, "eve", "wrong branch"); err != nil {
			t.Fatal(err)
		}
		if d := (<-stopped).Sub(at); d > time.Second {
			t.Errorf("the cancel took %s", d)
		} else {
			t.Logf("the cancel took %s", d)
		}
		r := f.ended(id, 20*time.Second)
		if got := stages(r); got != "cancelled, build interrupted, smoke cancelled, metal cancelled, promote cancelled" || r.Reason != "cancelled by eve: wrong branch" {
			t.Errorf("%s: %s", got, r.Reason)
		}
	})
}

// A worker that is silent loses its attempt; what is finished is not repeated.
func TestLostWorker(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		id := f.submit(chain)
		claim := func(name string) *Assignment {
			t.Helper()
			a, err := f.engine.Claim(t.Context(), WorkerInfo{Name: name, Slots: 1}, 5*time.Second)
			if err != nil || a == nil {
				t.Fatalf("no assignment: %v", err)
			}
			return a
		}
		a := claim("w1")
		if err := f.engine.Finish(t.Context(), a.Attempt, Result{State: pipeline.Passed, Image: "sha256:abc"}); err != nil {
			t.Fatal(err)
		}
		dead := claim("w1")
		later := time.Now().Add(AttemptLease + time.Second)
		skewed := New(f.engine.Store()) // the same database, later
		skewed.Now = func() time.Time { return later }
		if _, err := skewed.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := claim("w2")
		if again.Stage != "smoke" && again.Stage != "metal" {
			t.Errorf("%+v", again)
		}
		if o, err := f.engine.Beat(t.Context(), dead.Attempt, "", time.Second); err != nil || !o.Lost {
			t.Errorf("a silent worker's beat: %+v, %v", o, err)
		}
		if err := f.engine.Finish(t.Context(), dead.Attempt, Result{State: pipeline.Passed}); !errors.Is(err, ErrLost) {
			t.Errorf("a silent worker's result: %v", err)
		}
		if err := f.engine.Finish(t.Context(), again.Attempt, Result{State: pipeline.Passed}); err != nil {
			t.Fatal(err)
		}
		f.hire("w3", 1)
		r := f.ended(id, 30*time.Second)
		if got := stages(r); got != "passed, build passed, smoke passed, metal passed, promote passed" {
			t.Error(got)
		}
		if n := len(r.Stages[0].Attempts); n != 1 {
			t.Errorf("build was done %d times", n)
		}
	})
}

// A worker that ends gives its work back, and that does not count as a failure.
func TestDrain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		begun := make(chan struct{}, 8)
		f.work = func(ctx context.Context, a *Assignment) Result {
			begun <- struct{}{}
			if a.Number == 1 && a.Stage == "build" {
				<-ctx.Done()
				return Result{State: pipeline.Failed, Reason: "interrupted"}
			}
			return Result{State: pipeline.Passed}
		}
		end := f.hire("w1", 1)
		id := f.submit(chain)
		<-begun
		end()
		f.hire("w2", 1)
		r := f.ended(id, 20*time.Second)
		if got := stages(r); got != "passed, build passed, smoke passed, metal passed, promote passed" || len(r.Stages[0].Attempts) != 2 {
			t.Errorf("%s, %+v", got, r.Stages[0].Attempts)
		}
	})
}

func TestSupersede(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		text := "concurrency: {group: main, supersede: true}\n" + chain
		old := f.submit(text)
		young := f.submit(text)
		f.hire("w1", 1)
		if r := f.ended(young, 20*time.Second); r.Status != pipeline.Passed {
			t.Error(stages(r))
		}
		if r := f.ended(old, 20*time.Second); r.Status != pipeline.Cancelled || r.Reason != fmt.Sprintf("run %d takes its place", young) {
			t.Errorf("%s: %s", stages(r), r.Reason)
		}
	})
}

// Only a worker that has what a stage requires takes it; until there is one the
// record says so.
func TestRequires(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		f.hire("w1", 1)
		id := f.submit("stages:\n  - {name: build, uses: work, requires: [kvm]}\n")
		deadline := time.Now().Add(20 * time.Second)
		for {
			r, err := f.engine.Run(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if r.Stages[0].Reason == "no worker has kvm" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v", r.Stages[0])
			}
			time.Sleep(50 * time.Millisecond)
		}
		f.hire("w2", 1, "kvm")
		if r := f.ended(id, 20*time.Second); r.Status != pipeline.Passed {
			t.Error(stages(r))
		}
	})
}
