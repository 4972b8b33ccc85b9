package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errLocked says that another process holds a lock.
var errLocked = errors.New("locked by another build")

// lockPoll is how often a lock that somebody holds is tried again.
const lockPoll = 200 * time.Millisecond

// lockFile opens the file at path, which is made when it is not there, and
// locks it, shared (LOCK_SH) or exclusively (LOCK_EX). Closing the file
// releases it. A lock that others hold is waited for until ctx ends; waiting
// is called once before that.
func lockFile(ctx context.Context, path string, how int, waiting func()) (*os.File, error) {
	var tick <-chan time.Time
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := tryLock(path, how)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		if tick == nil {
			waiting()
			t := time.NewTicker(lockPoll)
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

// tryLock is lockFile that does not wait: it returns errLocked.
func tryLock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err == unix.EWOULDBLOCK:
		err = fmt.Errorf("%s: %w", path, errLocked)
	case err != nil:
		err = fmt.Errorf("lock %s: %w", path, err)
	default:
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}
