package pipeline

import "time"

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
	Needs    []string  `json:"needs,omitempty"` // stages
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

// Kind tells whether a word can name a kind of evidence.
func Kind(word string) bool { return nameRE.MatchString(word) }
