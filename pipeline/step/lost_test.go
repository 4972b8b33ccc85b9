package step

import (
	"context"
	"errors"
	"testing"
	"time"

	"goldsmith/internal/evidence"
	"goldsmith/internal/machineapi"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/machinetest"
)

// takenAway is a place, a bench and a machine that is taken away in the middle.
type takenAway struct {
	place
	bench
	machine
	held context.Context
	said []bool
}

func (p *takenAway) open(context.Context, *pipeline.Job) (bench, error) { return p, nil }
func (p *takenAway) install(context.Context, order) (machine, error)    { return p, nil }
func (p *takenAway) close() error                                       { return nil }
func (p *takenAway) Held() context.Context                              { return p.held }
func (p *takenAway) NoteHealth(_ context.Context, ok bool, _ string) error {
	p.said = append(p.said, ok)
	return nil
}

// A machine that is taken away ends the stage's work as the testbed's fault.
func TestMachineTakenAway(t *testing.T) {
	held, lose := context.WithCancelCause(t.Context())
	p := &takenAway{held: held}
	ctx, end := context.WithCancelCause(t.Context())
	defer end(nil)
	m, err := watched{p, end}.install(ctx, order{})
	if err != nil || ctx.Err() != nil {
		t.Fatal(err, ctx.Err())
	}
	noteHealth(ctx, m, machineapi.Signal{Status: "FAILURE"})
	noteHealth(ctx, m, machineapi.Signal{Status: "SUCCESS"})
	if len(p.said) != 2 || p.said[0] || !p.said[1] {
		t.Errorf("the testbed was told %v", p.said)
	}
	// One that was given back says nothing about the next.
	gone, giveBack := context.WithCancelCause(t.Context())
	if _, err := (watched{&takenAway{held: gone}, end}).install(ctx, order{}); err != nil {
		t.Fatal(err)
	}
	giveBack(context.Canceled)
	time.Sleep(20 * time.Millisecond)
	if ctx.Err() != nil {
		t.Errorf("a machine that was given back ended the stage: %v", context.Cause(ctx))
	}
	lose(&testbed.Fault{Kind: testbed.Lost, Machine: "n1", Doing: "keep the lease", Err: errors.New("fenced")})
	<-ctx.Done()
	if class, why := machinetest.Classify(context.Cause(ctx), nil); class != evidence.Infra {
		t.Errorf("%s (%s); want %s", class, why, evidence.Infra)
	}
}
