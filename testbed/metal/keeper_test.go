package metal

import (
	"context"
	"testing"
	"time"

	"goldsmith/testbed/inventory"
)

// A node that is inspected for longer than an observation counts is observed
// meanwhile: it is alive, and so are its tasks.
func TestLongWorkIsObserved(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ok(r.v.Allow(t.Context(), "n1", "test"))
	r.boxes["n1"].acts(hangs)
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); r.keeper.wg.Wait() }()
	r.ok(r.keeper.round(ctx))
	r.eventually("the agent has called", func() bool { return r.node("n1").Hardware != nil })
	const step = 50 * time.Second
	for range 6 {
		r.mu.Lock()
		r.ahead += step
		r.mu.Unlock()
		l := *r.site.holding("n1").node.lease
		r.ok(r.v.Beat(ctx, &l))
		r.ok(r.keeper.round(ctx))
		r.eventually("it is observed", func() bool { return r.now().Sub(r.node("n1").Observed[inventory.BMCSource].At) < step })
	}
	r.ok(r.v.Review(ctx))
	if n := r.node("n1"); !n.Alive || n.Lease == nil {
		t.Errorf("alive %v, lease %v\n%s", n.Alive, n.Lease, r.history("n1"))
	}
	if got := r.boxes["n1"].started(); got != 1 {
		t.Errorf("%d agents were started", got)
	}
}
