package step

import (
	"context"
	"errors"

	"goldsmith/internal/machineapi"
	"goldsmith/testbed"
)

// watched is a bench whose machines end the stage when they are taken away: what
// goes wrong with such a machine says nothing about the image.
type watched struct {
	bench
	end context.CancelCauseFunc
}

// install implements bench.
func (w watched) install(ctx context.Context, o order) (machine, error) {
	m, err := w.bench.install(ctx, o)
	if l, ok := m.(testbed.Leased); ok && err == nil {
		held := l.Held()
		context.AfterFunc(held, func() {
			if _, lost := errors.AsType[*testbed.Fault](context.Cause(held)); lost { // else we gave it back
				w.end(context.Cause(held))
			}
		})
	}
	return m, err
}

// noteHealth tells the testbed what a machine says of itself, where it wants to
// know.
func noteHealth(ctx context.Context, m machine, s machineapi.Signal) {
	if h, ok := m.(testbed.HealthNoter); ok {
		_ = h.NoteHealth(ctx, s.OK(), s.Reason) // it is for who looks after the machine
	}
}
