package inventory

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
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
		id, err := addTask(ctx, v, Task{Run: "1", Name: name, Node: node, Needs: needs})
		ok(t, err)
		return id
	}
	deploy := add("deploy", "small")
	smoke := add("smoke", "small", deploy)
	report := add("report", "", smoke)
	other := add("other", "")
	ok(t, begin(ctx, v, deploy, l))
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
	if err := v.Bind(ctx, deploy, l); !errors.Is(err, ErrLost) {
		t.Errorf("a blocked task has its node: %v", err)
	}
	tasks, err := v.Tasks(ctx, "1")
	ok(t, err)
	if tasks[2].Reason != "needs task 2: node small is not alive" {
		t.Errorf("reason %q", tasks[2].Reason)
	}
	add("late", "", report)
	ok(t, v.Observe(ctx, "small", Observation{Source: BMCSource, OK: true, Power: testbed.On}))
	if got := states(); got != "todo todo todo todo todo" {
		t.Errorf("the node is back: %s", got)
	}
	ok(t, pass(ctx, v, deploy))
	ok(t, begin(ctx, v, smoke, l))
	ok(t, begin(ctx, v, other, nil))
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
	id, err := addTask(ctx, v, Task{Run: "2", Name: "deploy"})
	ok(t, err)
	ok(t, begin(ctx, v, id, nil))
	ok(t, v.Bind(ctx, id, again))
	second := add("second", "")
	ok(t, begin(ctx, v, second, nil))
	if err := v.Bind(ctx, second, again); command.Status(err) != command.StatusBusy {
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
	if err := v.Bind(ctx, second, l); !errors.Is(err, ErrLost) {
		t.Errorf("a task gets a node by a lost lease: %v", err)
	}
}

// addTask adds a task, as an engine does.
func addTask(ctx context.Context, v *Inventory, k Task) (id int64, err error) {
	err = v.db.Tx(ctx, func(tx *store.Tx) error {
		id, err = tx.Insert(ctx, "INSERT INTO task (run, name, node, state, created) VALUES (?, ?, ?, ?, 1)", k.Run, k.Name, k.Node, TaskTodo)
		for _, n := range k.Needs {
			err = errors.Join(err, tx.One(ctx, "INSERT INTO task_need (task, needs) VALUES (?, ?)", id, n))
		}
		return errors.Join(err, v.block(ctx, tx))
	})
	return id, err
}

// begin marks a task as running, under a lease where that is not nil.
func begin(ctx context.Context, v *Inventory, id int64, l *Lease) error {
	fence := int64(0)
	if l != nil {
		fence = l.Fence
	}
	return v.db.Tx(ctx, func(tx *store.Tx) error {
		return tx.One(ctx, "UPDATE task SET state = ?, fence = ?, started = 1 WHERE id = ? AND state = ?", TaskRunning, fence, id, TaskTodo)
	})
}

// pass marks a task as passed.
func pass(ctx context.Context, v *Inventory, id int64) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error {
		return tx.One(ctx, "UPDATE task SET state = ?, ended = 1 WHERE id = ?", TaskDone, id)
	})
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
				id, err := addTask(ctx, v, Task{Run: "x", Name: "work"})
				if err == nil {
					err = begin(ctx, v, id, nil)
				}
				if err == nil {
					err = v.Bind(ctx, id, l)
				}
				if err == nil && i%3 != 0 {
					err = errors.Join(v.Unbind(ctx, id, l), pass(ctx, v, id))
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
