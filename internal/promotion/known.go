package promotion

import (
	"context"

	"goldsmith/internal/store"
)

// Known tells whether a tag is a channel's: whether anything was ever promoted
// to it, approved for it, held or frozen.
func Known(ctx context.Context, db *store.DB, tag string) (known bool, err error) {
	err = db.View(ctx, func(tx *store.Tx) error {
		var n int
		err := tx.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM promotion WHERE channel = ?1) + (SELECT COUNT(*) FROM approval WHERE channel = ?1)
			+ (SELECT COUNT(*) FROM hold WHERE subject = ?1) + (SELECT COUNT(*) FROM frozen WHERE channel = ?1)`, tag).Scan(&n)
		known = n > 0
		return err
	})
	return known, err
}
