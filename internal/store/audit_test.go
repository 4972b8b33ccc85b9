package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
)

// An act is in the audit trail by the transaction that does it: once, and not
// when that fails.
func TestAct(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		a := &store.Act{Entry: store.Entry{Who: "eva", Via: store.ByCommand, Peer: "uid 0", Request: "hold\x1b production"}}
		ctx := store.WithAct(t.Context(), a)
		does := func(ctx context.Context, what string, err error) {
			t.Helper()
			bad := db.Tx(ctx, func(tx *store.Tx) error {
				if what != "" {
					tx.Did(what)
				}
				return err
			})
			if !errors.Is(bad, err) {
				t.Fatal(bad)
			}
		}
		does(ctx, "", nil) // it only looks
		does(ctx, "failed", errors.New("no"))
		if a.Written {
			t.Error("written by a transaction that failed")
		}
		does(t.Context(), "somebody else's", nil)
		does(ctx, "held"+strings.Repeat("ä", 1000), nil)
		does(ctx, "afterwards", nil)
		if !a.Written {
			t.Error("it is not said that it was written")
		}
		err := db.View(t.Context(), func(tx *store.Tx) error {
			var n, at int64
			var who, via, request, detail string
			if err := tx.QueryRow(t.Context(), "SELECT COUNT(*) FROM audit").Scan(&n); err != nil {
				return err
			}
			err := tx.QueryRow(t.Context(), "SELECT at, who, via, request, detail FROM audit").Scan(&at, &who, &via, &request, &detail)
			if n != 1 || at == 0 || who != "eva" || via != "command" || request != "hold  production" || !strings.HasPrefix(detail, "heldä") || len(detail) > 510 {
				t.Errorf("%d entries: %d %s %s %s %s", n, at, who, via, request, detail)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
