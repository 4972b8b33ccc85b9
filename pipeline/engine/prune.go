package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"goldsmith/internal/store"
)

// Retention says what may be forgotten. The zero time forgets nothing.
type Retention struct {
	History time.Time // runs that ended before it, with all that was decided about them; events of no run
	Audit   time.Time // entries of the audit trail before it
	// Images are those that are kept, by digest: so are the runs that made or
	// tested them, which their evidence names.
	Images map[string]bool
}

// Forgotten is how much a [Engine.Forget] removed.
type Forgotten struct {
	Runs      int     `json:"runs"`
	Decisions int     `json:"decisions"`
	Events    int     `json:"events"`
	Contents  int     `json:"contents"` // what decisions were made of, and nothing else names
	Audit     int     `json:"audit"`
	Numbers   []int64 `json:"run_numbers,omitempty"` // of the runs, oldest first
}

// forgetAtOnce is how many runs one transaction forgets: others may write
// between two.
const forgetAtOnce = 100

// errDry ends a transaction of which nothing is to stay.
var errDry = errors.New("nothing is to be changed")

// Forget removes what is old and that nothing needs: a run that has not ended
// stays, as does one whose image is kept, and the newest, whose number must not
// come again. What a kept decision was made of stays, so all that is left can be
// decided anew. With dry nothing is removed.
func (e *Engine) Forget(ctx context.Context, r Retention, dry bool) (f Forgotten, err error) {
	var old []int64
	if !r.History.IsZero() {
		if old, err = e.forgettable(ctx, r); err != nil {
			return f, err
		}
	}
	steps := []func(tx *store.Tx) error{}
	for left := old; len(left) > 0; {
		some := left[:min(len(left), forgetAtOnce)]
		left = left[len(some):]
		steps = append(steps, func(tx *store.Tx) error { return f.runs(ctx, tx, some) })
	}
	steps = append(steps, func(tx *store.Tx) error { return f.rest(ctx, tx, r) })
	if !dry {
		for _, step := range steps {
			if err := e.db.Tx(ctx, step); err != nil {
				return f, err
			}
		}
		return f, nil
	}
	err = e.db.Tx(ctx, func(tx *store.Tx) error {
		for _, step := range steps {
			if err := step(tx); err != nil {
				return err
			}
		}
		return errDry
	})
	if errors.Is(err, errDry) {
		err = nil
	}
	return f, err
}

// forgettable are the runs that may be forgotten, oldest first.
func (e *Engine) forgettable(ctx context.Context, r Retention) (list []int64, err error) {
	err = e.db.View(ctx, func(tx *store.Tx) error {
		all, err := ids(ctx, tx, "SELECT id FROM run WHERE ended <> 0 AND ended < ? AND id < (SELECT MAX(id) FROM run) ORDER BY id", store.Millis(r.History))
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT DISTINCT CAST(run AS INTEGER), image FROM task WHERE stage >= 0 AND image <> ''")
		if err != nil {
			return err
		}
		defer rows.Close()
		kept := map[int64]bool{}
		for rows.Next() {
			var run int64
			var image string
			if err := rows.Scan(&run, &image); err != nil {
				return err
			}
			kept[run] = kept[run] || r.Images[image]
		}
		for _, id := range all {
			if !kept[id] {
				list = append(list, id)
			}
		}
		return rows.Err()
	})
	return list, err
}

// runs forgets runs. One that was begun again meanwhile is not among those any
// more that have ended, and stays.
func (f *Forgotten) runs(ctx context.Context, tx *store.Tx, list []int64) error {
	for _, id := range list {
		var ended int64
		if err := tx.QueryRow(ctx, "SELECT ended FROM run WHERE id = ?", id).Scan(&ended); err != nil {
			return fmt.Errorf("run %d: %w", id, err)
		}
		if ended == 0 {
			continue
		}
		f.Runs++
		f.Numbers = append(f.Numbers, id)
		if err := remove(ctx, tx, &f.Decisions, "DELETE FROM transition WHERE run = ?", id); err != nil {
			return err
		}
		if err := remove(ctx, tx, &f.Events, "DELETE FROM event WHERE run = ?", runName(id)); err != nil {
			return err
		}
		for _, q := range []string{
			"DELETE FROM task_need WHERE task IN (SELECT id FROM task WHERE run = ?1) OR needs IN (SELECT id FROM task WHERE run = ?1)",
			"DELETE FROM attempt WHERE task IN (SELECT id FROM task WHERE run = ?1)",
			"DELETE FROM task WHERE run = ?1",
		} {
			if err := remove(ctx, tx, nil, q, runName(id)); err != nil {
				return err
			}
		}
		if err := remove(ctx, tx, nil, "DELETE FROM run WHERE id = ?", id); err != nil {
			return err
		}
	}
	return nil
}

// rest forgets what belongs to no run.
func (f *Forgotten) rest(ctx context.Context, tx *store.Tx, r Retention) error {
	if before := store.Millis(r.History); before != 0 {
		if err := remove(ctx, tx, &f.Events, "DELETE FROM event WHERE run = '' AND at < ?", before); err != nil {
			return err
		}
		if err := remove(ctx, tx, nil, "DELETE FROM lease WHERE ended <> 0 AND ended < ?", before); err != nil {
			return err
		}
		err := remove(ctx, tx, &f.Contents, `DELETE FROM content WHERE sha256 NOT IN (SELECT source FROM run UNION SELECT policy FROM run
			UNION SELECT policy FROM transition UNION SELECT snapshot FROM transition UNION SELECT decision FROM transition)`)
		if err != nil {
			return err
		}
	}
	if before := store.Millis(r.Audit); before != 0 {
		return remove(ctx, tx, &f.Audit, "DELETE FROM audit WHERE at < ? AND id < (SELECT MAX(id) FROM audit)", before)
	}
	return nil
}

// remove runs a DELETE, and adds how many rows it had to n.
func remove(ctx context.Context, tx *store.Tx, n *int, query string, args ...any) error {
	res, err := tx.Exec(ctx, query, args...)
	if err != nil {
		return err
	}
	rows, err := res.RowsAffected()
	if n != nil {
		*n += int(rows)
	}
	return err
}
