package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
)

// usualPatience is how long one process waits for another that has locked the
// layout. Ours hold the lock for moments.
const usualPatience = time.Minute

var patience = usualPatience

// lock keeps other processes from changing the layout until the returned
// function is called. It is held for moments.
func (l *Layout) lock(ctx context.Context) (unlock func(), err error) {
	limited, stop := context.WithTimeout(ctx, patience)
	defer stop()
	f, err := filelock.Lock(limited, filepath.Join(l.dir, ".lock"), filelock.Exclusive, func() {})
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return nil, command.Busy(fmt.Errorf("%s: another process has locked this image layout for %s", l.dir, patience),
			"wait for it to end; fuser -v "+filepath.Join(l.dir, ".lock")+" shows it")
	}
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// ingest makes a directory for blobs that are not whole yet. The directory is
// locked as long as its owner lives; the next ingest removes one that is not,
// and done removes this one.
func (l *Layout) ingest(ctx context.Context) (dir string, done func(), err error) {
	unlock, err := l.lock(ctx)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	l.sweep()
	if dir, err = os.MkdirTemp(l.dir, ".ingest-"); err != nil {
		return "", nil, err
	}
	owner, err := filelock.TryDir(dir, filelock.Exclusive)
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	return dir, func() {
		_ = os.RemoveAll(dir) // or the next one does
		_ = owner.Close()
	}, nil
}

// sweep removes what was killed; the layout is locked. Before there were ingest
// directories it lay beside the blobs.
func (l *Layout) sweep() {
	for _, pattern := range []string{".ingest-*", "blobs/disk-*", "blobs/.disk-*.goldsmith-*"} {
		found, _ := filepath.Glob(filepath.Join(l.dir, pattern)) // nothing is found where it cannot be read
		for _, path := range found {
			if dead, err := filelock.TryDir(path, filelock.Exclusive); err == nil {
				_ = os.RemoveAll(path)
				_ = dead.Close()
			}
		}
	}
}

// take flushes a file and moves it into its place among the blobs.
func (l *Layout) take(path string, h v1.Hash) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path, l.blobPath(h)); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(l.blobPath(h)))
}
