package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/promotion"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
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
	// A process that was killed left files of a run that it had forgotten.
	stray := map[string]bool{"77": false, "78": true, "x": true} // whether they stay
	for name := range stray {
		dir := filepath.Join(s.dir, "runs", name)
		if err := os.MkdirAll(filepath.Join(dir, "build"), 0o755); err != nil {
			t.Fatal(err)
		}
		if long := time.Now().Add(-2 * strayAge); name != "78" {
			if err := os.Chtimes(dir, long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	forget([]string{digest}, false, 1)
	for name, stays := range stray {
		if _, err := os.Stat(filepath.Join(s.dir, "runs", name)); (err == nil) != stays {
			t.Errorf("runs/%s: %v", name, err)
		}
	}
	for _, id := range ids {
		_, err := os.Stat(engine.RunDir(s.dir, id))
		if errors.Is(err, fs.ErrNotExist) != (id == 1) {
			t.Errorf("files of run %d: %v", id, err)
		}
	}
}

// The server's own forgetting is in the audit trail, and a person that made an
// image is still its author afterwards.
func TestForgetOnce(t *testing.T) {
	dir := t.TempDir()
	db := storetest.Open(t, filepath.Join(dir, "db"))
	opened, err := step.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	for id, ended := range map[int]time.Time{1: time.Now().Add(-100 * 24 * time.Hour), 2: {}} {
		if err := db.Tx(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO run (id, pipeline, file, source, policy, inputs, author, state, created, begun, ended)
				VALUES (?, 'p', 'p', '', '', '{}', 'eva', 'passed', 1, 1, ?)`, id, store.Millis(ended))
			if err == nil {
				_, err = tx.Exec(t.Context(), "INSERT INTO task (run, name, state, created, image, made, stage) VALUES (?1, 'b', 'passed', 1, 'sha256:' || ?1, 1, 0)", fmt.Sprint(id))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	k := keep{history: 90 * 24 * time.Hour}
	if err := k.forgetOnce(t.Context(), slog.New(slog.DiscardHandler), engine.New(db), promotion.New(db, opened.Images), opened); err != nil {
		t.Fatal(err)
	}
	var who, request, detail, author string
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		err := tx.QueryRow(t.Context(), "SELECT who, request, detail FROM audit ORDER BY id DESC LIMIT 1").Scan(&who, &request, &detail)
		if err == nil {
			err = tx.QueryRow(t.Context(), "SELECT who FROM image_author WHERE image = 'sha256:1'").Scan(&author)
		}
		return err
	}); err != nil || who != "imgpipe serve" || request != "gc --history 2160h" || !strings.HasPrefix(detail, "forgot 1 runs (1 to 1)") || author != "eva" {
		t.Errorf("%q %q %q %q, %v", who, request, detail, author, err)
	}
}

// A clock that is ahead makes everything look old.
func TestAhead(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		newest time.Time
		want   bool
	}{{time.Time{}, false}, {now, false}, {now.Add(time.Hour), false}, {now.Add(-maxGap + time.Minute), false}, {now.Add(-maxGap - time.Minute), true}} {
		if got := ahead(c.newest, now); got != c.want {
			t.Errorf("newest %v: %t", c.newest, got)
		}
	}
}
