package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"goldsmith/internal/command"
)

// tidyEvery is how often a worker looks for what it does not need any more.
const tidyEvery = 6 * time.Hour

// uses are names of what attempts need that go on. Its zero value is none.
type uses struct {
	mu sync.Mutex // guards n
	n  map[string]int
}

// add says that somebody needs it, until the function that it returns is called.
func (u *uses) add(name string) (done func()) {
	u.count(name, 1)
	return sync.OnceFunc(func() { u.count(name, -1) })
}

func (u *uses) count(name string, by int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n == nil {
		u.n = map[string]int{}
	}
	if u.n[name] += by; u.n[name] == 0 {
		delete(u.n, name)
	}
}

func (u *uses) has(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.n[name] > 0
}

// tidy removes from a worker's directory what came before an age: images that
// neither a channel holds nor an attempt needs that goes on, their unpacked
// disks, and files of attempts, which the server has. What is needed again is
// brought again.
func (r *remote) tidy(ctx context.Context, older time.Duration, now time.Time) error {
	store := r.runner.Env.Store
	idle := func(images []string) ([]string, error) {
		return slices.DeleteFunc(images, r.using.has), nil
	}
	g, err := store.Images.Collect(ctx, idle, older, now, false)
	if err != nil {
		return err
	}
	if _, _, err := store.SweepDisks(g.Images, older, now, false); err != nil {
		return err
	}
	runs, err := os.ReadDir(filepath.Join(r.dir, "runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range runs {
		dir := filepath.Join(r.dir, "runs", d.Name())
		if newest, err := lastChange(dir); err != nil || now.Sub(newest) <= older || r.using.has(runName(d.Name())) {
			continue // what cannot be looked at is looked at the next time
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// runName names a run among what is used; digests are other names.
func runName(id string) string { return "run " + id }

// lastChange is when something was changed last in a run's directory: a stage or
// an attempt was begun, or has left a file.
func lastChange(dir string) (newest time.Time, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.ModTime().After(newest) {
			newest = fi.ModTime()
		}
		return err
	})
	return newest, err
}

// keepTidy tidies now and then, until ctx ends.
func (r *remote) keepTidy(ctx context.Context, log *slog.Logger, older time.Duration) {
	for {
		err := r.tidy(ctx, older, time.Now())
		if err != nil && ctx.Err() == nil && command.Status(err) != command.StatusBusy {
			log.Warn("cannot remove what is not needed any more", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(tidyEvery):
		}
	}
}

// needs are what an attempt needs while it goes on.
type needs struct {
	using *uses
	done  []func()
}

func (n *needs) add(name string) { n.done = append(n.done, n.using.add(name)) }

func (n *needs) release() {
	for _, done := range n.done {
		done()
	}
}
