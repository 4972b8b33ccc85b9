package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	said := 0
	waiting := func() { said++ }
	first, err := Lock(t.Context(), path, Shared, waiting)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Lock(t.Context(), path, Shared, waiting)
	if err != nil || said != 0 {
		t.Fatalf("a second shared lock: %v, waited %d times", err, said)
	}
	// Who waits is told once, and ends with the context.
	ctx, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	if _, err := Lock(ctx, path, Exclusive, waiting); !errors.Is(err, context.DeadlineExceeded) || said != 1 {
		t.Errorf("an exclusive lock beside shared ones: %v, told %d times", err, said)
	}
	time.AfterFunc(poll, func() { _ = first.Close(); _ = second.Close() })
	f, err := Lock(t.Context(), path, Exclusive, waiting)
	if err != nil || said != 2 {
		t.Fatalf("a lock that is released: %v, told %d times", err, said)
	}
	_ = f.Close()
}

// A file that its holder removed is no lock any more: who waited makes it anew.
func TestRemovedWhileWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Try(path, Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(poll/2, func() { _ = os.Remove(path); _ = first.Close() })
	second, err := Lock(t.Context(), path, Exclusive, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path, Exclusive); !errors.Is(err, ErrLocked) {
		t.Errorf("a third lock: %v; want %v", err, ErrLocked)
	}
	_ = second.Close()
}

func TestTryDir(t *testing.T) {
	dir := t.TempDir()
	f, err := TryDir(dir, Shared)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryDir(dir, Exclusive); !errors.Is(err, ErrLocked) {
		t.Errorf("an exclusive lock beside a shared one: %v", err)
	}
	_ = f.Close()
	if _, err := TryDir(filepath.Join(dir, "none"), Shared); !os.IsNotExist(err) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
