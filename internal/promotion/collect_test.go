package promotion

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// What a channel holds or could go back to, what a node has, what is held and
// what a run needs is never removed, whatever else happened.
func TestCollect(t *testing.T) {
	n := 0
	db := storetest.Open(t, storetest.Where(t, "sqlite"))
	rapid.Check(t, func(rt *rapid.T) {
		n++
		ctx, d := t.Context(), newDesk(t, db)
		d.at = time.Now().Add(100 * time.Hour)
		for _, table := range []string{"promotion", "hold", "node"} {
			d.ok(db.Tx(ctx, func(tx *store.Tx) error { _, err := tx.Exec(ctx, "DELETE FROM "+table); return err }))
		}
		var images []string
		for i := range rapid.IntRange(2, 5).Draw(rt, "images") {
			images = append(images, d.image(fmt.Sprintf("%d.%d", n, i)))
		}
		img := func(label string) string { return rapid.SampledFrom(images).Draw(rt, label) }
		policies := []*Policy{d.policy(pipeline.Channel{Name: "a"}), d.policy(pipeline.Channel{Name: "b"})}
		keep := map[string]string{}
		for range rapid.IntRange(0, 8).Draw(rt, "steps") {
			p := rapid.SampledFrom(policies).Draw(rt, "channel")
			if rapid.IntRange(0, 3).Draw(rt, "back") == 0 {
				_, _ = d.Rollback(ctx, p, adam) // which may have nothing to go back to
				_ = d.Release(ctx, p.Name, adam)
				continue
			}
			if _, err := d.Promote(ctx, p, img("promoted"), eva); err != nil {
				rt.Fatal(err)
			}
		}
		for _, p := range policies {
			moves, err := d.Moves(ctx, p.Name)
			d.ok(err)
			keep[d.held(p.Name)] = p.Name
			keep[before(moves)] = p.Name + "'s way back"
		}
		if rapid.Bool().Draw(rt, "node") {
			image, next := img("deployed"), img("deploying")
			keep[image], keep[next] = "a node", "a node's deployment"
			d.ok(db.Tx(ctx, func(tx *store.Tx) error {
				_, err := tx.Exec(ctx, "INSERT INTO node (name, spec, declared, state, since, image, deployment) VALUES ('n', '{}', 1, 'testing', 0, ?, ?)",
					image, `{"image":"`+next+`"}`)
				return err
			}))
		}
		if rapid.Bool().Draw(rt, "hold") {
			held := img("held")
			keep[held] = "a hold"
			d.ok(d.Hold(ctx, held, time.Time{}, adam))
		}
		run := img("run")
		keep[run] = "a run"
		newest := rapid.IntRange(0, 2).Draw(rt, "newest")
		g, err := d.Collect(ctx, Keep{Newest: newest, Needed: []func(context.Context) ([]string, error){
			func(context.Context) ([]string, error) { return []string{run}, nil },
		}}, false)
		d.ok(err)
		left, err := d.images.List()
		d.ok(err)
		free := 0
		for _, image := range images {
			gone := !slices.Contains(left, image)
			if keep[image] != "" && gone {
				rt.Fatalf("%s was removed, which %s needs", image, keep[image])
			}
			if keep[image] == "" && !gone {
				free++
			}
		}
		if free > newest {
			rt.Fatalf("%d images are left that nobody needs; removed: %v", free, g.Images)
		}
	})
}
