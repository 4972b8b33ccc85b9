// Package filelock locks files and directories between processes: flock(2),
// which the kernel releases when a process ends, however it ends.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How a file is locked: by many at a time, or by one alone.
const (
	Shared    = unix.LOCK_SH
	Exclusive = unix.LOCK_EX
)

// ErrLocked says that another process holds a lock.
var ErrLocked = errors.New("locked by another process")

// poll is how often a lock that somebody holds is tried again.
const poll = 200 * time.Millisecond

// Lock opens the file at path, which is made (mode 0644) when it is not there,
// and locks it. Closing the file releases it. A lock that others hold is
// waited for until ctx ends; waiting is called once before that. A file that
// its last holder removed while it was waited for is made anew.
func Lock(ctx context.Context, path string, how int, waiting func()) (*os.File, error) {
	var tick <-chan time.Time
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := Try(path, how)
		if !errors.Is(err, ErrLocked) {
			return f, err
		}
		if tick == nil {
			waiting()
			t := time.NewTicker(poll)
			defer t.Stop()
			tick = t.C
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick:
		}
	}
}

// Try is Lock that does not wait: it returns ErrLocked.
func Try(path string, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := File(f, how); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if same(f, path) {
			return f, nil
		}
		_ = f.Close() // removed between the opening and the locking
	}
}

// TryDir locks a directory that is there, without waiting. A directory that
// was replaced or removed meanwhile is an error that os.IsNotExist knows.
func TryDir(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := File(f, how); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !same(f, path) {
		_ = f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: os.ErrNotExist}
	}
	return f, nil
}

// File locks an open file without waiting.
func File(f *os.File, how int) error {
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return fmt.Errorf("%s: %w", f.Name(), ErrLocked)
		default:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// same tells whether the file is still the one at path.
func same(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(have, there)
}
