package inventory

import (
	"context"
	"fmt"
	"math"
	"strings"

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

// AddTask adds a task and returns its number. What it needs must be there
// already, so there are no circles.
func (v *Inventory) AddTask(ctx context.Context, t Task) (id int64, err error) {
	err = v.db.Tx(ctx, func(tx *store.Tx) error {
		id, err = v.addTask(ctx, tx, t)
		return err
	})
	return id, err
}

func (v *Inventory) addTask(ctx context.Context, tx *store.Tx, t Task) (id int64, err error) {
	id, err = tx.Insert(ctx, "INSERT INTO task (run, name, node, state, created) VALUES (?, ?, ?, ?, ?)",
		t.Run, t.Name, t.Node, TaskTodo, store.Millis(v.now()))
	if err != nil {
		return 0, err
	}
	for _, n := range t.Needs {
		if err := tx.One(ctx, "INSERT INTO task_need (task, needs) VALUES (?, ?)", id, n); err != nil {
			return 0, fmt.Errorf("task %s needs task %d, which is not there: %w", t.Name, n, err)
		}
	}
	return id, v.block(ctx, tx)
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

// Bind says that a task that is running is done on a leased node from now on. A
// node that has another task already is refused.
func (v *Inventory) Bind(ctx context.Context, task int64, l *Lease) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error {
		var others int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM task WHERE node = ? AND state = 'running' AND id <> ?", n.Name, task).Scan(&others); err != nil {
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

// Ready returns the tasks that may begin now, in their order: everything that
// they need is done, their node is alive and has nothing else running, and no
// more than limit run at once.
func Ready(tasks []*Task, alive map[string]bool, limit int) []*Task {
	done, busy := map[int64]bool{}, map[string]bool{}
	running := 0
	for _, t := range tasks {
		switch t.State {
		case TaskDone:
			done[t.ID] = true
		case TaskRunning:
			running++
			busy[t.Node] = t.Node != ""
		}
	}
	var ready []*Task
	for _, t := range tasks {
		if t.State != TaskTodo || busy[t.Node] || t.Node != "" && !alive[t.Node] || !allDone(t, done) || running >= limit {
			continue
		}
		ready = append(ready, t)
		busy[t.Node] = t.Node != ""
		running++
	}
	return ready
}

func allDone(t *Task, done map[int64]bool) bool {
	for _, n := range t.Needs {
		if !done[n] {
			return false
		}
	}
	return true
}

// Begin marks a task as running under a lease, which may be nil for one without
// a node. When it may not begin now the error is a command.Busy one that says
// why.
func (v *Inventory) Begin(ctx context.Context, id int64, l *Lease) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error { return v.beginIfReady(ctx, tx, id, l) })
}

// BeginTask adds a task and marks it as running, both or neither: nothing waits
// afterwards for somebody who may be gone.
func (v *Inventory) BeginTask(ctx context.Context, t Task, l *Lease) (id int64, err error) {
	err = v.db.Tx(ctx, func(tx *store.Tx) error {
		if id, err = v.addTask(ctx, tx, t); err != nil {
			return err
		}
		return v.beginIfReady(ctx, tx, id, l)
	})
	return id, err
}

func (v *Inventory) beginIfReady(ctx context.Context, tx *store.Tx, id int64, l *Lease) error {
	tasks, err := selectTasks(ctx, tx, unfinished)
	if err != nil {
		return err
	}
	nodes, err := selectNodes(ctx, tx, "")
	if err != nil {
		return err
	}
	limit, err := Cap(ctx, tx)
	if err != nil {
		return err
	}
	for _, t := range Ready(tasks, aliveOf(nodes), limit) {
		if t.ID == id {
			return v.begin(ctx, tx, t, l, nodes)
		}
	}
	return command.Busy(fmt.Errorf("task %d: cannot begin: %s", id, whyNot(tasks, id, limit)), "")
}

func (v *Inventory) begin(ctx context.Context, tx *store.Tx, t *Task, l *Lease, nodes []*Node) error {
	fence := int64(0)
	if t.Node != "" {
		for _, n := range nodes {
			if n.Name != t.Node {
				continue
			}
			if l == nil || n.Lease == nil || n.Lease.ID != l.ID || !v.now().Before(n.Lease.Expires) {
				return fmt.Errorf("task %d: node %s: %w", t.ID, t.Node, ErrLost)
			}
			fence = l.Fence
		}
	}
	err := tx.One(ctx, "UPDATE task SET state = ?, fence = ?, started = ? WHERE id = ?", TaskRunning, fence, store.Millis(v.now()), t.ID)
	if err != nil {
		return err
	}
	return v.event(ctx, tx, t.Node, "task", t.Run, "%s begins", t.Name)
}

func whyNot(tasks []*Task, id int64, limit int) string {
	running := 0
	var of *Task
	for _, t := range tasks {
		if t.State == TaskRunning {
			running++
		}
		if t.ID == id {
			of = t
		}
	}
	switch {
	case of == nil:
		return "it has ended, or was never there"
	case of.State != TaskTodo:
		return strings.TrimSuffix(string(of.State)+": "+of.Reason, ": ")
	case running >= limit:
		return fmt.Sprintf("%d tasks are running, which is the cap", running)
	}
	return "what it needs is not done, or its node has another task or is not alive"
}

// Finish ends a running task; an empty reason is success. A task that runs
// under another fence by now is not ours: the error is ErrLost.
func (v *Inventory) Finish(ctx context.Context, id, fence int64, reason string) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error {
		tasks, err := selectTasks(ctx, tx, "id = ?", id)
		if err != nil {
			return err
		}
		if len(tasks) == 0 || tasks[0].State != TaskRunning || tasks[0].Fence != fence {
			return fmt.Errorf("task %d: %w", id, ErrLost)
		}
		state := TaskDone
		if reason != "" {
			state = TaskFailed
		}
		return v.endTask(ctx, tx, tasks[0], state, reason)
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
	tasks, err := selectTasks(ctx, tx, "node = ? AND started > 0 AND state IN ('running', 'blocked', 'todo')", node)
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
