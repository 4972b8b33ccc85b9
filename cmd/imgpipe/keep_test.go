package main

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"goldsmith/internal/promotion"
	"goldsmith/internal/store"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
)

// Runs are forgotten with their files, once the image is gone that their
// evidence is about.
func TestForgetRuns(t *testing.T) {
	s := newSite(t)
	builder, tester := s.worker("builder"), s.worker("tester")
	var ids []int64
	for range 3 {
		ids = append(ids, s.run())
	}
	var digest string
	for _, id := range ids {
		digest = s.until(id, map[string]*remote{"builds": builder, "tests": tester}) // the same image
	}
	if err := s.db.Tx(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), "UPDATE run SET ended = ? WHERE id <> 2", store.Millis(time.Now().Add(-100*24*time.Hour)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	opened := &step.Store{Dir: s.dir, Images: s.images}
	book := promotion.New(s.db, s.images)
	forget := func(gone []string, dry bool, want ...int64) {
		t.Helper()
		f, err := keep{history: 90 * 24 * time.Hour}.forget(t.Context(), s.engine, book, opened, gone, dry)
		if err != nil || !slices.Equal(f.Numbers, want) {
			t.Errorf("forgot %v, %v; want %v", f.Numbers, err, want)
		}
	}
	forget(nil, false)
	forget([]string{digest}, true, 1)
	if err := book.Hold(t.Context(), digest, time.Time{}, promotion.Word{Who: "eva", Why: "to be looked at"}); err != nil {
		t.Fatal(err)
	}
	forget([]string{digest}, false)
	if err := book.Release(t.Context(), digest, promotion.Word{Who: "eva", Why: "seen"}); err != nil {
		t.Fatal(err)
	}
	forget([]string{digest}, false, 1)
	for _, id := range ids {
		_, err := os.Stat(engine.RunDir(s.dir, id))
		if errors.Is(err, fs.ErrNotExist) != (id == 1) {
			t.Errorf("files of run %d: %v", id, err)
		}
	}
}
