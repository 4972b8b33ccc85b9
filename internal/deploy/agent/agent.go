// Package agent is what a machine's agent does with its tasks: it takes an
// inventory, runs deploy steps, writes an image so that the disk starts all of
// it or nothing, and cleans disks. cmd/imgagent is the program around it, which brings
// up the machine and the network.
//
// A deploy task goes through steps in the order of their names. Those below are
// built in; executables NN-name in [Config].Steps slot in between:
//
//	05-inventory  what the machine has
//	10-image      open the image, check its signature and that of the seed all is there
//	15-disks      choose disks by the storage wish
//	30-disk       take the disk that a step named, or the first one chosen
//	50-write      wipe the disk's edges, write the image but for its edges
//	60-verify     read it back
//	70-seed       make the partition table the disk's own, write the seed
//	80-boot       write the edges: from here on the disk can be started
//	90-finish     get ready to restart
//
// Whatever fails before 80-boot leaves a disk that nothing starts. An executable
// reads a [StepInput] as JSON and may answer with a [StepOutput]; what it says on
// standard error goes to the log. It has fixed variables for what a shell script
// wants: PATH, GOLDSMITH_LEVEL, GOLDSMITH_DISKS (device files that were chosen,
// separated by spaces) and GOLDSMITH_DISK (what was named so far, or empty).
package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/uki"
)

// Config says where an agent works. Tests give it directories of their own.
type Config struct {
	Client   *deploy.Client
	Reporter *deploy.Reporter
	Say      func(format string, args ...any) // a line for console and log
	Sys      string                           // /sys
	Proc     string                           // /proc
	Dev      string                           // /dev; deploy steps may name disks below it only
	Steps    string                           // directory of executables; it may be missing
	Scratch  string                           // a directory in memory
	BootMAC  string                           // of the network card that the machine was started by; may be empty
	// Restart ends the machine's time as an agent. It returns only when it cannot.
	Restart func(deploy.Finish) error
	// LoadKexec gets the kernel ready that Restart starts for kexec; nil is the
	// running kernel's own way.
	LoadKexec func(*uki.Image) error
}

// Agent does tasks.
type Agent struct{ Config }

// New makes an agent.
func New(c Config) *Agent {
	if c.LoadKexec == nil {
		c.LoadKexec = (*uki.Image).LoadKexec
	}
	return &Agent{c}
}

// refusedPause is how long an agent whose token does not count waits before it
// asks again: somebody will restart the machine.
const refusedPause = time.Minute

// Run asks for tasks and does them until ctx ends. After a failure it waits for
// the next task, and never restarts the machine by itself.
func (a *Agent) Run(ctx context.Context) error {
	last := ""
	for ctx.Err() == nil {
		t, err := a.Client.Task(ctx, last)
		if no, refused := errors.AsType[*deploy.Refusal](err); refused {
			a.Say("the server says: %v", no)
			pause := refusedPause
			if no.Status != http.StatusUnauthorized && no.Status != http.StatusGone {
				pause /= 10
			}
			wait(ctx, pause)
			continue
		}
		if err != nil {
			a.Say("no task: %v", err)
			wait(ctx, refusedPause/10)
			continue
		}
		if t.Kind == deploy.Wait {
			continue
		}
		last = t.ID
		a.do(ctx, t)
	}
	return ctx.Err()
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// do does one task, tells how it ended, and restarts the machine after a good
// deployment.
func (a *Agent) do(ctx context.Context, t *deploy.Task) {
	a.Say("task %s: %s", t.ID, t.Kind)
	r := a.perform(ctx, t)
	if r.OK() {
		a.Say("task %s: done", t.ID)
	} else {
		a.Say("TASK %s FAILED in step %s: %s", t.ID, r.Step, r.Error)
	}
	// The log first: a server that has the result may take the machine's power.
	limited, stop := context.WithTimeout(ctx, flushTime)
	if err := a.Reporter.Flush(limited); err != nil {
		a.Say("the log did not reach the server: %v", err)
	}
	stop()
	if err := a.Client.Result(ctx, r); err != nil {
		a.Say("the result did not reach the server: %v", err)
		if _, refused := errors.AsType[*deploy.Refusal](err); refused {
			return // the machine is somebody else's now
		}
	}
	if r.OK() && t.Kind == deploy.Deploy {
		if err := a.Restart(t.Finish); err != nil {
			a.Say("FAILED: restart: %v", err)
		}
	}
}

// flushTime is how long a result waits for the log.
const flushTime = 30 * time.Second

// perform runs a task's steps. A panic fails the step that it happens in.
func (a *Agent) perform(ctx context.Context, t *deploy.Task) *deploy.Result {
	r := &run{Agent: a, task: t, result: &deploy.Result{Task: t.ID, Seconds: map[string]float64{}}}
	defer r.close()
	steps, err := r.steps()
	if err != nil {
		r.fail("00-steps", err)
		return r.result
	}
	for _, s := range steps {
		r.event(deploy.Event{Step: s.name, State: deploy.Begin})
		a.Say("step %s", s.name)
		begun := time.Now()
		err := guarded(func() error { return s.do(ctx) })
		r.result.Seconds[s.name] = time.Since(begun).Round(time.Millisecond).Seconds()
		if err != nil {
			r.fail(s.name, err)
			return r.result
		}
		r.event(deploy.Event{Step: s.name, State: deploy.End})
	}
	return r.result
}

// guarded turns a panic into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return f()
}

func (r *run) event(e deploy.Event) {
	e.Task, e.Time = r.task.ID, time.Now().UTC()
	r.Reporter.Event(e)
}

func (r *run) fail(step string, err error) {
	text := err.Error()
	if hint := command.HintOf(err); hint != "" {
		text += " (" + hint + ")"
	}
	text = text[:min(len(text), deploy.MaxError)]
	r.result.Step, r.result.Error = step, text
	if _, ok := errors.AsType[*imageError](err); ok {
		r.result.Fault = deploy.ImageFault
	}
	r.event(deploy.Event{Step: step, State: deploy.Failed, Error: text})
}

// tell returns a function that tells the server how far a step is, not more
// often than every second.
func (r *run) tell(step string) func(done, total int64) {
	var last time.Time
	return func(done, total int64) {
		if now := time.Now(); done == total || now.Sub(last) >= time.Second {
			last = now
			r.event(deploy.Event{Step: step, State: deploy.Progress, Done: done, Total: total})
		}
	}
}
