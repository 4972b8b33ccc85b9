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
	"goldsmith/internal/filelock"
	"goldsmith/internal/layer"
	"goldsmith/internal/rootfs"
)

// cache is the directory that holds the layers of steps, what elements
// downloaded, and the builds' scratch space.
type cache struct {
	dir    string
	layers *layer.Store
}

// Names in a cache directory.
const (
	layersName = "layers"
	workName   = "work"      // scratch directories
	startName  = "work.lock" // taken while a build starts
	mountName  = "build"     // where builds see what they work on, each in its own namespace

	downloadsName = "downloads" // DIB_IMAGE_CACHE
	locksName     = "locks"     // DIB_LOCKFILES
)

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
	for _, sub := range []string{workName, mountName} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, command.BadInput(fmt.Errorf("cache: %w", err), "name another directory with --cache")
		}
	}
	c := &cache{dir: dir}
	if c.layers, err = layer.Open(filepath.Join(dir, layersName)); err != nil {
		return nil, err
	}
	return c, nil
}

// work is one build's scratch directory, locked for as long as it lives.
type work struct {
	dir  string
	lock *os.File
}

// newWork removes the scratch directories of builds that were killed and
// makes a new one; p hears of trouble with that, and may be nil. One process at a time does that: a directory whose lock is
// not taken yet looks like one that was left.
func (c *cache) newWork(ctx context.Context, p *command.Progress) (*work, error) {
	starting, err := filelock.Lock(ctx, filepath.Join(c.dir, startName), filelock.Exclusive,
		func() { say(p, "waiting for another build to start") })
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		err = command.BadInput(fmt.Errorf("cache: %w", err), "the cache must be one that this user can write to; --cache names another")
	}
	if err != nil {
		return nil, err
	}
	defer starting.Close()
	if err := c.sweep(); err != nil {
		say(p, fmt.Sprintf("left from another build: %v", err))
	}
	dir, err := os.MkdirTemp(filepath.Join(c.dir, workName), scratch)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	lock, err := filelock.Try(dir+".lock", filelock.Exclusive)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &work{dir, lock}, nil
}

func say(p *command.Progress, line string) {
	if p != nil {
		p.Info("%s", line)
	}
}

// scratch begins the names of scratch directories. Beside NAME lies NAME.lock.
const scratch = "build-"

// stepSuffix ends the names of files that are locked while a step runs.
const stepSuffix = ".step"

// sweep removes what builds left that no longer run.
func (c *cache) sweep() error {
	top := filepath.Join(c.dir, workName)
	entries, err := os.ReadDir(top)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), stepSuffix) { // of a step that a killed build ran
			if f, err := filelock.Try(filepath.Join(top, e.Name()), filelock.Exclusive); err == nil {
				errs = append(errs, os.Remove(f.Name()), f.Close())
			}
			continue
		}
		// A build that was killed while it cleaned up leaves its lock alone.
		name, isLock := strings.CutSuffix(e.Name(), ".lock")
		if !strings.HasPrefix(name, scratch) || !isLock && !e.IsDir() {
			continue
		}
		w := &work{dir: filepath.Join(top, name)}
		if w.lock, err = filelock.Try(w.dir+".lock", filelock.Exclusive); err != nil {
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
