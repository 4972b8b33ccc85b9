package promotion

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"goldsmith/internal/registry"
	"goldsmith/internal/store"
)

// Keep says what a collection must leave.
type Keep struct {
	Newest int           // of the images that nothing needs, so many of the newest
	Older  time.Duration // images younger than this, and blobs; see MinimumAge
	// Needed name images by their digests that others need, whom the database
	// does not know. They are asked while nobody can change the layout.
	Needed []func(context.Context) ([]string, error)
}

// MinimumAge is the least that Keep.Older can be: what is younger may be about
// to be used.
const MinimumAge = time.Hour

var digestRE = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// Collect removes images that nobody needs, with what is attached to them. What
// a tag names, what a channel could be rolled back to, what a move that was
// begun is about, what a node has or was to get, what a run works on that has
// not ended, and what is held, stays. With
// dry nothing is removed.
func (b *Book) Collect(ctx context.Context, k Keep, dry bool) (*registry.Garbage, error) {
	choose := func(images []string) ([]string, error) {
		needed, err := b.Needed(ctx)
		if err != nil {
			return nil, err
		}
		for _, ask := range k.Needed {
			more, err := ask(ctx)
			if err != nil {
				return nil, err
			}
			needed = append(needed, more...)
		}
		images = slices.DeleteFunc(images, func(d string) bool { return slices.Contains(needed, d) })
		return images[:max(0, len(images)-k.Newest)], nil
	}
	return b.images.Collect(ctx, choose, max(k.Older, MinimumAge), b.now(), dry)
}

// Needed are the digests of images that must stay, tags aside: also of those
// that only machines have.
func (b *Book) Needed(ctx context.Context) (out []string, err error) {
	err = b.db.View(ctx, func(tx *store.Tx) error {
		rows, err := queryRows(ctx, tx, "state <> 'failed' ORDER BY id")
		if err != nil {
			return err
		}
		done := map[string][]*Row{}
		for _, r := range rows {
			if r.State == "intended" {
				out = append(out, r.Image, r.Previous)
				continue
			}
			done[r.Channel] = append(done[r.Channel], r)
		}
		for _, moves := range done {
			out = append(out, moves[len(moves)-1].Image, before(moves))
		}
		take := func(scan func(...any) error) error {
			var image, more string
			err := scan(&image, &more)
			out = append(append(out, image), digestRE.FindAllString(more, -1)...)
			return err
		}
		if err := each(ctx, tx, "SELECT image, deployment FROM node", take); err != nil {
			return fmt.Errorf("nodes: %w", err)
		}
		if err := each(ctx, tx, "SELECT subject, '' FROM hold WHERE ended = 0", take); err != nil {
			return err
		}
		return each(ctx, tx, `SELECT t.image, r.inputs FROM task t JOIN run r ON t.run = CAST(r.id AS TEXT)
			WHERE r.ended = 0`, take)
	})
	return out, err
}
