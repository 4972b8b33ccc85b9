package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

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
	if err := rootfs.CanOverlay(dir); err != nil {
		return nil, command.BadInput(fmt.Errorf("cache: %w", err), "name another directory with --cache")
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
// makes a new one. One process at a time does that: a directory whose lock is
// not taken yet looks like one that was left.
func (c *cache) newWork(ctx context.Context, p *command.Progress) (*work, error) {
	starting, err := lockFile(ctx, filepath.Join(c.dir, "work.lock"), unix.LOCK_EX,
		func() { p.Info("waiting for another build to start") })
	if err != nil {
		return nil, err
	}
	defer starting.Close()
	if err := c.sweep(); err != nil {
		p.Info("left from another build: %v", err)
	}
	dir, err := os.MkdirTemp(filepath.Join(c.dir, "work"), scratch)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	lock, err := tryLock(dir+".lock", unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &work{dir, lock}, nil
}

// scratch begins the names of scratch directories. Beside NAME lies NAME.lock.
const scratch = "build-"

// sweep removes what builds left that no longer run.
func (c *cache) sweep() error {
	top := filepath.Join(c.dir, "work")
	entries, err := os.ReadDir(top)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		// A build that was killed while it cleaned up leaves its lock alone.
		name, isLock := strings.CutSuffix(e.Name(), ".lock")
		if !strings.HasPrefix(name, scratch) || !isLock && !e.IsDir() {
			continue
		}
		w := &work{dir: filepath.Join(top, name)}
		if w.lock, err = tryLock(w.dir+".lock", unix.LOCK_EX); err != nil {
			continue // its build lives
		}
		errs = append(errs, w.close())
	}
	return errors.Join(errs...)
}

// close unmounts and removes the scratch directory. What stays mounted keeps
// the directory: removing it would reach into a mount, and delete the host's
// files where a hook lent them to the tree.
func (w *work) close() error {
	if err := rootfs.Unmount(w.dir); err != nil {
		return errors.Join(fmt.Errorf("%s is not removed: %w", w.dir, err), w.lock.Close())
	}
	err := os.RemoveAll(w.dir)
	if errors.Is(err, fs.ErrPermission) {
		// A hook made a file immutable, chattr(1).
		err = errors.Join(mutable(w.dir), os.RemoveAll(w.dir))
	}
	return errors.Join(err, os.Remove(w.dir+".lock"), w.lock.Close())
}

// mutable takes the attributes "i" and "a" of chattr(1) from all files and
// directories below dir.
func mutable(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if held := fsImmutable | fsAppend; err == nil && flags&held != 0 {
			return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^held)
		}
		return nil // a file system without such attributes
	})
}
