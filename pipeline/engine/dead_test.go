package engine

import (
	"context"
	"testing"
	"time"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
	"goldsmith/testbed/inventory"
)

// A node dies under a stage: the stage is told to end and done again on another
// node, and what needs it goes on.
func TestNodeDies(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		y := &yard{t: t, nodes: inventory.New(f.engine.Store())}
		y.stock()
		var nodes []string
		f.work = func(ctx context.Context, a *Assignment) Result {
			if a.Stage != "a" {
				return Result{State: pipeline.Passed}
			}
			l, err := y.nodes.Acquire(ctx, inventory.Request{}, a.Stage)
			if err == nil {
				err = y.nodes.Bind(ctx, a.Task, l)
			}
			if err != nil {
				return Result{State: pipeline.Failed, Class: "unknown", Reason: err.Error()}
			}
			nodes = append(nodes, l.Node)
			if a.Number == 1 {
				dead := inventory.Observation{Source: inventory.BMCSource, Detail: "silent: no answer"}
				if err := y.nodes.Observe(context.Background(), l.Node, dead); err != nil {
					t.Error(err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Minute):
					t.Error("the stage was not told to end")
				}
			}
			still := context.Background()
			if err := y.nodes.Unbind(still, a.Task, l); err != nil {
				t.Error(err)
			}
			if err := y.nodes.End(still, l); err != nil {
				t.Error(err)
			}
			return Result{State: pipeline.Passed}
		}
		f.hire("w1", 2)
		id := f.submit("stages:\n  - {name: a, uses: work}\n  - {name: b, uses: work, needs: [a]}\n")
		r := f.ended(id, time.Minute)
		if got := stages(r); got != "passed, a passed, b passed" || len(nodes) != 2 || nodes[0] == nodes[1] {
			t.Errorf("%s on %q: %+v", got, nodes, r.Stages[0].Attempts)
		}
	})
}
