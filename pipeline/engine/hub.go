package engine

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
	"goldsmith/testbed/inventory"
)

// Hub is where workers get their work, and say how it goes. The engine is one;
// another reaches an engine by HTTP.
type Hub interface {
	// Claim gives a worker something to do, or nil when there is nothing within
	// wait. It also says that the worker is there.
	Claim(ctx context.Context, w WorkerInfo, wait time.Duration) (*Assignment, error)
	// Beat says that an attempt is still worked on, and how far it is: one line of
	// which 200 bytes are kept. It answers when there is an order other than to go
	// on, or when wait has passed; at once when that is 0.
	Beat(ctx context.Context, attempt int64, progress string, wait time.Duration) (Order, error)
	// Finish ends an attempt. The error wraps ErrLost when it is not the worker's
	// any more: nothing was changed then.
	Finish(ctx context.Context, attempt int64, r Result) error
	// Leave says that a worker is gone.
	Leave(ctx context.Context, worker string) error
}

// AttemptLease is how long an attempt is its worker's without a heartbeat;
// BeatEvery is how often workers send one.
const (
	AttemptLease = 30 * time.Second
	BeatEvery    = 5 * time.Second
)

// ErrLost says that an attempt is not its worker's any more.
var ErrLost = errors.New("the attempt is lost")

// WorkerInfo is what a worker says of itself.
type WorkerInfo struct {
	Name         string   `json:"name"`
	Capabilities []string `json:"capabilities,omitempty"` // "kvm", "arch=amd64"
	Slots        int      `json:"slots"`                  // attempts at once
	Version      string   `json:"version,omitempty"`
	Draining     bool     `json:"draining,omitempty"` // takes nothing more
	// Run is the only run that it works on; 0 means any that it may.
	Run int64 `json:"run,omitempty"`
}

// Assignment is an attempt at a stage, for a worker.
type Assignment struct {
	Attempt  int64             `json:"attempt"` // names the attempt in Beat and Finish
	Task     int64             `json:"task"`
	Run      int64             `json:"run"`
	Pipeline string            `json:"pipeline"` // its name
	Stage    string            `json:"stage"`
	Number   int               `json:"number"` // of the attempt, counted from 1
	Image    string            `json:"image,omitempty"`
	Timeout  time.Duration     `json:"timeout"`
	File     string            `json:"file"`   // where the pipeline was read
	Source   []byte            `json:"source"` // the pipeline file's bytes
	Inputs   map[string]string `json:"inputs,omitempty"`
	Author   string            `json:"author,omitempty"`
}

// Order is what a worker must do with an attempt.
type Order struct {
	// Stop says why it must end; empty: it goes on. What is released is released
	// as always, then Finish is called.
	Stop string `json:"stop,omitempty"`
	// Lost says that it is not the worker's any more: whatever it does counts for
	// nothing.
	Lost bool `json:"lost,omitempty"`
}

// Result is how an attempt ended.
type Result struct {
	State  pipeline.Status `json:"state"` // Passed, Failed or Interrupted
	Reason string          `json:"reason,omitempty"`
	Hint   string          `json:"hint,omitempty"`
	Class  string          `json:"class,omitempty"` // of a failure
	Exit   int             `json:"exit,omitempty"`
	Image  string          `json:"image,omitempty"` // digest of what it made; empty: nothing
	Notes  []string        `json:"notes,omitempty"`
	// Returned says that the worker was told to end and gives the task back: it
	// counts as not begun.
	Returned bool `json:"returned,omitempty"`
}

// Claim implements Hub.
func (e *Engine) Claim(ctx context.Context, w WorkerInfo, wait time.Duration) (*Assignment, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	if err := e.Greet(ctx, w); err != nil {
		return nil, err
	}
	for {
		changed := e.db.Changed()
		a, err := e.claim(ctx, w)
		if a != nil || err != nil || w.Draining {
			return a, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return nil, nil
		case <-changed:
		}
	}
}

// Greet writes down that a worker is there. Claim does so, too.
func (e *Engine) Greet(ctx context.Context, w WorkerInfo) error {
	caps, err := json.Marshal(w.Capabilities)
	if err != nil {
		return err
	}
	return e.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO worker (name, capabilities, slots, version, draining, seen) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET capabilities = excluded.capabilities, slots = excluded.slots, version = excluded.version,
			draining = excluded.draining, seen = excluded.seen`, w.Name, string(caps), w.Slots, w.Version, w.Draining, store.Millis(e.now()))
		return err
	})
}

// claim takes the oldest task that the worker may do, if there is one.
func (e *Engine) claim(ctx context.Context, w WorkerInfo) (*Assignment, error) {
	if w.Draining {
		return nil, nil
	}
	var found *candidate
	err := e.db.View(ctx, func(tx *store.Tx) (err error) {
		found, err = e.candidate(ctx, tx, w)
		return err
	})
	if err != nil || found == nil {
		return nil, err
	}
	var a *Assignment
	err = e.db.Tx(ctx, func(tx *store.Tx) error {
		c, err := e.candidate(ctx, tx, w) // another may have been faster
		if err != nil || c == nil {
			return err
		}
		// A plan does not count what waits for a worker that is gone, and it may be
		// back.
		var running int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM task WHERE "+going+" AND state = 'running' AND stage >= 0").Scan(&running); err != nil {
			return err
		}
		if limit, err := inventory.Cap(ctx, tx); err != nil || running >= limit {
			return err
		}
		a, err = e.assign(ctx, tx, w, c)
		return err
	})
	return a, err
}

// candidate is a task that a worker may take.
type candidate struct {
	task, run int64
	stage     Stage
	image     string
}

// going is in queries for tasks that have not ended, although what else is asked
// says that, too: these have an index of their own, which SQLite takes only where
// the same words are (https://www.sqlite.org/partialindex.html).
const going = "state IN ('todo', 'ready', 'blocked', 'running')"

func (e *Engine) candidate(ctx context.Context, tx *store.Tx, w WorkerInfo) (*candidate, error) {
	rows, err := tx.Query(ctx, `SELECT task.id, run.id, task.stage, task.image, run.policy FROM task JOIN run ON task.run = CAST(run.id AS TEXT)
		WHERE task.`+going+` AND task.state = 'ready' AND (run.host = '' OR run.host = ?1) AND (?2 = 0 OR run.id = ?2) ORDER BY run.id, task.id`, w.Name, w.Run)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	type row struct {
		candidate
		place  int
		policy string
	}
	var all []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.task, &r.run, &r.place, &r.image, &r.policy); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	_ = rows.Close()
	for _, r := range all {
		p, err := e.policy(ctx, tx, r.policy)
		if err != nil {
			return nil, err
		}
		r.stage = p.Stages[r.place]
		if !slices.ContainsFunc(r.stage.Requires, func(c string) bool { return !slices.Contains(w.Capabilities, c) }) {
			return &r.candidate, nil
		}
	}
	return nil, nil
}

func (e *Engine) assign(ctx context.Context, tx *store.Tx, w WorkerInfo, c *candidate) (*Assignment, error) {
	a := &Assignment{Task: c.task, Run: c.run, Stage: c.stage.Name, Image: c.image, Timeout: c.stage.Timeout}
	var source, inputs string
	err := tx.QueryRow(ctx, "SELECT pipeline, file, source, inputs, author, (SELECT COUNT(*) FROM attempt WHERE task = ?) FROM run WHERE id = ?", c.task, c.run).
		Scan(&a.Pipeline, &a.File, &source, &inputs, &a.Author, &a.Number)
	if err != nil {
		return nil, err
	}
	a.Number++
	if a.Source, err = content(ctx, tx, source); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(inputs), &a.Inputs); err != nil {
		return nil, err
	}
	now := e.now()
	a.Attempt, err = tx.Insert(ctx, "INSERT INTO attempt (task, number, worker, state, started, expires) VALUES (?, ?, ?, ?, ?, ?)",
		c.task, a.Number, w.Name, pipeline.Running, store.Millis(now), store.Millis(now.Add(AttemptLease)))
	if err != nil {
		return nil, err
	}
	tx.Wake()
	if err := tx.One(ctx, "UPDATE task SET state = ?, reason = '', started = ? WHERE id = ? AND state = 'ready'", pipeline.Running, store.Millis(now), c.task); err != nil {
		return nil, err
	}
	return a, e.event(ctx, tx, c.run, "task", w.Name, "%s begins, attempt %d", a.Stage, a.Number)
}

// Beat implements Hub.
func (e *Engine) Beat(ctx context.Context, attempt int64, progress string, wait time.Duration) (Order, error) {
	err := e.db.Tx(ctx, func(tx *store.Tx) error {
		now := e.now()
		_, err := tx.Exec(ctx, "UPDATE attempt SET expires = ?, progress = ? WHERE id = ? AND ended = 0",
			store.Millis(now.Add(AttemptLease)), oneLine(progress), attempt)
		if err == nil {
			// One whose slots are all busy asks for nothing, and is there all the same.
			_, err = tx.Exec(ctx, "UPDATE worker SET seen = ? WHERE name = (SELECT worker FROM attempt WHERE id = ? AND ended = 0)", store.Millis(now), attempt)
		}
		return err
	})
	if err != nil {
		return Order{}, err
	}
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		changed := e.db.Changed()
		o, err := e.order(ctx, attempt)
		if err != nil || o != (Order{}) {
			return o, err
		}
		select {
		case <-ctx.Done():
			return Order{}, ctx.Err()
		case <-deadline.C:
			return Order{}, nil
		case <-changed:
		}
	}
}

// order is what an attempt's worker must do. An attempt whose task is not
// running was taken away from it.
func (e *Engine) order(ctx context.Context, attempt int64) (o Order, err error) {
	err = e.db.View(ctx, func(tx *store.Tx) error {
		var state pipeline.Status
		var ended int64
		err := tx.QueryRow(ctx, "SELECT stop, attempt.ended, task.state FROM attempt JOIN task ON task.id = attempt.task WHERE attempt.id = ?", attempt).
			Scan(&o.Stop, &ended, &state)
		if errors.Is(err, sql.ErrNoRows) {
			o.Lost = true
			return nil
		}
		o.Lost = ended != 0 || state != pipeline.Running
		return err
	})
	return o, err
}

// Finish implements Hub.
func (e *Engine) Finish(ctx context.Context, attempt int64, r Result) error {
	if r.State != pipeline.Passed && r.State != pipeline.Failed && r.State != pipeline.Interrupted {
		return command.BadInput(fmt.Errorf("attempt %d cannot end as %q", attempt, r.State), "")
	}
	var run int64
	var stage string
	err := e.db.Tx(ctx, func(tx *store.Tx) error {
		var task, ended int64
		var state pipeline.Status
		err := tx.QueryRow(ctx, `SELECT task.id, CAST(task.run AS INTEGER), task.name, task.state, attempt.ended
			FROM attempt JOIN task ON task.id = attempt.task WHERE attempt.id = ?`, attempt).Scan(&task, &run, &stage, &state, &ended)
		if errors.Is(err, sql.ErrNoRows) || err == nil && (ended != 0 || state != pipeline.Running) {
			return fmt.Errorf("attempt %d: %w", attempt, ErrLost)
		}
		if err != nil {
			return err
		}
		tx.Wake()
		return e.finish(ctx, tx, run, task, attempt, stage, r)
	})
	if err != nil {
		return err
	}
	e.enqueue(ctx, time.Time{}, run)
	return nil
}

func (e *Engine) finish(ctx context.Context, tx *store.Tx, run, task, attempt int64, stage string, r Result) error {
	now := store.Millis(e.now())
	notes, err := json.Marshal(r.Notes)
	if err != nil {
		return err
	}
	r.Reason = bounded(r.Reason)
	if r.Returned {
		if err := e.endAttempt(ctx, tx, attempt, pipeline.Interrupted, "", r.Reason); err != nil {
			return err
		}
		return tx.One(ctx, "UPDATE task SET state = ?, node = '', fence = 0 WHERE id = ?", pipeline.Todo, task)
	}
	if r.State == pipeline.Failed && r.Class == "" {
		r.Class = "unknown"
	}
	if err := e.endAttempt(ctx, tx, attempt, r.State, r.Class, r.Reason); err != nil {
		return err
	}
	err = tx.One(ctx, `UPDATE task SET state = ?, reason = ?, class = ?, exit_status = ?, hint = ?, notes = ?, node = '', fence = 0, ended = ? WHERE id = ?`,
		r.State, r.Reason, r.Class, r.Exit, bounded(r.Hint), string(notes), now, task)
	if err == nil && r.State == pipeline.Passed && r.Image != "" {
		err = tx.One(ctx, "UPDATE task SET image = ?, made = 1 WHERE id = ?", r.Image, task)
	}
	if err != nil {
		return err
	}
	what := string(r.State)
	if r.Reason != "" {
		what += ": " + r.Reason
	}
	return e.event(ctx, tx, run, "task", "", "%s %s", stage, what)
}

// Leave implements Hub.
func (e *Engine) Leave(ctx context.Context, worker string) error {
	return e.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM worker WHERE name = ?", worker)
		return err
	})
}

// maxProgress bounds what a worker says of how far it is, in bytes.
const maxProgress = 200

// oneLine is what a worker says of how far it is, as it is shown.
func oneLine(s string) string {
	if len(s) > maxProgress {
		s = s[:maxProgress] + "…"
	}
	return strings.TrimSpace(command.Line(strings.ToValidUTF8(s, "")))
}

// maxReason bounds what a worker says of a failure, in bytes.
const maxReason = 4000

func bounded(s string) string {
	if len(s) > maxReason {
		return s[:maxReason] + "…"
	}
	return s
}
