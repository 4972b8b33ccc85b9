package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"goldsmith/pipeline/engine"
)

// What a worker has not needed for long goes; what a channel holds and what an
// attempt works on stays, and the server keeps all of it.
func TestTidy(t *testing.T) {
	s := newSite(t)
	builder, tester := s.worker("builder"), s.worker("tester")
	id := s.run()
	digest := s.until(id, map[string]*remote{"builds": builder, "tests": tester})
	files := engine.RunDir(tester.dir, id)
	layout := tester.runner.Env.Store.Images
	has := func(images, runs bool) {
		t.Helper()
		list, err := layout.List()
		if err != nil || slices.Contains(list, digest) != images {
			t.Errorf("images: %q, %v", list, err)
		}
		if _, err := os.Stat(files); errors.Is(err, fs.ErrNotExist) == runs {
			t.Errorf("files of the run: %v", err)
		}
	}
	tidy := func(later time.Duration) {
		t.Helper()
		if err := tester.tidy(t.Context(), 24*time.Hour, time.Now().Add(later)); err != nil {
			t.Error(err)
		}
	}
	tidy(23 * time.Hour)
	has(true, true)
	need := &needs{using: &tester.using}
	need.add(digest)
	need.add(runName("1"))
	tidy(25 * time.Hour)
	has(true, true)
	need.release()
	if err := layout.Tag(digest, "staging"); err != nil {
		t.Fatal(err)
	}
	tidy(25 * time.Hour)
	has(true, false)
	if err := layout.Follow("staging", ""); err != nil {
		t.Fatal(err)
	}
	tidy(25 * time.Hour)
	has(false, false)
	if blobs, err := filepath.Glob(filepath.Join(layout.Dir(), "blobs/sha256/*")); err != nil || len(blobs) != 0 {
		t.Errorf("blobs are left: %q, %v", blobs, err)
	}
	if list, err := s.images.List(); err != nil || !slices.Contains(list, digest) {
		t.Errorf("the server has %q, %v", list, err)
	}
	if _, err := os.Stat(engine.RunDir(s.dir, id)); err != nil {
		t.Error(err)
	}
	// It is brought again where it is needed again.
	s.until(s.run(), map[string]*remote{"builds": builder, "tests": tester})
}
