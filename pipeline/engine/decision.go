package engine

import (
	"time"

	"goldsmith/pipeline"
)

// PlannerVersion is part of each record of a plan: when it differs, a replay may
// decide otherwise than was decided.
const PlannerVersion = 1

// Policy is what a run does not change: its pipeline's stages, and limits.
type Policy struct {
	Pipeline string  `json:"pipeline"`
	Stages   []Stage `json:"stages"` // each after all that it needs
	// Timeout ends the run; 0 means never.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Stage is what the planner knows of a stage.
type Stage struct {
	Name  string   `json:"name"`
	Uses  string   `json:"uses"`
	Needs []string `json:"needs,omitempty"`
	// If says about what it needs: "passed" (the empty one), "failed" or "always".
	If string `json:"if,omitempty"`
	// Skip is why the run's inputs leave it out; empty: they do not.
	Skip string `json:"skip,omitempty"`
	// Retry is how often it is tried again, by class of failure.
	Retry      map[string]int    `json:"retry,omitempty"`
	RetryDelay time.Duration     `json:"retry_delay,omitempty"`
	Timeout    time.Duration     `json:"timeout"`
	Requires   []string          `json:"requires,omitempty"` // of its worker
	Matrix     map[string]string `json:"matrix,omitempty"`
}

// Snapshot is all that a plan depends on beside the policy.
type Snapshot struct {
	At  time.Time `json:"at"`
	Run RunNow    `json:"run"`
	// Tasks are the stages' tasks, in the policy's order.
	Tasks []TaskNow `json:"tasks"`
	// Busy is how many tasks of all runs are running or about to, Cap how many
	// may.
	Busy int `json:"busy"`
	Cap  int `json:"cap"`
	// Workers are those that were heard of lately and may work on the run.
	Workers []WorkerNow `json:"workers,omitempty"`
}

// RunNow is how a run stands.
type RunNow struct {
	ID    int64           `json:"id"`
	State pipeline.Status `json:"state"`
	Begun time.Time       `json:"begun"` // or begun again
	// Cancel is who wants it to end, and why; empty: nobody.
	Cancel string `json:"cancel,omitempty"`
	// Host is the only worker that may work on it; empty: any may.
	Host string `json:"host,omitempty"`
	// Newer is a newer run that takes its place; 0: none.
	Newer int64 `json:"newer,omitempty"`
}

// TaskNow is how a task stands.
type TaskNow struct {
	ID    int64           `json:"id"`
	State pipeline.Status `json:"state"`
	// Reason is why it is blocked, failed or skipped.
	Reason string `json:"reason,omitempty"`
	// Failures are the classes of its attempts that failed, oldest first.
	Failures []string `json:"failures,omitempty"`
	// Pardon is how many of them an operator has forgiven: they do not count.
	Pardon    int       `json:"pardon,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	Ended     time.Time `json:"ended,omitzero"`
	Image     string    `json:"image,omitempty"`
	Made      bool      `json:"made,omitempty"`
	// Stopping tells that the running attempt was told to end.
	Stopping bool `json:"stopping,omitempty"`
}

// WorkerNow is what a plan needs to know of a worker.
type WorkerNow struct {
	Name         string   `json:"name"`
	Capabilities []string `json:"capabilities,omitempty"`
}

// Do is what an action does.
type Do string

// The actions.
const (
	Start  Do = "start"  // a worker may take the task
	Retry  Do = "retry"  // a failed task is to be done again
	Skip   Do = "skip"   // the task will not be done
	Stop   Do = "stop"   // a running attempt is told to end; one that no worker has taken ends at once
	Finish Do = "finish" // the run has ended
)

// Action is something that must be done now.
type Action struct {
	Do     Do     `json:"do"`
	Stage  string `json:"stage,omitempty"`
	Image  string `json:"image,omitempty"` // Start: what to work on, by digest
	Reason string `json:"reason"`          // why, for people
	// State is what the task or the run is then: of Skip and Finish.
	State     pipeline.Status `json:"state,omitempty"`
	NotBefore time.Time       `json:"not_before,omitzero"` // Retry: not earlier
}

// Wait is something that is not done, and why.
type Wait struct {
	Stage  string `json:"stage"`
	Reason string `json:"reason"`
	// Slot tells that only the cap is in the way.
	Slot bool `json:"slot,omitempty"`
}

// Decision is what a plan comes to. Both lists are in the stages' order.
type Decision struct {
	Actions []Action `json:"actions,omitempty"`
	Waits   []Wait   `json:"waits,omitempty"`
	// Again is when to plan anew though nothing happens; zero: never.
	Again time.Time `json:"again,omitzero"`
}
