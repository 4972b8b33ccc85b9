package pipeline

import (
	"fmt"
	"strings"
	"time"
)

// Status is how a run, a stage or an attempt stands.
type Status string

// The statuses. Todo is a stage's before anything happened to it.
const (
	Todo        Status = "todo"
	Running     Status = "running"
	Passed      Status = "passed"
	Failed      Status = "failed"
	Skipped     Status = "skipped" // what it needs did not pass
	Ready       Status = "ready"   // a worker may take it
	Blocked     Status = "blocked" // its node is not alive
	Cancelled   Status = "cancelled"
	Interrupted Status = "interrupted"
)

// Ended tells whether the status is final.
func (s Status) Ended() bool {
	return s != Todo && s != Ready && s != Blocked && s != Running
}

// Run is the record of one passage through a pipeline: run.json. Times are
// wall clock, in UTC.
type Run struct {
	ID       string `json:"id"`
	Pipeline string `json:"pipeline"` // its name
	File     string `json:"file"`     // the pipeline file, absolute: a later promotion reads it
	Status   Status `json:"status"`
	Reason   string `json:"reason,omitempty"` // one line: why it ended so
	// Source is the SHA-256 of the pipeline file as it was read.
	Source string            `json:"source,omitempty"`
	Inputs map[string]string `json:"inputs,omitempty"`
	Author string            `json:"author,omitempty"` // of what was built
	// Host is the only worker that works on it; empty: any does.
	Host    string      `json:"host,omitempty"`
	Started time.Time   `json:"started"`
	Ended   *time.Time  `json:"ended,omitempty"`
	Stages  []*StageRun `json:"stages"` // in the pipeline's order
}

// StageRun is the record of one stage.
type StageRun struct {
	Name     string    `json:"name"`
	Status   Status    `json:"status"`
	Reason   string    `json:"reason,omitempty"`
	Hint     string    `json:"hint,omitempty"`        // what to do about a failure, where that is known
	Exit     int       `json:"exit_status,omitempty"` // of a failure: what the program ends with (docs/formats.md)
	Attempts []Attempt `json:"attempts,omitempty"`
	Node     string    `json:"node,omitempty"` // of the inventory, while it runs on one
	// Image is the digest of the image that the stage made or worked on.
	Image string `json:"image,omitempty"`
	// Made tells whether the stage made Image: later stages work on it.
	Made bool `json:"made,omitempty"`
	// Notes are what the stage wants to have said at the end, one line each.
	Notes []string `json:"notes,omitempty"`
}

// Attempt is one try at a stage's work.
type Attempt struct {
	Number int    `json:"number"` // from 1 on; its files lie in STAGE/NUMBER
	Worker string `json:"worker,omitempty"`
	Status Status `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Class says whose fault a failure is: test, image, infra, flake, unknown, or
	// lost, when its worker was silent.
	Class    string `json:"class,omitempty"`
	Progress string `json:"progress,omitempty"` // how far it is, in a line
	// Infra tells that the testbed failed, and not what was tested.
	Infra   bool       `json:"infra,omitempty"`
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended,omitempty"`
}

// stage returns the record of the stage called name, or nil.
func (r *Run) stage(name string) *StageRun {
	for _, s := range r.Stages {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Action is one thing that must happen next.
type Action struct {
	Do     Do     `json:"do"`
	Stage  string `json:"stage,omitempty"`
	Image  string `json:"image,omitempty"`  // Start: the image to work on, by digest
	Status Status `json:"status,omitempty"` // Finish: how the run ended
	Reason string `json:"reason"`           // why, for people
}

// Do is what an action does.
type Do string

// The actions.
const (
	Start  Do = "start"  // begin an attempt at a stage
	Skip   Do = "skip"   // a stage will not be tried
	Finish Do = "finish" // the run has ended
)

// Plan decides what must happen next in a run: it depends on nothing but its
// arguments and changes neither. An empty plan means: wait for what is
// running. Actions come in the pipeline's order; skips and starts may all be
// done at once, a finish comes alone.
func Plan(r *Run, p *Pipeline) []Action {
	if r.Status.Ended() {
		return nil
	}
	var actions []Action
	open := false
	for i, s := range p.Stages {
		rec := r.stage(s.Name)
		if rec == nil {
			rec = &StageRun{Status: Todo}
		}
		if rec.Status == Running {
			open = true
		}
		if rec.Status != Todo {
			continue
		}
		open = true
		if a, ok := planStage(r, p, i); ok {
			actions = append(actions, a)
		}
	}
	if open {
		return actions
	}
	return []Action{finish(r, p)}
}

// planStage decides about a stage that nothing has happened to.
func planStage(r *Run, p *Pipeline, i int) (Action, bool) {
	s := p.Stages[i]
	var missing, waiting []string
	for _, n := range p.needs(i) {
		switch rec := r.stage(n); {
		case rec == nil || !rec.Status.Ended():
			waiting = append(waiting, n)
		case rec.Status != Passed:
			missing = append(missing, fmt.Sprintf("%s %s", n, rec.Status))
		}
	}
	switch {
	case len(missing) > 0:
		return Action{Do: Skip, Stage: s.Name, Reason: strings.Join(missing, ", ")}, true
	case len(waiting) > 0:
		return Action{}, false
	}
	reason := "needs nothing"
	if needs := p.needs(i); len(needs) > 0 {
		reason = strings.Join(needs, ", ") + " passed"
	}
	if rec := r.stage(s.Name); rec != nil && len(rec.Attempts) > 0 {
		reason = "tried again: " + rec.Attempts[len(rec.Attempts)-1].Reason
	}
	return Action{Do: Start, Stage: s.Name, Image: imageFor(r, p, i), Reason: reason}, true
}

// imageFor returns the image that a stage works on: the one made by the last
// of the stages before it that made one.
func imageFor(r *Run, p *Pipeline, i int) string {
	image := ""
	for _, n := range p.before(i) {
		if rec := r.stage(n); rec != nil && rec.Made {
			image = rec.Image
		}
	}
	return image
}

// finish says how a run ended in which no stage is open.
func finish(r *Run, p *Pipeline) Action {
	for _, s := range p.Stages {
		if rec := r.stage(s.Name); rec.Status == Failed || rec.Status == Interrupted {
			return Action{Do: Finish, Status: rec.Status, Reason: fmt.Sprintf("stage %s %s: %s", s.Name, rec.Status, rec.Reason)}
		}
	}
	return Action{Do: Finish, Status: Passed, Reason: fmt.Sprintf("all %d stages passed", len(p.Stages))}
}
