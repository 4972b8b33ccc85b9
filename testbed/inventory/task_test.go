package inventory

import (
	"errors"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// TestDeadNode blocks tasks, and all that depend on them, when a node dies.
func TestDeadNode(t *testing.T) {
	v, c := stocked(t)
	ctx := t.Context()
	l, err := v.Acquire(ctx, Request{Node: "small"}, "run 1")
	ok(t, err)
	add := func(name, node string, needs ...int64) int64 {
		t.Helper()
		id, err := v.AddTask(ctx, Task{Run: "1", Name: name, Node: node, Needs: needs})
		ok(t, err)
		return id
	}
	deploy := add("deploy", "small")
	smoke := add("smoke", "small", deploy)
	report := add("report", "", smoke)
	other := add("other", "")
	if err := v.Begin(ctx, smoke, l); command.Status(err) != command.StatusBusy {
		t.Errorf("Begin before what it needs: %v", err)
	}
	ok(t, v.Begin(ctx, deploy, l))
	if err := v.Begin(ctx, deploy, l); err == nil || !strings.Contains(err.Error(), "running") {
		t.Errorf("Begin twice: %v", err)
	}
	states := func() string {
		tasks, err := v.Tasks(ctx, "1")
		ok(t, err)
		var s []string
		for _, k := range tasks {
			s = append(s, string(k.State))
		}
		return strings.Join(s, " ")
	}
	ok(t, v.Observe(ctx, "small", Observation{Source: BMCSource, Detail: "silent: no answer"}))
	if got := states(); got != "blocked blocked blocked todo" {
		t.Errorf("the node is dead: %s", got)
	}
	if err := v.Finish(ctx, deploy, l.Fence, ""); !errors.Is(err, ErrLost) {
		t.Errorf("a blocked task is finished: %v", err)
	}
	tasks, err := v.Tasks(ctx, "1")
	ok(t, err)
	if tasks[2].Reason != "needs task 2: node small is not alive" {
		t.Errorf("reason %q", tasks[2].Reason)
	}
	late := add("late", "", report)
	ok(t, v.Observe(ctx, "small", Observation{Source: BMCSource, OK: true, Power: testbed.On}))
	if got := states(); got != "todo todo todo todo todo" {
		t.Errorf("the node is back: %s", got)
	}
	ok(t, v.Begin(ctx, deploy, l))
	if err := v.Finish(ctx, deploy, l.Fence+1, ""); !errors.Is(err, ErrLost) {
		t.Errorf("finished under another fence: %v", err)
	}
	ok(t, v.Finish(ctx, deploy, l.Fence, ""))
	ok(t, v.Begin(ctx, smoke, l))
	ok(t, v.Begin(ctx, other, nil)) // the cap is 2
	if err := v.Begin(ctx, late, nil); err == nil || !strings.Contains(err.Error(), "which is the cap") {
		t.Errorf("more tasks than the cap: %v", err)
	}
	c.add(2 * LeaseTime)
	ok(t, v.Expire(ctx))
	if got := states(); got != "passed failed todo running todo" {
		t.Errorf("the lease is lost: %s", got)
	}
	// What was begun ends with the lease, also where it waits by then.
	ok(t, v.Cleaned(ctx, mustBorrow(t, v, "small"), ""))
	free(t, v, "small")
	again, err := v.Acquire(ctx, Request{Node: "small"}, "run 2")
	ok(t, err)
	id, err := v.BeginTask(ctx, Task{Run: "2", Name: "deploy", Node: "small"}, again)
	if command.Status(err) == command.StatusBusy { // the cap is 2, and one runs
		t.Fatal(err)
	}
	ok(t, err)
	if _, err := v.BeginTask(ctx, Task{Run: "2", Name: "second", Node: "small"}, again); command.Status(err) != command.StatusBusy {
		t.Errorf("a second task on the node: %v", err)
	}
	ok(t, v.Observe(ctx, "small", Observation{Source: BMCSource, Detail: "silent: no answer"}))
	ok(t, v.Observe(ctx, "small", Observation{Source: BMCSource, OK: true}))
	ok(t, v.End(ctx, again))
	left, err := v.Tasks(ctx, "2")
	ok(t, err)
	if len(left) != 1 || left[0].ID != id || left[0].State != TaskFailed {
		t.Errorf("left after the lease: %+v", left)
	}
	if err := v.Begin(ctx, add("again", "small"), l); !errors.Is(err, ErrLost) {
		t.Errorf("a task begins under a lost lease: %v", err)
	}
}

// TestManyHolders has holders of several processes fight for two nodes while
// time passes: never two on one node, and every lease ends.
func TestManyHolders(t *testing.T) {
	v, c := stocked(t)
	ctx := t.Context()
	type result struct {
		node  string
		fence int64
	}
	got := make(chan result, 1000)
	done := make(chan struct{})
	for i := range 6 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 12 {
				l, err := v.Acquire(ctx, Request{}, "holder")
				if err != nil {
					if command.Status(err) != command.StatusBusy {
						t.Error(err)
					}
					c.add(time.Second)
					continue
				}
				got <- result{l.Node, l.Fence}
				id, err := v.AddTask(ctx, Task{Run: "x", Name: "work", Node: l.Node})
				if err == nil {
					err = v.Begin(ctx, id, l)
				}
				if err == nil && i%3 != 0 {
					err = v.Finish(ctx, id, l.Fence, "")
				}
				if i%3 == 0 { // killed: it neither finishes nor gives back
					c.add(LeaseTime)
					_ = v.Expire(ctx)
				} else if err == nil {
					err = v.End(ctx, l)
				}
				if err != nil && !errors.Is(err, ErrLost) && command.Status(err) != command.StatusBusy {
					t.Error(err)
				}
				for _, n := range []string{"large", "small"} {
					_ = v.Observe(ctx, n, Observation{Source: BMCSource, OK: true})
					_ = cleaned(ctx, v, n, "")
				}
			}
		}()
	}
	for range 6 {
		<-done
	}
	close(got)
	seen := map[result]bool{}
	for r := range got {
		if seen[r] {
			t.Errorf("two leases of %s have the fence %d", r.node, r.fence)
		}
		seen[r] = true
	}
	c.add(2 * LeaseTime)
	ok(t, v.Expire(ctx))
	for _, n := range []string{"large", "small"} {
		if n := node(t, v, n); n.Lease != nil {
			t.Errorf("%s: a lease has outlived its time: %+v", n.Name, n.Lease)
		}
	}
}

func mustBorrow(t *testing.T, v *Inventory, node string) *Lease {
	t.Helper()
	l, err := v.Borrow(t.Context(), node, "test")
	ok(t, err)
	return l
}

// free ends whatever lease a node has.
func free(t *testing.T, v *Inventory, node string) {
	t.Helper()
	ok(t, v.Revoke(t.Context(), node, "test", "test"))
}
