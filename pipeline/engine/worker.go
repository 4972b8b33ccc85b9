package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
)

// Worker takes tasks from a hub and does them.
type Worker struct {
	Info WorkerInfo
	Hub  Hub
	// Work does an attempt. It releases everything it took before it returns, also
	// when ctx is cancelled; its cause says why then.
	Work func(ctx context.Context, a *Assignment) Result
	// Progress says how an attempt goes, in a line; nil means it does not.
	Progress func(attempt int64) string
	Log      *slog.Logger // nil: nothing is said
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
		a, err := w.Hub.Claim(ctx, w.Info, claimWait)
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
	wg.Wait()
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := w.Hub.Leave(leave, w.Info.Name); err != nil {
		w.Log.Warn("cannot take leave", "error", err)
	}
	return nil
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
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		w.beat(ctx, cancel, a.Attempt)
	}()
	r := w.limited(ctx, a)
	cause := context.Cause(ctx)
	switch {
	case cause == nil, r.State == pipeline.Passed:
	case errors.Is(cause, ErrDraining):
		r = Result{State: pipeline.Interrupted, Returned: true, Reason: cause.Error()}
	case errors.Is(cause, ErrStopped):
		r.State = pipeline.Interrupted
	}
	cancel(nil)
	<-beats
	if !errors.Is(cause, ErrLost) {
		w.finish(a, r)
	}
}

// limited does the work within its time.
func (w *Worker) limited(ctx context.Context, a *Assignment) Result {
	late := fmt.Errorf("did not end within %s", a.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, late)
	defer cancel()
	r := w.Work(ctx, a)
	if r.State == pipeline.Failed && errors.Is(context.Cause(ctx), late) {
		r.Reason = late.Error() + ": " + r.Reason
	}
	return r
}

// beat says that the attempt goes on, until ctx ends; orders end it.
func (w *Worker) beat(ctx context.Context, cancel context.CancelCauseFunc, attempt int64) {
	alive := time.Now()
	for ctx.Err() == nil {
		progress := ""
		if w.Progress != nil {
			progress = w.Progress(attempt)
		}
		// The lease counts from when the hub heard of us, which is not later than
		// this call began.
		asked := time.Now()
		call, done := context.WithDeadline(ctx, alive.Add(AttemptLease))
		o, err := w.Hub.Beat(call, attempt, progress, BeatEvery)
		done()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && time.Since(alive) >= AttemptLease:
			// Whoever looks for silent workers has given it to another by now.
			cancel(fmt.Errorf("%w: %w", ErrLost, err))
			return
		case err != nil:
			w.Log.Warn("a heartbeat failed", "attempt", attempt, "error", err)
			pause(ctx, time.Second)
			continue
		case o.Lost:
			cancel(ErrLost)
			return
		case o.Stop != "":
			cancel(fmt.Errorf("%w: %s", ErrStopped, o.Stop))
			return
		}
		alive = asked
	}
}

// finish tells how an attempt ended, as long as anybody may want to know.
func (w *Worker) finish(a *Assignment, r Result) {
	ctx, cancel := context.WithTimeout(context.Background(), AttemptLease)
	defer cancel()
	for {
		err := w.Hub.Finish(ctx, a.Attempt, r)
		if err == nil || errors.Is(err, ErrLost) || ctx.Err() != nil || command.Status(err) == command.StatusUsage {
			if err != nil {
				w.Log.Warn("the end of an attempt was not taken", "run", a.Run, "stage", a.Stage, "error", err)
			}
			return
		}
		pause(ctx, time.Second)
	}
}
