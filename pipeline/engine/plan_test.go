package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/pipeline"
)

// policy builds one from "name<need,need?if" words; a word without '<' needs the
// one before it.
func policy(list string) Policy {
	p := Policy{Pipeline: "t"}
	for w := range strings.FieldsSeq(list) {
		w, mode, _ := strings.Cut(w, "?")
		name, needs, given := strings.Cut(w, "<")
		s := Stage{Name: name, Uses: "work", If: mode, Retry: map[string]int{ClassInfra: 1}}
		switch {
		case needs != "":
			s.Needs = strings.Split(needs, ",")
		case !given && len(p.Stages) > 0:
			s.Needs = []string{p.Stages[len(p.Stages)-1].Name}
		}
		p.Stages = append(p.Stages, s)
	}
	return p
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// snapshot builds one from "name=state", "name=state@image" for what a stage
// made, and "name=failed:class,class" for how it failed.
func snapshot(p Policy, list string) Snapshot {
	s := Snapshot{At: noon, Run: RunNow{ID: 1, State: pipeline.Running, Begun: noon.Add(-time.Hour)}, Cap: 10, Workers: []WorkerNow{{Name: "w"}}}
	for range p.Stages {
		s.Tasks = append(s.Tasks, TaskNow{State: pipeline.Todo})
	}
	for w := range strings.FieldsSeq(list) {
		name, rest, _ := strings.Cut(w, "=")
		rest, classes, _ := strings.Cut(rest, ":")
		state, image, made := strings.Cut(rest, "@")
		t := &s.Tasks[slices.IndexFunc(p.Stages, func(s Stage) bool { return s.Name == name })]
		t.State, t.Image, t.Made = pipeline.Status(state), image, made
		if t.State == pipeline.Failed {
			t.Reason = "why"
			t.Failures = []string{"test"}
		}
		if classes != "" {
			t.Failures = strings.Split(classes, ",")
		}
	}
	return s
}

func text(d Decision) string {
	var out []string
	for _, a := range d.Actions {
		t := string(a.Do)
		if a.Stage != "" {
			t += " " + a.Stage
		}
		if a.Image != "" {
			t += "@" + a.Image
		}
		if a.Do == Finish {
			t += " " + string(a.State)
		}
		out = append(out, t+": "+a.Reason)
	}
	for _, w := range d.Waits {
		out = append(out, "not "+w.Stage+": "+w.Reason)
	}
	return strings.Join(out, "; ")
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct{ name, stages, state, want string }{
		{"the first", "build smoke", "", "start build: needs nothing; not smoke: needs build"},
		{"the image of the stage before", "build smoke", "build=passed@d1", "start smoke@d1: build passed"},
		{"wait for what runs", "build smoke", "build=running", "not smoke: needs build"},
		{"wait for a worker", "build", "build=ready", "not build: waits until a worker takes it"},
		{"a dead node", "build", "build=blocked", "not build: "},
		{"a failure skips what needs it", "build smoke promote", "build=failed", "skip smoke: build failed; not promote: needs smoke"},
		{"and what needs that", "build smoke promote", "build=failed smoke=skipped", "skip promote: smoke skipped"},
		{"the end, failed", "build smoke", "build=failed smoke=skipped", "finish failed: stage build failed: why"},
		{"the end, passed", "build smoke", "build=passed smoke=passed", "finish passed: all 2 stages passed"},
		{"the end, interrupted", "build smoke", "build=interrupted smoke=skipped", "finish interrupted: stage build interrupted: "},
		{"side by side", "build a<build b<build", "build=passed@d", "start a@d: build passed; start b@d: build passed"},
		{"one side fails, the other goes on", "build a<build b<build c<a", "build=passed@d a=failed", "start b@d: build passed; skip c: a failed"},
		{"two images, the later one counts", "one two<one three", "one=passed@d1 two=passed@d2", "start three@d2: two passed"},
		{"an image is not taken from the side", "one< two< three<one", "one=passed two=passed@d2", "start three: one passed"},
		{"infra is tried again", "build smoke", "build=failed:infra", "retry build: failure 1 of class infra, of which 1 are tried again: why; not smoke: needs build"},
		{"but once", "build", "build=failed:infra,infra", "finish failed: stage build failed: why"},
		{"a test is not", "build", "build=failed:test", "finish failed: stage build failed: why"},
		{"a lost worker is, more often", "build", "build=failed:lost,lost,lost", "retry build: failure 3 of class lost, of which 5 are tried again: why"},
		{"clean up after a failure", "build tidy<build?failed", "build=failed", "start tidy: build failed"},
		{"and not after a success", "build tidy<build?failed", "build=passed", "skip tidy: build passed"},
		{"whatever comes", "build tell<build?always", "build=failed", "start tell: build failed"},
		{"not while it may be tried again", "build tell<build?always", "build=failed:infra", "retry build: failure 1 of class infra, of which 1 are tried again: why; not tell: needs build"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := policy(tt.stages)
			if got := text(Plan(snapshot(p, tt.state), p)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestPlanLimits(t *testing.T) {
	p := policy("a< b< c<")
	s := snapshot(p, "")
	s.Cap, s.Busy = 5, 4
	want := "start a: needs nothing; not b: 5 tasks are running, which is the cap; not c: 5 tasks are running, which is the cap"
	if got := text(Plan(s, p)); got != want {
		t.Error(got)
	}
	s = snapshot(p, "a=running b=ready")
	s.Run.Cancel = "cancelled by eve"
	if got := text(Plan(s, p)); got != "stop a: cancelled by eve; skip b: cancelled by eve; skip c: cancelled by eve" {
		t.Error(got)
	}
	s = snapshot(p, "a=running b=cancelled c=cancelled")
	s.Run.Newer, s.Tasks[0].Stopping = 7, true
	if got := text(Plan(s, p)); got != "not a: is told to end" {
		t.Error(got)
	}
	s.Tasks[0].State = pipeline.Interrupted
	if got := text(Plan(s, p)); got != "finish cancelled: run 7 takes its place" {
		t.Error(got)
	}
	p.Timeout = time.Hour
	s = snapshot(p, "a=passed b=passed")
	if got := text(Plan(s, p)); got != "skip c: did not end within 1h0m0s; finish failed: did not end within 1h0m0s" {
		t.Error(got)
	}
	s.Workers, s.Run.Host, p.Timeout = nil, "gone", 0
	if got := text(Plan(s, p)); got != "not c: the process that worked on it is gone: 'imgpipe retry' goes on" {
		t.Error(got)
	}
}

// Whatever comes of the stages, a run ends, each stage begins after all that it
// needs, and what is decided depends on nothing but the snapshot.
func TestPlanEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "stages")
		p := Policy{Pipeline: "t"}
		for i := range n {
			s := Stage{Name: fmt.Sprint("s", i), Retry: map[string]int{ClassInfra: rapid.IntRange(0, 2).Draw(t, "retry")},
				If: rapid.SampledFrom([]string{"", "passed", "failed", "always"}).Draw(t, "if")}
			for j := range i {
				if rapid.IntRange(0, 3).Draw(t, "need") == 0 {
					s.Needs = append(s.Needs, fmt.Sprint("s", j))
				}
			}
			p.Stages = append(p.Stages, s)
		}
		s := snapshot(p, "")
		s.Cap = rapid.IntRange(1, 4).Draw(t, "cap")
		for range 40 * n {
			d := Plan(s, p)
			b, _ := json.Marshal(s)
			var same Snapshot
			if err := json.Unmarshal(b, &same); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(d, Plan(same, p)); diff != "" {
				t.Fatalf("a stored snapshot is decided otherwise:\n%s", diff)
			}
			for _, a := range d.Actions {
				act(t, p, &s, a)
			}
			if s.Run.State.Ended() {
				return
			}
			work(t, &s)
		}
		t.Fatalf("the run does not end: %+v", s.Tasks)
	})
}

// act does to a snapshot what an action says.
func act(t *rapid.T, p Policy, s *Snapshot, a Action) {
	if a.Do == Finish {
		s.Run.State = a.State
		return
	}
	i := slices.IndexFunc(p.Stages, func(st Stage) bool { return st.Name == a.Stage })
	task := &s.Tasks[i]
	switch a.Do {
	case Start:
		for _, n := range p.Stages[i].Needs {
			if need := s.Tasks[slices.IndexFunc(p.Stages, func(st Stage) bool { return st.Name == n })]; !need.State.Ended() {
				t.Fatalf("%s begins while %s is %s", a.Stage, n, need.State)
			}
		}
		task.State = pipeline.Running
		if s.Busy++; s.Busy > s.Cap {
			t.Fatalf("%d tasks at once, the cap is %d", s.Busy, s.Cap)
		}
	case Retry:
		task.State, task.NotBefore = pipeline.Todo, a.NotBefore
	case Skip:
		task.State, task.Reason = a.State, a.Reason
	}
}

// work ends some of what is running.
func work(t *rapid.T, s *Snapshot) {
	for i := range s.Tasks {
		task := &s.Tasks[i]
		if task.State != pipeline.Running || rapid.Bool().Draw(t, "goes on") {
			continue
		}
		s.Busy--
		if class := rapid.SampledFrom([]string{"", "", "test", ClassInfra, ClassLost}).Draw(t, "class"); class != "" {
			task.State, task.Failures, task.Reason = pipeline.Failed, append(task.Failures, class), class
		} else {
			task.State = pipeline.Passed
		}
	}
}
