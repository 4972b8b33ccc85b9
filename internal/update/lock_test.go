package update

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
)

// Two at a time: the second waits, and then says that it is busy.
func TestBusy(t *testing.T) {
	defer func(d time.Duration) { patience = d }(patience)
	patience = 300 * time.Millisecond
	b := newBench(t, false)
	b.must(os.MkdirAll(b.State, 0o700))
	lock, err := filelock.Try(filepath.Join(b.State, "lock"), filelock.Exclusive)
	b.must(err)
	defer lock.Close()
	if err := b.Install(t.Context(), b.image("2", 0), Options{}); command.Status(err) != command.StatusBusy {
		t.Errorf("beside another one: %v", err)
	}
}

// Where nothing is on trial a configuration run has nothing to record, and does
// not wait for an update.
func TestNotBusy(t *testing.T) {
	defer func(d time.Duration) { patience = d }(patience)
	patience = time.Millisecond
	ctx := t.Context()
	b := newBench(t, false)
	v1, v2 := b.image("1", 0), b.image("2", 0)
	img := b.image("2", 0)
	img.Root = func(ctx context.Context, dst Target, seeds []Seed) error { // the update is at work
		if err := b.Good(ctx); err != nil {
			t.Errorf("good: %v", err)
		}
		if over, err := b.FailedRun(ctx, "x"); over || err != nil {
			t.Errorf("failed run: %v, %v", over, err)
		}
		if err := b.Stay(ctx); err != nil {
			t.Errorf("stay: %v", err)
		}
		return v2.Root(ctx, dst, seeds)
	}
	b.must(b.Install(ctx, img, Options{}))
	b.must(b.Good(ctx))
	b.start(v1, v2)
	lock, err := filelock.Try(filepath.Join(b.State, "lock"), filelock.Exclusive)
	b.must(err)
	if err := b.Good(ctx); command.Status(err) != command.StatusBusy {
		t.Errorf("on trial: %v", err)
	}
	b.must(lock.Close())
	b.must(b.Good(ctx))
	if r := b.load(); r.Good != "b" {
		t.Errorf("%+v", r)
	}
}

// What records nothing makes no directory for it.
func TestNoState(t *testing.T) {
	b := newBench(t, false)
	b.must(b.Good(t.Context()))
	if over, err := b.FailedRun(t.Context(), "x"); over || err != nil {
		t.Error(over, err)
	}
	if s, err := b.Status(t.Context()); err != nil || !strings.Contains(s.Loader, "is not there") {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := b.InspectBoot(t.Context()); command.Status(err) != command.StatusUsage {
		t.Error(err)
	}
	if _, err := os.Stat(b.State); err == nil {
		t.Error("there is one")
	}
}
