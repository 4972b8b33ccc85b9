package inventory

import (
	"context"
	"fmt"
	"math"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
)

// TaskState is how a task stands.
type TaskState string

// The states of tasks. Blocked is what waits for a node that is not alive, or
// for a task that waits so.
const (
	TaskTodo    TaskState = "todo"
	TaskBlocked TaskState = "blocked"
	TaskRunning TaskState = "running"
	TaskDone    TaskState = "passed"
	TaskFailed  TaskState = "failed"
)

// ended tells whether nothing will come of a task any more. The engine of
// pipelines has more states than those above.
func (s TaskState) ended() bool {
	return s != TaskTodo && s != "ready" && s != TaskBlocked && s != TaskRunning
}

// Task is something to be done, on a node or on none.
type Task struct {
	ID     int64
	Run    string // what it belongs to
	Name   string
	Node   string  // empty: none
	Needs  []int64 // tasks that must be done before
	State  TaskState
	Reason string // why it is blocked or failed
	// Fence is that of the lease under which it runs.
	Fence int64
}

// Tasks returns a run's tasks, or all that have not ended when run is empty, in
// the order in which they were added.
func (v *Inventory) Tasks(ctx context.Context, run string) (tasks []*Task, err error) {
	err = v.db.View(ctx, func(tx *store.Tx) error {
		where := "run = ?"
		if run == "" {
			where = "? = '' AND state IN ('todo', 'blocked', 'running')"
		}
		tasks, err = selectTasks(ctx, tx, where, run)
		return err
	})
	return tasks, err
}

func selectTasks(ctx context.Context, tx *store.Tx, where string, args ...any) ([]*Task, error) {
	rows, err := tx.Query(ctx, "SELECT id, run, name, node, state, reason, fence FROM task WHERE "+where+" ORDER BY id", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tasks []*Task
	byID := map[int64]*Task{}
	for rows.Next() {
		t := &Task{}
		if err := rows.Scan(&t.ID, &t.Run, &t.Name, &t.Node, &t.State, &t.Reason, &t.Fence); err != nil {
			return nil, err
		}
		tasks = append(tasks, t)
		byID[t.ID] = t
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return tasks, addNeeds(ctx, tx, byID)
}

func addNeeds(ctx context.Context, tx *store.Tx, tasks map[int64]*Task) error {
	if len(tasks) == 0 {
		return nil
	}
	lo, hi := int64(math.MaxInt64), int64(0)
	for id := range tasks {
		lo, hi = min(lo, id), max(hi, id)
	}
	rows, err := tx.Query(ctx, "SELECT task, needs FROM task_need WHERE task BETWEEN ? AND ? ORDER BY task, needs", lo, hi)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, needs int64
		if err := rows.Scan(&id, &needs); err != nil {
			return err
		}
		if t := tasks[id]; t != nil {
			t.Needs = append(t.Needs, needs)
		}
	}
	return rows.Err()
}

// unfinished are the tasks that have not ended, and those that they need.
const unfinished = `state IN ('todo', 'ready', 'blocked', 'running')
	OR id IN (SELECT needs FROM task_need WHERE task IN (SELECT id FROM task WHERE state IN ('todo', 'ready', 'blocked', 'running')))`

// touchable are the tasks without which none is blocked, and none is blocked now.
const touchable = `state IN ('todo', 'ready', 'blocked', 'running')
	AND (state = 'blocked' OR node <> '' AND NOT EXISTS (SELECT 1 FROM node WHERE node.name = task.node AND node.alive <> 0))`

// Bind says that a task that is running is done on a leased node from now on. A
// node that has another task already is refused.
func (v *Inventory) Bind(ctx context.Context, task int64, l *Lease) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error {
		var others int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM task WHERE node = ? AND node <> '' AND state = 'running' AND id <> ?", n.Name, task).Scan(&others); err != nil {
			return err
		}
		if others > 0 {
			return command.Busy(fmt.Errorf("node %s has another task", n.Name), "")
		}
		r, err := tx.Exec(ctx, "UPDATE task SET node = ?, fence = ? WHERE id = ? AND state = 'running'", n.Name, l.Fence, task)
		if err != nil {
			return err
		}
		if k, err := r.RowsAffected(); err != nil || k != 1 {
			return fmt.Errorf("task %d is not running any more: %w", task, ErrLost)
		}
		return nil
	})
}

// Unbind is the reverse of Bind. A task that was taken away from the lease is
// left as it is.
func (v *Inventory) Unbind(ctx context.Context, task int64, l *Lease) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE task SET node = '', fence = 0 WHERE id = ? AND node = ? AND fence = ?", task, l.Node, l.Fence)
		return err
	})
}

func (v *Inventory) endTask(ctx context.Context, tx *store.Tx, t *Task, s TaskState, reason string) error {
	if err := tx.One(ctx, "UPDATE task SET state = ?, reason = ?, ended = ? WHERE id = ?", s, reason, store.Millis(v.now()), t.ID); err != nil {
		return err
	}
	if reason != "" {
		reason = ": " + reason
	}
	return v.event(ctx, tx, t.Node, "task", t.Run, "%s %s%s", t.Name, s, reason)
}

// failTasks ends what was begun on a node under a lease that ends now, also where
// it waits since the node was dead for a while.
func (v *Inventory) failTasks(ctx context.Context, tx *store.Tx, node, why string) error {
	tasks, err := selectTasks(ctx, tx, "state IN ('todo', 'ready', 'blocked', 'running') AND state <> 'ready' AND node = ? AND started > 0", node)
	for _, t := range tasks {
		if err := v.endTask(ctx, tx, t, TaskFailed, "the lease has ended: "+why); err != nil {
			return err
		}
	}
	return err
}

// Blocked says which tasks must wait for nodes that are not alive: those on
// them, and all that need such a task. The reasons are by task.
func Blocked(tasks []*Task, alive map[string]bool) map[int64]string {
	why := map[int64]string{}
	for changed := true; changed; {
		changed = false
		for _, t := range tasks {
			if t.State.ended() || why[t.ID] != "" {
				continue
			}
			reason := ""
			if t.Node != "" && !alive[t.Node] {
				reason = "node " + t.Node + " is not alive"
			}
			for _, n := range t.Needs {
				if reason == "" && why[n] != "" {
					reason = fmt.Sprintf("needs task %d: %s", n, why[n])
				}
			}
			if reason != "" {
				why[t.ID], changed = reason, true
			}
		}
	}
	return why
}

// block brings the tasks into line with which nodes are alive: in the same
// transaction as what changed that. A task that was running on a dead node may
// have been half done, and begins again when the node is back.
func (v *Inventory) block(ctx context.Context, tx *store.Tx) error {
	var touched int
	if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM task WHERE "+touchable).Scan(&touched); err != nil || touched == 0 {
		return err // as nearly always: the rest reads all that has not ended
	}
	tasks, err := selectTasks(ctx, tx, unfinished)
	if err != nil {
		return err
	}
	nodes, err := selectNodes(ctx, tx, "")
	if err != nil {
		return err
	}
	why := Blocked(tasks, aliveOf(nodes))
	for _, t := range tasks {
		reason := why[t.ID]
		switch {
		case reason != "" && (t.State != TaskBlocked || t.Reason != reason):
			if err := v.setTask(ctx, tx, t, TaskBlocked, reason); err != nil {
				return err
			}
		case reason == "" && t.State == TaskBlocked:
			if err := v.setTask(ctx, tx, t, TaskTodo, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// setTask changes a task that is not running afterwards: whoever ran it has
// lost it.
func (v *Inventory) setTask(ctx context.Context, tx *store.Tx, t *Task, s TaskState, reason string) error {
	if err := tx.One(ctx, "UPDATE task SET state = ?, reason = ?, fence = 0 WHERE id = ?", s, reason, t.ID); err != nil {
		return err
	}
	if reason != "" {
		reason = ": " + reason
	}
	return v.event(ctx, tx, t.Node, "task", t.Run, "%s is %s%s", t.Name, s, reason)
}

func aliveOf(nodes []*Node) map[string]bool {
	alive := map[string]bool{}
	for _, n := range nodes {
		alive[n.Name] = n.Alive
	}
	return alive
}
