package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
)

// Runner does attempts at stages on this machine, in its store.
type Runner struct {
	Env      Env // File is each pipeline's own
	Progress *command.Progress
}

// Work does an attempt: engine.Worker's Work.
func (r *Runner) Work(ctx context.Context, a *engine.Assignment, m *command.Meter) engine.Result {
	step := r.Progress.Start(a.Stage)
	out, err := r.attempt(ctx, a, m)
	step.Done(err, "")
	return result(ctx, out, err)
}

// result says how an attempt ended in the engine's words.
func result(ctx context.Context, out *pipeline.Outcome, err error) engine.Result {
	res := engine.Result{State: pipeline.Passed}
	if out != nil {
		res.Image, res.Notes = out.Image, out.Notes
	}
	if err == nil {
		return res
	}
	res.State, res.Reason = pipeline.Failed, err.Error()
	res.Exit, res.Hint = command.Status(err), command.HintOf(err)
	if c, ok := errors.AsType[pipeline.Classed](err); ok {
		res.Class = string(c.Class())
	}
	if i, ok := errors.AsType[pipeline.Infra](err); ok && i.Infra() {
		res.Class = engine.ClassInfra
	}
	if c := context.Cause(ctx); errors.Is(c, engine.ErrStopped) {
		res.State, res.Reason = pipeline.Interrupted, c.Error()
	}
	return res
}

func (r *Runner) attempt(ctx context.Context, a *engine.Assignment, m *command.Meter) (*pipeline.Outcome, error) {
	steps, err := r.of(a)
	if err != nil {
		return nil, err
	}
	// What hooks and tests print is not for everybody.
	if err := os.MkdirAll(filepath.Join(r.Env.Store.Dir, "runs"), 0o750); err != nil {
		return nil, err
	}
	dir := engine.AttemptDir(r.Env.Store.Dir, a.Run, a.Stage, a.Number)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	step := steps[a.Stage]
	if c, ok := step.(pipeline.Checker); ok {
		if err := c.Check(ctx); err != nil {
			return nil, err
		}
	}
	out, err := step.Run(ctx, &pipeline.Job{
		Run: fmt.Sprint(a.Run), Task: a.Task, Stage: a.Stage, Attempt: a.Number, Dir: dir, Image: a.Image, Log: &boundedLog{w: log, left: engine.MaxLog},
		Inputs: a.Inputs, Author: a.Author, Progress: r.Progress.Within(a.Stage).Metered(m),
	})
	if err != nil {
		fmt.Fprintf(log, "failed: %.16000v\n", err)
	}
	say := func(format string, args ...any) { fmt.Fprintf(log, format+"\n", args...) }
	if bad := shrink(dir, engine.MaxFiles, say); bad != nil {
		say("what it left could not be measured: %v", bad)
	}
	return out, err
}

// of makes the steps of an assignment's pipeline. What the file names, keys and
// channels, is read anew for each attempt: it may have changed.
func (r *Runner) of(a *engine.Assignment) (map[string]pipeline.Step, error) {
	p, err := pipeline.Parse(a.File, a.Source, a.Inputs, Names())
	if err != nil {
		return nil, err
	}
	env := r.Env
	env.File = a.File
	return New(env, p)
}

// Keep writes a run's record beside its files, as run.json.
func Keep(dir, id string, r *pipeline.Run) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	runs := filepath.Join(dir, "runs", filepath.Base(id))
	if err := os.MkdirAll(runs, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(runs, "run.json"), append(b, '\n'), 0o644)
}
