package engine

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
)

// Run returns the record of a run. The error wraps ErrNoRun when there is none.
func (e *Engine) Run(ctx context.Context, id int64) (*pipeline.Run, error) {
	runs, err := e.runs(ctx, "id = ?", id)
	if err == nil && len(runs) == 0 {
		err = command.BadInput(fmt.Errorf("run %d: %w", id, ErrNoRun), "'imgpipe status' lists the runs")
	}
	if err != nil {
		return nil, err
	}
	return runs[0], nil
}

// Runs returns the records of the newest runs, at most limit, oldest first.
func (e *Engine) Runs(ctx context.Context, limit int) ([]*pipeline.Run, error) {
	return e.runs(ctx, "id IN (SELECT id FROM run ORDER BY id DESC LIMIT ?)", limit)
}

// RunsBefore is Runs of those with smaller numbers than before; 0 means of all.
func (e *Engine) RunsBefore(ctx context.Context, before int64, limit int) ([]*pipeline.Run, error) {
	return e.runs(ctx, "id IN (SELECT id FROM run WHERE ?1 = 0 OR id < ?1 ORDER BY id DESC LIMIT ?2)", before, limit)
}

func (e *Engine) runs(ctx context.Context, where string, args ...any) (runs []*pipeline.Run, err error) {
	err = e.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id, pipeline, file, source, inputs, author, host, state, reason, waits, policy, created, ended FROM run WHERE `+where+` ORDER BY id`, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		byName := map[string]*pipeline.Run{}
		waits, policies := map[string]string{}, map[string]string{}
		for rows.Next() {
			r := &pipeline.Run{}
			var created, ended int64
			var inputs, wait, policy string
			if err := rows.Scan(&r.ID, &r.Pipeline, &r.File, &r.Source, &inputs, &r.Author, &r.Host, &r.Status, &r.Reason, &wait, &policy, &created, &ended); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(inputs), &r.Inputs); err != nil {
				return err
			}
			r.Started, r.Ended = store.Time(created), moment(ended)
			runs, byName[r.ID], waits[r.ID], policies[r.ID] = append(runs, r), r, wait, policy
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(runs) == 0 {
			return err
		}
		if err := addStages(ctx, tx, byName, waits, where, args); err != nil {
			return err
		}
		return e.addNeeds(ctx, tx, runs, policies)
	})
	return runs, err
}

// addNeeds says which stages each stage needs.
func (e *Engine) addNeeds(ctx context.Context, tx *store.Tx, runs []*pipeline.Run, policies map[string]string) error {
	for _, r := range runs {
		p, err := e.policy(ctx, tx, policies[r.ID])
		if err != nil {
			return err
		}
		for i, s := range r.Stages {
			if i < len(p.Stages) {
				s.Needs = p.Stages[i].Needs
			}
		}
	}
	return nil
}

// Source returns the pipeline file's bytes of a run.
func (e *Engine) Source(ctx context.Context, id int64) (b []byte, err error) {
	err = e.db.View(ctx, func(tx *store.Tx) error {
		var name string
		if err := tx.QueryRow(ctx, "SELECT source FROM run WHERE id = ?", id).Scan(&name); err != nil {
			return err
		}
		b, err = content(ctx, tx, name)
		return err
	})
	return b, err
}

func moment(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := store.Time(ms)
	return &t
}

// addStages adds the stages of runs, and the attempts at them.
func addStages(ctx context.Context, tx *store.Tx, runs map[string]*pipeline.Run, waits map[string]string, where string, args []any) error {
	in := "run IN (SELECT CAST(id AS TEXT) FROM run WHERE " + where + ")"
	rows, err := tx.Query(ctx, "SELECT id, run, name, state, reason, hint, exit_status, image, made, notes, node FROM task WHERE stage >= 0 AND "+in+" ORDER BY run, stage", args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	byTask := map[int64]*pipeline.StageRun{}
	for rows.Next() {
		s := &pipeline.StageRun{}
		var id int64
		var run, notes string
		if err := rows.Scan(&id, &run, &s.Name, &s.Status, &s.Reason, &s.Hint, &s.Exit, &s.Image, &s.Made, &notes, &s.Node); err != nil {
			return err
		}
		if notes != "" {
			if err := json.Unmarshal([]byte(notes), &s.Notes); err != nil {
				return err
			}
		}
		byTask[id] = s
		runs[run].Stages = append(runs[run].Stages, s)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for id, r := range runs {
		if err := addWaits(r, waits[id]); err != nil {
			return err
		}
	}
	return addAttempts(ctx, tx, byTask, in, args)
}

// addWaits says of stages that are open why nothing happens.
func addWaits(r *pipeline.Run, text string) error {
	var waits []Wait
	if text != "" {
		if err := json.Unmarshal([]byte(text), &waits); err != nil {
			return err
		}
	}
	for _, w := range waits {
		for _, s := range r.Stages {
			if s.Name == w.Stage && (s.Status == pipeline.Todo || s.Status == pipeline.Ready) {
				s.Reason = w.Reason
			}
		}
	}
	return nil
}

func addAttempts(ctx context.Context, tx *store.Tx, byTask map[int64]*pipeline.StageRun, in string, args []any) error {
	rows, err := tx.Query(ctx, `SELECT task, number, worker, attempt.state, attempt.class, attempt.reason, progress, attempt.started, attempt.ended
		FROM attempt JOIN task ON task.id = attempt.task WHERE `+in+` ORDER BY attempt.id`, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var a pipeline.Attempt
		var task, started, ended int64
		if err := rows.Scan(&task, &a.Number, &a.Worker, &a.Status, &a.Class, &a.Reason, &a.Progress, &started, &ended); err != nil {
			return err
		}
		a.Infra = a.Class == ClassInfra || a.Class == ClassLost
		a.Started, a.Ended = store.Time(started), moment(ended)
		if s := byTask[task]; s != nil {
			s.Attempts = append(s.Attempts, a)
		}
	}
	return rows.Err()
}

// Number reads a run's number as people write it.
func Number(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return 0, command.Usage(fmt.Sprintf("%q is not the number of a run", s), "'imgpipe status' lists the runs")
	}
	return n, nil
}

// Latest is the number of the newest run, 0 when there is none.
func (e *Engine) Latest(ctx context.Context) (id int64, err error) {
	err = e.db.View(ctx, func(tx *store.Tx) error {
		var n sql.NullInt64
		err := tx.QueryRow(ctx, "SELECT MAX(id) FROM run").Scan(&n)
		id = n.Int64
		return err
	})
	return id, err
}
