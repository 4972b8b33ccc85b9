package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
)

// Worker takes tasks from a hub and does them.
type Worker struct {
	Info WorkerInfo
	Hub  Hub
	// Work does an attempt, whose steps m measures. It releases everything it took
	// before it returns, also when ctx is cancelled; its cause says why then.
	Work func(ctx context.Context, a *Assignment, m *command.Meter) Result
	// Can has capabilities that come while the worker runs, beside Info's; nil means
	// that there are none.
	Can func() []string
	Log *slog.Logger // nil: nothing is said
}

// Errors that end an attempt's context.
var (
	// ErrStopped says that the attempt was told to end.
	ErrStopped = errors.New("it was told to end")
	// ErrDraining says that the worker ends, and gives the task back.
	ErrDraining = errors.New("the worker ends")
)

// claimWait is how long a worker waits for something to do before it says again
// that it is there.
const claimWait = 20 * time.Second

// Run takes tasks until ctx ends. Then the attempts that go on get until grace
// ends to finish; what is not done by then is told to end and given back.
// The error is that of a hub that could not be reached at the beginning.
func (w *Worker) Run(ctx context.Context, grace context.Context) error {
	if w.Log == nil {
		w.Log = slog.New(slog.DiscardHandler)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, w.Info.Slots))
	first := true
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case slots <- struct{}{}:
		}
		wait := claimWait
		if first {
			wait = 0 // whether it can be reached is known at once
		}
		a, err := w.Hub.Claim(ctx, w.info(), wait)
		if err != nil && first && ctx.Err() == nil {
			return err
		}
		first = false
		if err != nil || a == nil {
			<-slots
			if err != nil && ctx.Err() == nil {
				w.Log.Warn("cannot ask for work", "error", err)
				pause(ctx, time.Second)
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			w.attempt(grace, a)
		})
	}
	w.drain(ctx, len(slots))
	wg.Wait()
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := w.Hub.Leave(leave, w.Info.Name); err != nil {
		w.Log.Warn("cannot take leave", "error", err)
	}
	return nil
}

// info is what the worker says of itself now.
func (w *Worker) info() WorkerInfo {
	info := w.Info
	if w.Can != nil {
		info.Capabilities = slices.Concat(info.Capabilities, w.Can())
	}
	return info
}

// drain says that the worker takes nothing more, though it is there, when it has
// something left to do.
func (w *Worker) drain(ctx context.Context, busy int) {
	if busy == 0 {
		return
	}
	brief, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	info := w.info()
	info.Draining = true
	if _, err := w.Hub.Claim(brief, info, 0); err != nil {
		w.Log.Warn("cannot say that nothing more is taken", "error", err)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// attempt does one assignment, with heartbeats, and tells how it ended.
func (w *Worker) attempt(grace context.Context, a *Assignment) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(grace))
	defer cancel(nil)
	stop := context.AfterFunc(grace, func() { cancel(ErrDraining) })
	defer stop()
	held, release := context.WithCancel(context.WithoutCancel(grace))
	h := &hold{Worker: w, attempt: a.Attempt, meter: command.NewMeter(), worked: make(chan struct{}), cancel: cancel, release: release}
	var wg sync.WaitGroup
	wg.Go(func() { h.beat(held) })
	wg.Go(func() { h.tell(held) })
	defer wg.Wait()
	defer release()
	r := w.limited(ctx, a, h.meter)
	cause := context.Cause(ctx)
	switch {
	case cause == nil, r.State == pipeline.Passed:
	case errors.Is(cause, ErrDraining):
		r = Result{State: pipeline.Interrupted, Returned: true, Reason: cause.Error()}
	case errors.Is(cause, ErrStopped):
		r.State = pipeline.Interrupted
	}
	close(h.worked)
	if !errors.Is(cause, ErrLost) {
		w.finish(held, grace, a, r)
	}
}

// limited does the work within its time.
func (w *Worker) limited(ctx context.Context, a *Assignment, m *command.Meter) Result {
	late := fmt.Errorf("did not end within %s", a.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, late)
	defer cancel()
	r := w.Work(ctx, a, m)
	if r.State == pipeline.Failed && errors.Is(context.Cause(ctx), late) {
		r.Reason = late.Error() + ": " + r.Reason
	}
	return r
}

// finishFor is how long a worker tries to tell how an attempt ended.
const finishFor = 5 * time.Minute

// finish tells how an attempt ended, while it is ours and somebody may want to
// know. A worker that must end, as grace has, tries as long as a lease.
func (w *Worker) finish(held, grace context.Context, a *Assignment, r Result) {
	ctx, cancel := context.WithTimeout(held, finishFor)
	defer cancel()
	stop := context.AfterFunc(grace, func() { time.AfterFunc(AttemptLease, cancel) })
	defer stop()
	for wait := time.Second; ; wait = min(2*wait, 15*time.Second) {
		err := w.Hub.Finish(ctx, a.Attempt, r)
		if err == nil || errors.Is(err, ErrLost) || ctx.Err() != nil || command.Status(err) == command.StatusUsage {
			if err != nil {
				w.Log.Warn("the end of an attempt was not taken", "run", a.Run, "stage", a.Stage, "error", err)
			}
			return
		}
		w.Log.Warn("the end of an attempt cannot be told; it is tried again", "run", a.Run, "stage", a.Stage, "error", err)
		pause(ctx, wait)
	}
}
