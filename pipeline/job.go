package pipeline

import (
	"context"
	"io"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
)

// Job is one attempt at a stage: what a step gets.
type Job struct {
	Run     string // the run's number
	Task    int64  // the stage's, in the tables
	Stage   string
	Attempt int       // counted from 1
	Dir     string    // the attempt's own directory: log, console.log, journal, junit.xml
	Image   string    // digest of the image to work on; empty when no stage made one
	Log     io.Writer // everything worth keeping
	// Inputs are the run's, Author is who made what is built; both may be empty.
	Inputs map[string]string
	Author string
	// Progress tells people how the work goes.
	Progress *command.Progress
}

// Outcome is what a step leaves for the run's record.
type Outcome struct {
	Image string   // digest of the image it made; empty when it made none
	Notes []string // to be said at the end of the run, one line each
}

// Step does a stage's work. It releases everything it took before it returns,
// also when ctx is cancelled.
type Step interface {
	Run(ctx context.Context, j *Job) (*Outcome, error)
}

// Checker is a step that can tell, before a run begins, that this machine
// lacks what it needs: better now than after an hour of other stages.
type Checker interface {
	Check(ctx context.Context) error
}

// Infra is an error that may say that the testbed failed, and not what was
// tested.
type Infra interface {
	error
	Infra() bool
}

// Classed is an error that says whose fault it is.
type Classed interface {
	error
	Class() evidence.Class
}
