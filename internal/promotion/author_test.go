package promotion

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// Who submitted the run that built an image, and whom the run names, are its
// authors, as is who was noted; those of other runs are not.
func TestAuthors(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, d := t.Context(), newDesk(t, db)
		img, other := d.image("1"), d.image("2")
		d.ok(d.Authored(ctx, img, "kai", "kai"))
		d.ok(db.Tx(ctx, func(tx *store.Tx) error {
			for i, image := range []string{img, other} {
				run, name := i+1, fmt.Sprint(i+1)
				for _, q := range []string{
					`INSERT INTO run (id, pipeline, file, source, policy, inputs, author, state, created, begun) VALUES (?1, 'p', 'p', '', '', '{}', 'author' || ?2, 'running', 1, 1)`,
					`INSERT INTO event (at, kind, who, what, run) VALUES (1, 'run', 'starter' || ?2, 'submitted: pipeline p', ?2)`,
					`INSERT INTO event (at, kind, who, what, run) VALUES (2, 'operator', 'helper' || ?2, 'retry', ?2)`,
				} {
					args := []any{run, name}
					if strings.Contains(q, "event") {
						args, q = args[1:], strings.ReplaceAll(q, "?2", "?1")
					}
					if _, err := tx.Exec(ctx, q, args...); err != nil {
						return err
					}
				}
				if _, err := tx.Exec(ctx, "INSERT INTO task (run, name, state, created, image, made) VALUES (?, 'build', 'passed', 1, ?, 1)", name, image); err != nil {
					return err
				}
			}
			return nil
		}))
		d.ok(db.View(ctx, func(tx *store.Tx) error {
			f, err := d.facts(ctx, tx, d.policy(pipeline.Channel{Name: "c"}), img, nil)
			if want := []string{"author1", "kai", "starter1"}; !slices.Equal(f.Authors, want) {
				t.Errorf("authors %v; want %v", f.Authors, want)
			}
			return err
		}))
		// They stay its authors when the run is forgotten.
		d.ok(db.Tx(ctx, func(tx *store.Tx) error {
			if err := d.KeepAuthors(ctx, tx, 1); err != nil {
				return err
			}
			return d.KeepAuthors(ctx, tx, 1)
		}))
		var kept []string
		d.ok(db.View(ctx, func(tx *store.Tx) error {
			return each(ctx, tx, "SELECT image, who FROM image_author ORDER BY who", func(scan func(...any) error) error {
				var image, who string
				err := scan(&image, &who)
				if kept = append(kept, who); image != img {
					t.Errorf("%s is an author of %s", who, image)
				}
				return err
			})
		}))
		if want := []string{"author1", "kai", "starter1"}; !slices.Equal(kept, want) {
			t.Errorf("noted authors %v; want %v", kept, want)
		}
		needed, err := d.Needed(ctx)
		if err != nil || !slices.Contains(needed, img) || !slices.Contains(needed, other) {
			t.Errorf("running runs need %v, %v", needed, err)
		}
	})
}
