package imagebuild

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"goldsmith/internal/command"
	"goldsmith/internal/rootfs"
)

// cache is the directory that holds base trees and the builds' scratch space.
type cache struct{ dir string }

// openCache makes the cache directory if it is not there. An empty dir means
// the user's own: XDG_CACHE_HOME/goldsmith or ~/.cache/goldsmith.
func openCache(dir string) (*cache, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			user = "/var/cache" // no home directory: a service
		}
		dir = filepath.Join(user, "goldsmith")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"base", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
	return &cache{dir}, nil
}

// work is one build's scratch directory, locked for as long as it lives.
type work struct {
	dir  string
	lock *os.File
}

// newWork removes the scratch directories of builds that were killed and
// makes a new one.
func (c *cache) newWork() (*work, error) {
	c.sweep()
	dir, err := os.MkdirTemp(filepath.Join(c.dir, "work"), "build-")
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(dir+".lock", syscall.LOCK_NB)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &work{dir, lock}, os.Chmod(dir, 0o755)
}

// sweep removes what builds left that no longer run.
func (c *cache) sweep() {
	left, _ := filepath.Glob(filepath.Join(c.dir, "work", "build-*"))
	for _, p := range left {
		fi, err := os.Lstat(p)
		if err != nil || !fi.IsDir() {
			continue
		}
		lock, err := lockFile(p+".lock", syscall.LOCK_NB)
		if err != nil {
			continue // its build lives
		}
		_ = os.RemoveAll(p)
		_ = os.Remove(p + ".lock")
		_ = lock.Close()
	}
}

// close unmounts and removes the scratch directory.
func (w *work) close() error {
	if err := rootfs.Unmount(w.dir); err != nil {
		return fmt.Errorf("unmount %s: %w", w.dir, err) // removing below a mount would reach into it
	}
	return errors.Join(os.RemoveAll(w.dir), os.Remove(w.dir+".lock"), w.lock.Close())
}

// lockFile opens and locks a file that is made when it is not there. With
// how = LOCK_NB a lock held by another process is an error, with 0 it is
// waited for.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|how)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, command.Busy(fmt.Errorf("%s: locked by another build", path), "wait for it to end")
	}
	return f, nil
}
