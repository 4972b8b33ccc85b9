package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// What is old goes with all that belongs to it; what somebody needs stays, and
// can still be decided anew.
func TestForget(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		f.work = func(_ context.Context, a *Assignment) Result {
			r := Result{State: pipeline.Passed}
			if a.Stage == "build" {
				r.Image = fmt.Sprintf("sha256:%d", a.Run)
			}
			return r
		}
		end := f.hire("w", 2)
		for i := range 5 {
			f.submit(fmt.Sprintf("timeout: %dh\n%s", i+1, chain)) // each with a policy of its own
		}
		for id := range int64(5) {
			f.ended(id+1, 30*time.Second)
		}
		end()
		goes := f.submit(chain)
		long := time.Now().Add(-100 * 24 * time.Hour)
		count := func(what string) (n int) {
			t.Helper()
			err := db.View(t.Context(), func(tx *store.Tx) error {
				return tx.QueryRow(t.Context(), "SELECT COUNT(*) FROM "+what).Scan(&n)
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		// All but run 3 are old, also the one that goes on.
		err := db.Tx(t.Context(), func(tx *store.Tx) error {
			for _, q := range []string{"UPDATE run SET ended = ?1 WHERE ended <> 0 AND id <> 3", "UPDATE run SET created = ?1",
				"INSERT INTO event (at, node, kind, what) VALUES (?1, 'n1', 'power', 'on')",
				"INSERT INTO audit (at, who, peer, request, status) VALUES (?1, 'eva', 'x', 'y', 200)",
				"INSERT INTO audit (at, who, peer, request, status) VALUES (?1, 'adam', 'x', 'y', 200)"} {
				if _, err := tx.Exec(t.Context(), q, store.Millis(long)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.engine.Forget(t.Context(), Retention{}, false); err != nil || got.Runs+got.Events+got.Audit+got.Contents > 0 {
			t.Errorf("nothing is to be forgotten: %+v, %v", got, err)
		}
		const old = "transition WHERE run IN (1, 4, 5)"
		decisions, attempts, tasks := count(old), count("attempt"), count("task")
		day := time.Now().Add(-24 * time.Hour)
		r := Retention{History: day, Audit: day, Images: map[string]bool{"sha256:2": true}}
		dry, err := f.engine.Forget(t.Context(), r, true)
		if err != nil || count("run") != 6 || count(old) != decisions || count("audit") != 2 {
			t.Errorf("dry: %+v, %v", dry, err)
		}
		got, err := f.engine.Forget(t.Context(), r, false)
		if err != nil || !slices.Equal(got.Numbers, []int64{1, 4, 5}) || got.Runs != 3 || got.Audit != 1 || got.Contents < 3*3 {
			t.Errorf("%+v, %v", got, err)
		}
		if fmt.Sprint(got) != fmt.Sprint(dry) {
			t.Errorf("dry said %+v, it was %+v", dry, got)
		}
		if count("run") != 3 || count("task") != tasks-3*4 || count("attempt") != attempts-3*4 || count(old) != 0 || got.Decisions != decisions ||
			count("event WHERE run IN ('1', '4', '5') OR node = 'n1'") != 0 || count("task_need") != 3*4 {
			t.Errorf("left: %d runs, %d tasks, %d attempts, %d of %d decisions, %d needs", count("run"), count("task"), count("attempt"), count(old), decisions, count("task_need"))
		}
		if differ, n, err := f.engine.ReplayAll(t.Context(), Filter{Limit: 1000}); err != nil || n == 0 || len(differ) != 0 {
			t.Errorf("decided anew: %d, otherwise: %v, %v", n, differ, err)
		}
		f.hire("w", 2)
		f.ended(goes, 30*time.Second)
		// The newest is as old as any, and its number does not come again.
		if err := db.Tx(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), "UPDATE run SET ended = ?", store.Millis(long))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got, err := f.engine.Forget(t.Context(), Retention{History: day}, false); err != nil || !slices.Equal(got.Numbers, []int64{2, 3}) {
			t.Errorf("%+v, %v", got, err)
		}
		if id := f.submit(chain); id != goes+1 {
			t.Errorf("run %d after %d", id, goes)
		}
	})
}
