package engine

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
	"goldsmith/testbed/inventory"
)

// WorkerSilence is how long a worker is counted on that was not heard of.
const WorkerSilence = time.Minute

// Advance plans a run and does what the plan says, in one transaction. cause
// and actor say why it is asked; they are recorded when anything comes of it.
func (e *Engine) Advance(ctx context.Context, run int64, cause, actor string) (Decision, error) {
	var d Decision
	var next []int64
	var due time.Time
	err := e.db.Tx(ctx, func(tx *store.Tx) error {
		p, r, err := e.load(ctx, tx, run)
		if err != nil || r.ended {
			return err
		}
		s, err := e.snapshot(ctx, tx, r, p)
		if err != nil {
			return err
		}
		due = r.due
		d = Plan(*s, *p)
		if err := e.record(ctx, tx, r, s, d, cause, actor); err != nil {
			return err
		}
		for _, a := range d.Actions {
			if err := e.apply(ctx, tx, r, p, s, a); err != nil {
				return fmt.Errorf("run %d: %s %s: %w", run, a.Do, a.Stage, err)
			}
		}
		if len(d.Actions) > 0 {
			tx.Wake()
		}
		next, err = waiting(ctx, tx, run, s, d)
		return err
	})
	if err != nil {
		return d, err
	}
	switch {
	case slices.ContainsFunc(d.Actions, func(a Action) bool { return a.Do != Start && a.Do != Stop && a.Do != Finish }):
		e.enqueue(ctx, time.Time{}, run) // what was skipped or forgiven may let others begin, or end the run
	case !d.Again.IsZero() && !d.Again.Equal(due) && e.dispatch != nil:
		e.enqueue(ctx, d.Again, run)
	}
	e.enqueue(ctx, time.Time{}, next...)
	return d, nil
}

// runRow is what an advance needs of a run.
type runRow struct {
	RunNow
	policy string
	waits  string
	due    time.Time // what was asked for to happen though nothing else does
	ended  bool
}

func (e *Engine) load(ctx context.Context, tx *store.Tx, run int64) (*Policy, *runRow, error) {
	r := &runRow{}
	var begun, due, ended int64
	err := tx.QueryRow(ctx, "SELECT state, cancel, newer, policy, waits, host, begun, due, ended FROM run WHERE id = ?", run).
		Scan(&r.State, &r.Cancel, &r.Newer, &r.policy, &r.waits, &r.Host, &begun, &due, &ended)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, command.BadInput(fmt.Errorf("run %d: %w", run, ErrNoRun), "'imgpipe status' lists the runs")
	}
	if err != nil {
		return nil, nil, err
	}
	r.ID, r.Begun, r.due, r.ended = run, store.Time(begun), store.Time(due), ended != 0
	p, err := e.policy(ctx, tx, r.policy)
	return p, r, err
}

// policy reads a policy. They are never changed, so each is read once.
func (e *Engine) policy(ctx context.Context, tx *store.Tx, name string) (*Policy, error) {
	if p, ok := e.policies.Load(name); ok {
		return p.(*Policy), nil
	}
	b, err := content(ctx, tx, name)
	if err != nil {
		return nil, err
	}
	p := &Policy{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, err
	}
	e.policies.Store(name, p)
	return p, nil
}

// snapshot reads all that the plan depends on, after bringing attempts into line
// with their tasks.
func (e *Engine) snapshot(ctx context.Context, tx *store.Tx, r *runRow, p *Policy) (*Snapshot, error) {
	s := &Snapshot{At: e.now(), Run: r.RunNow, Tasks: make([]TaskNow, len(p.Stages))}
	if err := e.readTasks(ctx, tx, s); err != nil {
		return nil, err
	}
	if err := e.readAttempts(ctx, tx, s); err != nil {
		return nil, err
	}
	// What waits for a worker that is gone is not in anybody's way.
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM task JOIN run ON task.run = CAST(run.id AS TEXT) WHERE task.`+going+` AND task.stage >= 0 AND (task.state = 'running'
		OR task.state = 'ready' AND (run.host = '' OR run.host IN (SELECT name FROM worker WHERE seen > ?)))`, store.Millis(s.At.Add(-WorkerSilence))).Scan(&s.Busy)
	if err != nil {
		return nil, err
	}
	if s.Cap, err = inventory.Cap(ctx, tx); err != nil {
		return nil, err
	}
	s.Workers, err = e.workersFor(ctx, tx, r.Host)
	return s, err
}

func (e *Engine) readTasks(ctx context.Context, tx *store.Tx, s *Snapshot) error {
	rows, err := tx.Query(ctx, "SELECT id, stage, state, reason, pardon, not_before, ended, image, made FROM task WHERE run = ? AND stage >= 0", runName(s.Run.ID))
	if err != nil {
		return err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var t TaskNow
		var stage int
		var notBefore, ended int64
		if err := rows.Scan(&t.ID, &stage, &t.State, &t.Reason, &t.Pardon, &notBefore, &ended, &t.Image, &t.Made); err != nil {
			return err
		}
		if stage >= len(s.Tasks) {
			return fmt.Errorf("run %d: its tasks are not those of its policy", s.Run.ID)
		}
		t.NotBefore, t.Ended = store.Time(notBefore), store.Time(ended)
		s.Tasks[stage] = t
		n++
	}
	if n != len(s.Tasks) {
		return errors.Join(rows.Err(), fmt.Errorf("run %d: %d tasks for %d stages", s.Run.ID, n, len(s.Tasks)))
	}
	return rows.Err()
}

func (e *Engine) readAttempts(ctx context.Context, tx *store.Tx, s *Snapshot) error {
	byID := map[int64]*TaskNow{}
	for i := range s.Tasks {
		byID[s.Tasks[i].ID] = &s.Tasks[i]
	}
	rows, err := tx.Query(ctx, `SELECT attempt.id, task, attempt.state, attempt.class, stop FROM attempt JOIN task ON task.id = attempt.task
		WHERE task.run = ? ORDER BY attempt.id`, runName(s.Run.ID))
	if err != nil {
		return err
	}
	defer rows.Close()
	var orphans []int64
	for rows.Next() {
		var id, task int64
		var state pipeline.Status
		var class, stop string
		if err := rows.Scan(&id, &task, &state, &class, &stop); err != nil {
			return err
		}
		t := byID[task]
		switch {
		case state == pipeline.Failed:
			t.Failures = append(t.Failures, class)
		case state == pipeline.Running && t.State == pipeline.Running:
			t.Stopping = stop != ""
		case state == pipeline.Running:
			orphans = append(orphans, id)
			t.Failures = append(t.Failures, ClassLost)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	_ = rows.Close()
	// A task was taken away from its attempt: its node died, or the lease ended.
	for _, id := range orphans {
		if err := e.endAttempt(ctx, tx, id, pipeline.Failed, ClassLost, "its node was lost"); err != nil {
			return err
		}
	}
	return nil
}

// Workers returns the workers that were heard of lately, by name.
func (e *Engine) Workers(ctx context.Context) (list []WorkerInfo, err error) {
	err = e.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, "SELECT name, capabilities, slots, version, draining FROM worker WHERE seen > ? ORDER BY name", store.Millis(e.now().Add(-WorkerSilence)))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var w WorkerInfo
			var caps string
			if err := rows.Scan(&w.Name, &caps, &w.Slots, &w.Version, &w.Draining); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(caps), &w.Capabilities); err != nil {
				return err
			}
			list = append(list, w)
		}
		return rows.Err()
	})
	return list, err
}

func (e *Engine) workersFor(ctx context.Context, tx *store.Tx, host string) (list []WorkerNow, err error) {
	rows, err := tx.Query(ctx, "SELECT name, capabilities FROM worker WHERE seen > ?1 AND draining = 0 AND (?2 = '' OR name = ?2) ORDER BY name",
		store.Millis(e.now().Add(-WorkerSilence)), host)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var w WorkerNow
		var caps string
		if err := rows.Scan(&w.Name, &caps); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(caps), &w.Capabilities); err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, rows.Err()
}

// record keeps what was decided, and of what. A plan that does nothing, and for
// the same reasons as the last one, is not worth a record.
func (e *Engine) record(ctx context.Context, tx *store.Tx, r *runRow, s *Snapshot, d Decision, cause, actor string) error {
	waits, err := json.Marshal(d.Waits)
	if err != nil {
		return err
	}
	if !d.Again.Equal(r.due) {
		if err := tx.One(ctx, "UPDATE run SET due = ? WHERE id = ?", store.Millis(d.Again), r.ID); err != nil {
			return err
		}
	}
	if len(d.Actions) == 0 && string(waits) == r.waits {
		return nil
	}
	slot := slices.ContainsFunc(d.Waits, func(w Wait) bool { return w.Slot })
	if err := tx.One(ctx, "UPDATE run SET waits = ?, slot = ? WHERE id = ?", string(waits), slot, r.ID); err != nil {
		return err
	}
	var names [2]string
	for i, v := range []any{s, d} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if names[i], err = putContent(ctx, tx, b); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, "INSERT INTO transition (run, at, cause, actor, planner, policy, snapshot, decision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		r.ID, store.Millis(s.At), cause, actor, PlannerVersion, r.policy, names[0], names[1])
	return err
}

// apply does one action.
func (e *Engine) apply(ctx context.Context, tx *store.Tx, r *runRow, p *Policy, s *Snapshot, a Action) error {
	now := store.Millis(s.At)
	if a.Do == Finish {
		if err := tx.One(ctx, "UPDATE run SET state = ?, reason = ?, ended = ?, waits = '', slot = 0, due = 0 WHERE id = ?", a.State, a.Reason, now, r.ID); err != nil {
			return err
		}
		return e.event(ctx, tx, r.ID, "run", "", "%s: %s", a.State, a.Reason)
	}
	task := s.Tasks[slices.IndexFunc(p.Stages, func(st Stage) bool { return st.Name == a.Stage })].ID
	switch a.Do {
	case Start:
		return tx.One(ctx, "UPDATE task SET state = ?, image = ?, made = 0, node = '', fence = 0, ended = 0 WHERE id = ?", pipeline.Ready, a.Image, task)
	case Retry:
		return tx.One(ctx, "UPDATE task SET state = ?, not_before = ?, node = '', fence = 0, ended = 0 WHERE id = ?", pipeline.Todo, store.Millis(a.NotBefore), task)
	case Skip:
		return tx.One(ctx, "UPDATE task SET state = ?, reason = ?, ended = ? WHERE id = ?", a.State, a.Reason, now, task)
	case Stop:
		_, err := tx.Exec(ctx, "UPDATE attempt SET stop = ? WHERE task = ? AND ended = 0", a.Reason, task)
		return err
	}
	return fmt.Errorf("unknown action %q", a.Do)
}

// waiting is the oldest run that waits for room, when this one has left some.
func waiting(ctx context.Context, tx *store.Tx, run int64, s *Snapshot, d Decision) ([]int64, error) {
	room := s.Cap - s.Busy
	for _, a := range d.Actions {
		if a.Do == Start {
			room--
		}
	}
	if room <= 0 {
		return nil, nil
	}
	return ids(ctx, tx, "SELECT id FROM run WHERE ended = 0 AND slot = 1 AND id <> ? ORDER BY id LIMIT 1", run)
}

// Sweep finds what nobody told of: attempts whose worker is silent, runs that
// are due, and runs that were to be advanced by a process that died. It returns
// how many runs it had advanced.
func (e *Engine) Sweep(ctx context.Context) (int, error) {
	var runs []int64
	err := e.db.Tx(ctx, func(tx *store.Tx) error {
		lost, err := ids(ctx, tx, "SELECT id FROM attempt WHERE ended = 0 AND expires < ? ORDER BY id", store.Millis(e.now()))
		if err != nil {
			return err
		}
		for _, id := range lost {
			if err := e.lose(ctx, tx, id); err != nil {
				return err
			}
		}
		if len(lost) > 0 {
			tx.Wake()
		}
		runs, err = ids(ctx, tx, "SELECT id FROM run WHERE ended = 0 ORDER BY id")
		return err
	})
	for _, run := range runs {
		if _, bad := e.Advance(ctx, run, "a sweep", ""); bad != nil {
			err = errors.Join(err, fmt.Errorf("run %d: %w", run, bad)) // it is not in the way of others
		}
	}
	return len(runs), err
}

// lose ends an attempt whose worker is silent.
func (e *Engine) lose(ctx context.Context, tx *store.Tx, attempt int64) error {
	var task int64
	var worker string
	if err := tx.QueryRow(ctx, "SELECT task, worker FROM attempt WHERE id = ?", attempt).Scan(&task, &worker); err != nil {
		return err
	}
	reason := fmt.Sprintf("worker %s was silent for %s", worker, AttemptLease)
	if err := e.endAttempt(ctx, tx, attempt, pipeline.Failed, ClassLost, reason); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "UPDATE task SET state = ?, reason = ?, class = ?, node = '', fence = 0, ended = ? WHERE id = ? AND state = 'running'",
		pipeline.Failed, reason, ClassLost, store.Millis(e.now()), task)
	return err
}

func (e *Engine) endAttempt(ctx context.Context, tx *store.Tx, id int64, state pipeline.Status, class, reason string) error {
	return tx.One(ctx, "UPDATE attempt SET state = ?, class = ?, reason = ?, ended = ? WHERE id = ? AND ended = 0",
		state, class, reason, store.Millis(e.now()), id)
}
