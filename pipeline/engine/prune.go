package engine

import (
	"context"
	"database/sql"
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
	// Last is called in the transaction that forgets a run, before it does; nil:
	// nothing of the run is worth keeping.
	Last func(ctx context.Context, tx *store.Tx, run int64) error
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

// String is for the audit trail and logs.
func (f Forgotten) String() string {
	text := fmt.Sprintf("forgot %d runs", f.Runs)
	if n := len(f.Numbers); n > 0 {
		text += fmt.Sprintf(" (%d to %d)", f.Numbers[0], f.Numbers[n-1])
	}
	return text + fmt.Sprintf(", %d decisions, %d events, %d contents, %d entries of the audit trail", f.Decisions, f.Events, f.Contents, f.Audit)
}

// add counts what another transaction removed.
func (f *Forgotten) add(g Forgotten) {
	f.Runs += g.Runs
	f.Decisions += g.Decisions
	f.Events += g.Events
	f.Contents += g.Contents
	f.Audit += g.Audit
	f.Numbers = append(f.Numbers, g.Numbers...)
}

// forgetAtOnce is how many runs one transaction forgets: others may write
// between two.
const forgetAtOnce = 20

// Forget removes what is old and that nothing needs: a run that has not ended
// stays, as does one whose image is kept, and the newest, whose number must not
// come again. What a kept decision was made of stays, so all that is left can be
// decided anew. With dry nothing is removed, and no writer waits. Each of its
// transactions says for the audit trail what it removed; when one fails, what
// the earlier ones did is returned, too.
func (e *Engine) Forget(ctx context.Context, r Retention, dry bool) (f Forgotten, err error) {
	if dry {
		err = e.db.View(ctx, func(tx *store.Tx) error { return f.count(ctx, tx, r) })
		return f, err
	}
	var old []int64
	if !r.History.IsZero() {
		err = e.db.View(ctx, func(tx *store.Tx) error {
			old, err = forgettable(ctx, tx, r)
			return err
		})
		if err != nil {
			return f, err
		}
	}
	step := func(do func(g *Forgotten, tx *store.Tx) error) error {
		var g Forgotten
		err := e.db.Tx(ctx, func(tx *store.Tx) error {
			err := do(&g, tx)
			if g.Runs+g.Events+g.Contents+g.Audit > 0 {
				tx.Did(g.String())
			}
			return err
		})
		if err == nil {
			f.add(g)
		}
		return err
	}
	for len(old) > 0 {
		some := old[:min(len(old), forgetAtOnce)]
		old = old[len(some):]
		if err := step(func(g *Forgotten, tx *store.Tx) error { return g.runs(ctx, tx, r, some) }); err != nil {
			return f, err
		}
	}
	return f, step(func(g *Forgotten, tx *store.Tx) error { return g.rest(ctx, tx, r) })
}

// Newest is when the newest happened of what is known: a run, a decision, an
// event, an entry of the audit trail. It is zero where nothing is.
func (e *Engine) Newest(ctx context.Context) (at time.Time, err error) {
	err = e.db.View(ctx, func(tx *store.Tx) error {
		for _, q := range []string{"created FROM run", "at FROM transition", "at FROM event", "at FROM audit"} {
			var ms int64
			err := tx.QueryRow(ctx, "SELECT "+q+" ORDER BY id DESC LIMIT 1").Scan(&ms)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if t := store.Time(ms); t.After(at) {
				at = t
			}
		}
		return nil
	})
	return at, err
}

// Known are the numbers of all runs.
func (e *Engine) Known(ctx context.Context) (map[int64]bool, error) {
	known := map[int64]bool{}
	err := e.db.View(ctx, func(tx *store.Tx) error {
		list, err := ids(ctx, tx, "SELECT id FROM run")
		for _, id := range list {
			known[id] = true
		}
		return err
	})
	return known, err
}

// forgettable are the runs that may be forgotten, oldest first.
func forgettable(ctx context.Context, tx *store.Tx, r Retention) (list []int64, err error) {
	all, err := ids(ctx, tx, "SELECT id FROM run WHERE ended <> 0 AND ended < ? AND id < (SELECT MAX(id) FROM run) ORDER BY id", store.Millis(r.History))
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, "SELECT DISTINCT CAST(run AS INTEGER), image FROM task WHERE stage >= 0 AND image <> ''")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	kept := map[int64]bool{}
	for rows.Next() {
		var run int64
		var image string
		if err := rows.Scan(&run, &image); err != nil {
			return nil, err
		}
		kept[run] = kept[run] || r.Images[image]
	}
	for _, id := range all {
		if !kept[id] {
			list = append(list, id)
		}
	}
	return list, rows.Err()
}

// Of a run, its number as the database has it: events and tasks know it as a
// text. The index of events is of those that have a run.
const (
	runTransitions = "FROM transition WHERE run = ?"
	runEvents      = "FROM event WHERE run = ? AND run <> ''"
	oldEvents      = "FROM event WHERE run = '' AND at < ?"
	oldAudit       = "FROM audit WHERE at < ? AND id < (SELECT MAX(id) FROM audit)"
)

// unnamed are contents that nothing names. Both databases go over each table
// once for it, which NOT IN and NOT EXISTS do not do on both.
const unnamed = `SELECT sha256 FROM content EXCEPT SELECT source FROM run EXCEPT SELECT policy FROM run
	EXCEPT SELECT policy FROM transition EXCEPT SELECT snapshot FROM transition EXCEPT SELECT decision FROM transition`

// ofRun removes what belongs to a run. A task needs tasks of its own run only.
var ofRun = []string{
	"DELETE FROM task_need WHERE task IN (SELECT id FROM task WHERE run = ?)",
	"DELETE FROM attempt WHERE task IN (SELECT id FROM task WHERE run = ?)",
	"DELETE FROM task WHERE run = ?",
}

// runs forgets runs. One that was begun again meanwhile is not among those any
// more that ended long ago, and stays; one that is gone was forgotten by
// somebody else.
func (f *Forgotten) runs(ctx context.Context, tx *store.Tx, r Retention, list []int64) error {
	for _, id := range list {
		var ended int64
		err := tx.QueryRow(ctx, "SELECT ended FROM run WHERE id = ?", id).Scan(&ended)
		if errors.Is(err, sql.ErrNoRows) || err == nil && (ended == 0 || ended >= store.Millis(r.History)) {
			continue
		}
		if err == nil && r.Last != nil {
			err = r.Last(ctx, tx, id)
		}
		if err == nil {
			err = f.run(ctx, tx, id)
		}
		if err != nil {
			return fmt.Errorf("run %d: %w", id, err)
		}
	}
	return nil
}

func (f *Forgotten) run(ctx context.Context, tx *store.Tx, id int64) error {
	f.Runs++
	f.Numbers = append(f.Numbers, id)
	if err := remove(ctx, tx, &f.Decisions, "DELETE "+runTransitions, id); err != nil {
		return err
	}
	if err := remove(ctx, tx, &f.Events, "DELETE "+runEvents, runName(id)); err != nil {
		return err
	}
	for _, q := range ofRun {
		if err := remove(ctx, tx, nil, q, runName(id)); err != nil {
			return err
		}
	}
	return remove(ctx, tx, nil, "DELETE FROM run WHERE id = ?", id)
}

// rest forgets what belongs to no run.
func (f *Forgotten) rest(ctx context.Context, tx *store.Tx, r Retention) error {
	if before := store.Millis(r.History); before != 0 {
		if err := remove(ctx, tx, &f.Events, "DELETE "+oldEvents, before); err != nil {
			return err
		}
		if err := remove(ctx, tx, nil, "DELETE FROM lease WHERE ended <> 0 AND ended < ?", before); err != nil {
			return err
		}
		if err := remove(ctx, tx, &f.Contents, "DELETE FROM content WHERE sha256 IN ("+unnamed+")"); err != nil {
			return err
		}
	}
	if before := store.Millis(r.Audit); before != 0 {
		return remove(ctx, tx, &f.Audit, "DELETE "+oldAudit, before)
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

// count counts what would be removed.
func (f *Forgotten) count(ctx context.Context, tx *store.Tx, r Retention) (err error) {
	var n int
	add := func(to *int, query string, args ...any) {
		if err == nil {
			err = tx.QueryRow(ctx, "SELECT COUNT(*) "+query, args...).Scan(&n)
			*to += n
		}
	}
	if before := store.Millis(r.History); before != 0 {
		if f.Numbers, err = forgettable(ctx, tx, r); err != nil {
			return err
		}
		f.Runs = len(f.Numbers)
		goes := map[int64]bool{}
		for _, id := range f.Numbers {
			goes[id] = true
			add(&f.Decisions, runTransitions, id)
			add(&f.Events, runEvents, runName(id))
		}
		add(&f.Events, oldEvents, before)
		if err == nil {
			f.Contents, err = countUnnamed(ctx, tx, goes)
		}
	}
	if before := store.Millis(r.Audit); before != 0 {
		add(&f.Audit, oldAudit, before)
	}
	return err
}

// countUnnamed is how many contents nothing names when some runs are gone.
func countUnnamed(ctx context.Context, tx *store.Tx, goes map[int64]bool) (n int, err error) {
	each := func(query string, take func(run int64, sum string)) {
		var rows *sql.Rows
		if err == nil {
			rows, err = tx.Query(ctx, query)
		}
		if err != nil {
			return
		}
		defer rows.Close()
		var run int64
		var sum string
		for err == nil && rows.Next() {
			err = rows.Scan(&run, &sum)
			take(run, sum)
		}
		err = errors.Join(err, rows.Err())
	}
	named := map[string]bool{}
	for _, query := range []string{"SELECT id, source FROM run", "SELECT id, policy FROM run", "SELECT run, policy FROM transition",
		"SELECT run, snapshot FROM transition", "SELECT run, decision FROM transition"} {
		each(query, func(run int64, sum string) {
			if !goes[run] {
				named[sum] = true
			}
		})
	}
	each("SELECT 0, sha256 FROM content", func(_ int64, sum string) {
		if !named[sum] {
			n++
		}
	})
	return n, err
}
