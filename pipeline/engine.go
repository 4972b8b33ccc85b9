package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
)

// Job is one attempt at a stage: what a step gets.
type Job struct {
	Run     string // the run's ID
	Stage   string
	Attempt int
	Dir     string    // the attempt's own directory: log, console.log, journal, junit.xml
	Image   string    // digest of the image to work on; empty when no stage made one
	Log     io.Writer // everything worth keeping
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
// tested: the stage is tried again then, by itself and once.
type Infra interface {
	error
	Infra() bool
}

// infraAttempts is how often a stage is tried of which the testbed fails.
const infraAttempts = 2

func isInfra(err error) bool {
	i, ok := errors.AsType[Infra](err)
	return ok && i.Infra()
}

// Engine runs pipelines.
type Engine struct {
	Dir      string          // where runs are kept: Dir/runs/ID
	Steps    map[string]Step // by stage name
	Progress *command.Progress
	Now      func() time.Time // the clock; nil means time.Now
	// Sweep removes what killed runs left behind. It is called when no other
	// run goes on; nil means there is nothing.
	Sweep func() error
}

// Run passes through the pipeline and returns the record of it. The error is
// about the engine itself or says that the run did not pass; the record is
// valid in both cases once a run has been begun.
func (e *Engine) Run(ctx context.Context, p *Pipeline, file string) (*Run, error) {
	unlock, err := e.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if e.Sweep != nil {
		if err := e.Sweep(); err != nil {
			return nil, fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	for _, s := range p.Stages {
		if c, ok := e.Steps[s.Name].(Checker); ok {
			if err := c.Check(ctx); err != nil {
				return nil, command.Hint(fmt.Errorf("stage %s: %w", s.Name, err), command.HintOf(err))
			}
		}
	}
	r, err := e.begin(p, file)
	if err != nil {
		return nil, err
	}
	return r, e.drive(ctx, r, p)
}

// drive does what the plan says until the run has ended. When the engine
// itself fails, the run's record says so.
func (e *Engine) drive(ctx context.Context, r *Run, p *Pipeline) error {
	for !r.Status.Ended() {
		if ctx.Err() != nil {
			e.finish(r, Interrupted, "interrupted")
			return errors.Join(context.Canceled, e.save(r))
		}
		err := e.advance(ctx, r, p)
		if err != nil {
			e.finish(r, Failed, err.Error())
		}
		if err = errors.Join(err, e.save(r)); err != nil {
			return err
		}
	}
	return verdict(r)
}

// advance does the next thing: all skips, then one stage; what it brings may
// change the plan.
func (e *Engine) advance(ctx context.Context, r *Run, p *Pipeline) error {
	actions := Plan(r, p)
	if len(actions) == 0 {
		return fmt.Errorf("run %s: nothing can be done and nothing is running", r.ID)
	}
	for _, a := range actions {
		switch a.Do {
		case Skip:
			s := r.stage(a.Stage)
			s.Status, s.Reason = Skipped, a.Reason
			e.Progress.Info("%s skipped: %s", a.Stage, a.Reason)
		case Start:
			return e.attempt(ctx, r, p, a)
		case Finish:
			e.finish(r, a.Status, a.Reason)
		}
	}
	return nil
}

func (e *Engine) finish(r *Run, s Status, reason string) {
	now := e.now()
	r.Status, r.Reason, r.Ended = s, reason, &now
}

func verdict(r *Run) error {
	switch r.Status {
	case Passed:
		return nil
	case Interrupted:
		return context.Canceled
	}
	e := &command.Error{Status: command.StatusFailed, Err: fmt.Errorf("run %s: %s", r.ID, r.Reason)}
	for _, s := range r.Stages {
		if s.Status == Failed {
			e.Status, e.Hint = s.Exit, s.Hint
			break
		}
	}
	return e
}

func (e *Engine) now() time.Time {
	if e.Now != nil {
		return e.Now().UTC()
	}
	return time.Now().UTC()
}

// lock keeps a second run out of the same directory.
func (e *Engine) lock() (func(), error) {
	// What hooks and tests print is not for everybody.
	if err := os.MkdirAll(filepath.Join(e.Dir, "runs"), 0o750); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(lockPath(e.Dir), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, command.Busy(fmt.Errorf("%s: another run is going on", e.Dir),
			"wait for it, or give this run a directory of its own with --dir")
	}
	return func() { _ = f.Close() }, nil
}

func lockPath(dir string) string { return filepath.Join(dir, "lock") }

// Going tells whether a run is going on in dir. A record that says "running"
// when none is belongs to a run that was killed.
func Going(dir string) bool {
	f, err := os.Open(lockPath(dir))
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// begin makes the record and the directory of a new run. Runs are numbered.
func (e *Engine) begin(p *Pipeline, file string) (*Run, error) {
	if err := e.closeDead(); err != nil {
		return nil, err
	}
	r := &Run{Pipeline: p.Name, File: file, Status: Running, Started: e.now()}
	for _, s := range p.Stages {
		r.Stages = append(r.Stages, &StageRun{Name: s.Name, Status: Todo})
	}
	ids, err := runIDs(e.Dir)
	if err != nil {
		return nil, err
	}
	next := 1
	if len(ids) > 0 {
		next = ids[len(ids)-1] + 1
	}
	r.ID = strconv.Itoa(next)
	if err := os.Mkdir(e.runDir(r), 0o755); err != nil {
		return nil, err
	}
	if err := e.save(r); err != nil {
		return nil, errors.Join(err, os.RemoveAll(e.runDir(r)))
	}
	return r, nil
}

// closeDead marks runs as interrupted whose process was killed: nobody else
// runs, the lock says so.
func (e *Engine) closeDead() error {
	runs, err := Runs(e.Dir)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if r.Status.Ended() {
			continue
		}
		now := e.now()
		r.Status, r.Reason, r.Ended = Interrupted, "its process was killed", &now
		for _, s := range r.Stages {
			if s.Status != Running {
				continue
			}
			s.Status, s.Reason = Interrupted, r.Reason
			if n := len(s.Attempts); n > 0 {
				s.Attempts[n-1].end(Interrupted, r.Reason, now)
			}
		}
		if err := e.save(r); err != nil {
			return err
		}
	}
	return nil
}

func (a *Attempt) end(s Status, reason string, at time.Time) {
	a.Status, a.Reason, a.Ended = s, reason, &at
}

func (e *Engine) runDir(r *Run) string { return filepath.Join(e.Dir, "runs", r.ID) }

func (e *Engine) save(r *Run) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(e.runDir(r), "run.json"), append(b, '\n'), 0o644)
}

// attempt runs a stage's step once and records how it ended.
func (e *Engine) attempt(ctx context.Context, r *Run, p *Pipeline, a Action) error {
	s := r.stage(a.Stage)
	n := len(s.Attempts) + 1
	dir := filepath.Join(e.runDir(r), s.Name, strconv.Itoa(n))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.Status, s.Image = Running, a.Image
	s.Attempts = append(s.Attempts, Attempt{Number: n, Status: Running, Started: e.now()})
	if err := e.save(r); err != nil {
		return err
	}
	step := e.Progress.Start(s.Name)
	out, err := e.runStep(ctx, p.stage(s.Name), &Job{
		Run: r.ID, Stage: s.Name, Attempt: n, Dir: dir, Image: a.Image, Log: log, Progress: e.Progress.Within(s.Name),
	})
	status, reason := Passed, ""
	switch {
	case err != nil && ctx.Err() != nil:
		status, reason = Interrupted, "interrupted"
	case err != nil:
		status, reason = Failed, err.Error()
		s.Exit, s.Hint = command.Status(err), command.HintOf(err)
		fmt.Fprintf(log, "failed: %v\n", err)
	}
	step.Done(err, "")
	s.Status, s.Reason = status, reason
	s.Attempts[n-1].end(status, reason, e.now())
	s.Attempts[n-1].Infra = status == Failed && isInfra(err)
	if s.Attempts[n-1].Infra && n < infraAttempts {
		s.Status, s.Exit, s.Hint = Todo, 0, ""
		e.Progress.Info("%s is tried again: the testbed failed: %s", s.Name, reason)
	}
	if out != nil {
		s.Notes = out.Notes
		if out.Image != "" {
			s.Image, s.Made = out.Image, true
		}
	}
	return nil
}

func (e *Engine) runStep(ctx context.Context, s *Stage, j *Job) (*Outcome, error) {
	limit, err := s.timeout()
	if err != nil {
		return nil, err
	}
	late := fmt.Errorf("did not end within %s", limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	out, err := e.Steps[s.Name].Run(ctx, j)
	if err != nil && errors.Is(context.Cause(ctx), late) && !errors.Is(err, late) {
		err = errors.Join(late, err) // what could not be released matters too
	}
	return out, err
}
