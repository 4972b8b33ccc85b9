package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"goldsmith/internal/command"
)

// hold is a worker's hold on an attempt: heartbeats, from its beginning until
// its end was taken. Those go on while an attempt that was told to end releases
// what it took, and while its result cannot be told.
type hold struct {
	*Worker
	attempt int64
	meter   *command.Meter
	worked  chan struct{}           // closed when the work has ended
	cancel  context.CancelCauseFunc // ends the work
	release context.CancelFunc      // ends the hold
}

// beat says that the attempt goes on, until ctx ends; orders end its work.
func (h *hold) beat(ctx context.Context) {
	alive := time.Now()
	stopping := false
	for ctx.Err() == nil {
		// The lease counts from when the hub heard of us, which is not later than
		// this call began.
		asked, wait := time.Now(), BeatEvery
		limit := alive.Add(AttemptLease)
		if stopping || h.ended() {
			wait, limit = 0, asked.Add(AttemptLease)
		}
		call, done := context.WithDeadline(ctx, limit)
		o, err := h.Hub.Beat(call, h.attempt, h.meter.Line(), wait)
		done()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && time.Since(alive) >= AttemptLease && !h.ended():
			// Whoever looks for silent workers has given it to another by now.
			h.lost(fmt.Errorf("%w: %w", ErrLost, err))
			return
		case err != nil:
			h.Log.Warn("a heartbeat failed", "attempt", h.attempt, "error", err)
			pause(ctx, time.Second)
			continue
		case o.Lost:
			h.lost(ErrLost)
			return
		case o.Stop != "" && !stopping:
			stopping = true
			h.cancel(fmt.Errorf("%w: %s", ErrStopped, o.Stop))
		}
		alive = asked
		if wait == 0 {
			pause(ctx, BeatEvery)
		}
	}
}

// ended tells whether the work has ended.
func (h *hold) ended() bool {
	select {
	case <-h.worked:
		return true
	default:
		return false
	}
}

func (h *hold) lost(err error) {
	h.cancel(err)
	h.release()
}

// tellEvery is how often it is told at most how far an attempt is.
const tellEvery = time.Second

// tell says how far the attempt is when that changes, until ctx ends. What was
// not heard is said by the next heartbeat.
func (h *hold) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.meter.Changed():
		}
		call, done := context.WithTimeout(ctx, AttemptLease)
		_, err := h.Hub.Beat(call, h.attempt, h.meter.Line(), 0)
		done()
		if err != nil && !errors.Is(err, context.Canceled) {
			pause(ctx, BeatEvery)
		}
		pause(ctx, tellEvery)
	}
}
