package engine

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// Every decision about a run is kept, can be shown and drawn, and comes out the
// same when it is made again.
func TestHistory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		f.hire("w1", 2)
		f.work = func(_ context.Context, a *Assignment) Result {
			if a.Stage == "metal" && a.Number == 1 {
				return Result{State: pipeline.Failed, Class: ClassInfra, Reason: "silent"}
			}
			return Result{State: pipeline.Passed, Image: "sha256:abc"}
		}
		id := f.submit(chain)
		f.ended(id, 20*time.Second)
		ctx := t.Context()
		list, err := f.engine.History(ctx, Filter{Run: id})
		if err != nil || len(list) < 5 {
			t.Fatalf("%d decisions, %v", len(list), err)
		}
		done := map[string]int{}
		for _, tr := range list {
			s, err := f.engine.Show(ctx, tr.ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range s.Output.Actions {
				done[string(a.Do)+" "+a.Stage]++
			}
			if len(s.Events) == 0 {
				t.Errorf("decision %d: nothing happened around it", tr.ID)
			}
			wellFormed(t, SVG(s.Rules, s.Input, s.Output))
			if dot := DOT(s.Rules, s.Input, s.Output); !strings.Contains(dot, `"build" -> "smoke";`) {
				t.Error(dot)
			}
			if d := Compare(s, s); len(d) > 0 {
				t.Errorf("decision %d differs from itself: %v", tr.ID, d)
			}
		}
		if done["start metal"] != 2 || done["retry metal"] != 1 || done["start build"] != 1 || done["finish "] != 1 {
			t.Errorf("%v", done)
		}
		differ, n, err := f.engine.ReplayAll(ctx, Filter{})
		if err != nil || len(differ) > 0 || n != len(list) {
			t.Errorf("%d of %d decisions come out otherwise: %+v, %v", len(differ), n, differ, err)
		}
		first, err := f.engine.Show(ctx, list[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		last, err := f.engine.Show(ctx, list[len(list)-1].ID)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(Compare(first, last))
		if !strings.Contains(text, "{state: build todo passed}") || !strings.Contains(text, "{action: finish  passed: all 4 stages passed}") {
			t.Error(text)
		}
		// A planner that decides otherwise is found.
		first.Output.Actions[0].Reason = "whim"
		if d := Replay(first); len(d) != 1 || d[0].A != "whim" {
			t.Errorf("%v", d)
		}
		if _, err := f.engine.Show(ctx, 9999); !errors.Is(err, ErrNoTransition) {
			t.Error(err)
		}
		for name, filter := range map[string]Filter{"actor": {Actor: "nobody"}, "image": {Image: "sha256:other"}, "before": {Before: list[0].ID}, "run": {Run: id + 1}} {
			if l, err := f.engine.History(ctx, filter); err != nil || len(l) > 0 {
				t.Errorf("%s: %v, %v", name, l, err)
			}
		}
		if l, err := f.engine.History(ctx, Filter{Image: "sha256:abc"}); err != nil || len(l) != len(list) {
			t.Errorf("of the image: %d, %v", len(l), err)
		}
		if past, err := f.engine.Past(ctx, "test"); err != nil || past["smoke"].N != 1 {
			t.Errorf("%v, %v", past, err)
		}
	})
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
	}
}

func TestSimulate(t *testing.T) {
	p := PolicyOf(parse(t, chain))
	w := WorkerNow{Name: "w"}
	minute := Duration{P50: time.Minute, P90: 2 * time.Minute, N: 5}
	past := Past{"build": minute, "smoke": minute, "metal": minute, "promote": minute}
	for _, tt := range []struct {
		name     string
		sc       Scenario
		workers  []WorkerNow
		state    pipeline.Status
		took     time.Duration
		attempts string
	}{
		{"nothing goes wrong", Scenario{Past: past, Slots: 2}, []WorkerNow{w}, pipeline.Passed, 3 * time.Minute, "build 1 smoke 1 metal 1 promote 1"},
		{"one at a time", Scenario{Past: past}, []WorkerNow{w}, pipeline.Passed, 4 * time.Minute, "build 1 smoke 1 metal 1 promote 1"},
		{"on a slow day", Scenario{Past: past, Slots: 2, Slow: true}, []WorkerNow{w}, pipeline.Passed, 6 * time.Minute, "build 1 smoke 1 metal 1 promote 1"},
		{"a node dies", Scenario{Past: past, Slots: 2, Faults: []Fault{{"node-dies", "metal", 1}}}, []WorkerNow{w}, pipeline.Passed, 3*time.Minute + 30*time.Second, "build 1 smoke 1 metal 2 promote 1"},
		{"a controller is silent for ever", Scenario{Past: past, Slots: 2, Faults: []Fault{{"bmc-silent", "metal", 0}}}, []WorkerNow{w}, pipeline.Failed, 2 * time.Minute, "build 1 smoke 1 metal 2 promote 0"},
		{"a test fails", Scenario{Past: past, Slots: 2, Faults: []Fault{{"test-fails", "smoke", 0}}}, []WorkerNow{w}, pipeline.Failed, 2 * time.Minute, "build 1 smoke 1 metal 1 promote 0"},
		{"nobody is there", Scenario{Past: past}, nil, pipeline.Running, 0, "build 0 smoke 0 metal 0 promote 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := Fresh(p, noon, 10, tt.workers...)
			got := Simulate(before, p, tt.sc)
			var attempts []string
			for _, s := range p.Stages {
				attempts = append(attempts, fmt.Sprintf("%s %d", s.Name, got.Tasks[s.Name]))
			}
			if got.State != tt.state || got.Took != tt.took || strings.Join(attempts, " ") != tt.attempts {
				t.Errorf("%s after %s, %v: %s\n%+v", got.State, got.Took, attempts, got.Reason, got.Moments)
			}
			if before.Tasks[0].State != pipeline.Todo {
				t.Error("the snapshot was changed")
			}
		})
	}
	for _, bad := range []string{"", "x@y", "node-dies", "node-dies@", "node-dies@a:0", "node-dies@a:x"} {
		if _, err := ParseFault(bad); err == nil {
			t.Errorf("fault %q was taken", bad)
		}
	}
}

// What a run that goes on would do under a changed file: what has passed stays.
func TestSimulateChange(t *testing.T) {
	from := policy("build smoke")
	to := policy("build smoke extra")
	s := Carry(snapshot(from, "build=passed@d smoke=running"), from, to)
	got := Simulate(s, to, Scenario{})
	if got.State != pipeline.Passed || got.Tasks["build"] != 0 || got.Tasks["extra"] != 1 {
		t.Errorf("%+v", got)
	}
}

// Histories of 10,000 runs (GOLDSMITH_HISTORY) are listed, shown and compared.
func BenchmarkHistory(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgresql"} {
		e := New(storetest.Open(b, storetest.Where(b, kind)))
		fill(b, e, 10000)
		ctx := b.Context()
		list, err := e.History(ctx, Filter{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(kind+"/list", func(b *testing.B) {
			for b.Loop() {
				if _, err := e.History(ctx, Filter{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(kind+"/list of a run", func(b *testing.B) {
			for b.Loop() {
				if _, err := e.History(ctx, Filter{Run: 5000}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(kind+"/show and diff", func(b *testing.B) {
			for b.Loop() {
				x, err := e.Show(ctx, list[0].ID)
				if err != nil {
					b.Fatal(err)
				}
				y, err := e.Show(ctx, list[49].ID)
				if err != nil {
					b.Fatal(err)
				}
				Compare(x, y)
			}
		})
		b.Run(kind+"/status", func(b *testing.B) {
			for b.Loop() {
				if _, err := e.Runs(ctx, 20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fill makes runs that have ended, with five decisions each, by one transaction a
// hundred runs: their rows are those that the engine writes.
func fill(b *testing.B, e *Engine, runs int) {
	b.Helper()
	p := parse(b, chain)
	first, err := e.Submit(b.Context(), Submission{Pipeline: p, File: "p.yaml"})
	if err != nil {
		b.Fatal(err)
	}
	var pol, source string
	ctx := b.Context()
	for n := 1; n < runs; n += 100 {
		err := e.db.Tx(ctx, func(tx *store.Tx) error {
			if err := tx.QueryRow(ctx, "SELECT policy, source FROM run WHERE id = ?", first).Scan(&pol, &source); err != nil {
				return err
			}
			for range min(100, runs-n) {
				if err := one(ctx, tx, e, p, pol, source); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func one(ctx context.Context, tx *store.Tx, e *Engine, p *pipeline.Pipeline, pol, source string) error {
	id, err := tx.Insert(ctx, `INSERT INTO run (pipeline, file, source, policy, inputs, state, created, begun, ended) VALUES ('test', 'p.yaml', ?, ?, '{}', 'passed', 1, 1, 2)`, source, pol)
	if err == nil {
		err = e.addTasks(ctx, tx, id, p)
	}
	if err == nil {
		_, err = tx.Exec(ctx, "UPDATE task SET state = 'passed', image = ? WHERE run = ?", fmt.Sprintf("sha256:%064d", id), runName(id))
	}
	if err == nil {
		_, err = tx.Exec(ctx, `INSERT INTO attempt (task, number, worker, state, started, expires, ended) SELECT id, 1, 'w', 'passed', 1, 2, 2 FROM task WHERE run = ?`, runName(id))
	}
	r := &runRow{RunNow: RunNow{ID: id}, policy: pol}
	for i := 0; i < 5 && err == nil; i++ {
		s := Fresh(PolicyOf(p), noon.Add(time.Duration(id)*time.Second), 10, WorkerNow{Name: "w"})
		s.Run.ID = id
		for k := range i {
			s.Tasks[min(k, 3)].State = pipeline.Passed
		}
		err = e.record(ctx, tx, r, &s, Plan(s, PolicyOf(p)), "something happened", "")
		if err == nil {
			err = e.event(ctx, tx, id, "task", "w", "stage %d", i)
		}
	}
	return err
}
