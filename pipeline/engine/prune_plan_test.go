package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
)

// plan is how a database would run a query.
func plan(t *testing.T, db *store.DB, query string, args ...any) string {
	t.Helper()
	word := "EXPLAIN QUERY PLAN "
	if db.Postgres() {
		word = "EXPLAIN "
	}
	var text []string
	err := db.View(t.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(t.Context(), word+query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var line string
			var a, b, c any
			to := []any{&a, &b, &c, &line}
			if db.Postgres() {
				to = to[3:]
			}
			if err := rows.Scan(to...); err != nil {
				return err
			}
			text = append(text, line)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return strings.Join(text, "\n")
}

// What forgets a run looks at the run's rows, and what forgets contents goes
// over each table once.
func TestForgetPlans(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		all := plan(t, db, "DELETE FROM content WHERE sha256 IN ("+unnamed+")")
		if strings.Contains(all, "SubPlan") || strings.Contains(all, "CORRELATED") {
			t.Errorf("contents are looked for one by one:\n%s", all)
		}
		if db.Postgres() {
			return // its plans of empty tables say nothing
		}
		queries := map[string]any{"DELETE " + runTransitions: 1, "DELETE " + runEvents: "1"}
		for _, q := range ofRun {
			queries[q] = "1"
		}
		for q, run := range queries {
			if p := plan(t, db, q, run); strings.Contains(p, "SCAN") {
				t.Errorf("%s:\n%s", q, p)
			}
		}
	})
}

// old makes runs that ended long ago, and one that has not.
func old(t *testing.T, db *store.DB, n int, ended time.Time) {
	t.Helper()
	if err := db.Tx(t.Context(), func(tx *store.Tx) error {
		for i := range n + 1 {
			end := store.Millis(ended)
			if i == n {
				end = 0
			}
			_, err := tx.Exec(t.Context(), `INSERT INTO run (id, pipeline, file, source, policy, inputs, state, created, begun, ended)
				VALUES (?, 'p', 'p', '', '', '{}', 'passed', 1, 1, ?)`, i+1, end)
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A run that somebody else forgot meanwhile, or that was tried again, is passed
// over; many go in several transactions, each with its entry in the audit trail.
func TestForgetMeanwhile(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		day := time.Now().Add(-24 * time.Hour)
		const n = 2*forgetAtOnce + 5
		old(t, db, n, day.Add(-time.Hour))
		e, act := New(db), &store.Act{Each: true, Entry: store.Entry{Who: "eva", Request: "gc"}}
		var seen []int64
		r := Retention{History: day, Last: func(ctx context.Context, tx *store.Tx, run int64) error {
			seen = append(seen, run)
			if run != 1 {
				return nil
			}
			for _, q := range []string{"DELETE FROM run WHERE id = 2", "UPDATE run SET ended = 0 WHERE id = 3",
				fmt.Sprintf("UPDATE run SET ended = %d WHERE id = 30", store.Millis(time.Now()))} {
				if _, err := tx.Exec(ctx, q); err != nil {
					return err
				}
			}
			return nil
		}}
		f, err := e.Forget(store.WithAct(t.Context(), act), r, false)
		if err != nil || f.Runs != n-3 || len(seen) != n-3 {
			t.Errorf("%v, %v; asked about %v", f, err, seen)
		}
		var details []string
		err = db.View(t.Context(), func(tx *store.Tx) error {
			left, err := ids(t.Context(), tx, "SELECT id FROM run ORDER BY id")
			if fmt.Sprint(left) != fmt.Sprint([]int{3, 30, n + 1}) {
				t.Errorf("left: %v", left)
			}
			if err != nil {
				return err
			}
			rows, err := tx.Query(t.Context(), "SELECT detail FROM audit ORDER BY id")
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var d string
				if err := rows.Scan(&d); err != nil {
					return err
				}
				details = append(details, d)
			}
			return rows.Err()
		})
		if err != nil || len(details) != 3 || !strings.HasPrefix(details[0], "forgot 18 runs (1 to 20), 0 decisions") ||
			!strings.HasPrefix(details[1], "forgot 19 runs (21 to 40)") {
			t.Errorf("%q, %v", details, err)
		}
	})
}

// Counting what would be forgotten waits for no writer, and none for it.
func TestForgetDry(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		day := time.Now().Add(-24 * time.Hour)
		old(t, db, 2, day.Add(-time.Hour))
		err := db.Tx(t.Context(), func(*store.Tx) error {
			f, err := New(db).Forget(t.Context(), Retention{History: day, Audit: day}, true)
			if f.Runs != 2 {
				t.Errorf("%v", f)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
