package imagebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/rootfs"
)

// base is a finished base tree in the cache: what the root.d hooks made.
type base struct {
	root  string    // the directory
	epoch time.Time // newest modification time that a package gave one of its files
	lock  *os.File  // shared for as long as the tree is used
}

// close lets other builds make the tree anew.
func (b *base) close() error { return b.lock.Close() }

// baseRoot makes the tree that the other phases work on: a copy of a base tree
// that is kept, or, for diskimage-builder's commands, what root.d makes now.
func (b *build) baseRoot(ctx context.Context) (string, error) {
	if b.opts.Compat == nil {
		var err error
		if b.base, err = b.makeBase(ctx); err != nil {
			return "", err
		}
		b.epoch = b.base.epoch
		return rootfs.Overlay(b.base.root, b.work.dir)
	}
	started := time.Now()
	root := filepath.Join(b.work.dir, "mnt")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	if err := b.runPhases(ctx, root, []phase{rootPhase}); err != nil {
		return "", err
	}
	if err := checkBase(root); err != nil {
		return "", err
	}
	var err error
	b.epoch, err = newestBefore(root, started)
	return root, err
}

// checkBase fails when root.d made no tree; what it may put into /tmp alone is
// none.
func checkBase(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "tmp" && e.Name() != "lost+found" {
			return nil
		}
	}
	return errors.New("phase root.d: made no tree: an operating system element must fill TARGET_ROOT")
}

// makeBase runs the root.d hooks, or takes the tree they made before.
func (b *build) makeBase(ctx context.Context) (*base, error) {
	key, err := b.baseKey()
	if err != nil {
		return nil, err
	}
	step := b.progress.Start("base " + b.def.Release)
	got, made, err := b.takeBase(ctx, filepath.Join(b.cache.dir, "base", key))
	if err != nil || made {
		step.Done(err, "")
		return got, err
	}
	step.Cached(fmt.Sprintf("%d packages asked for, base tree %s", len(b.packages), key[:12]))
	return got, nil
}

// takeBase returns the tree at dir under a shared lock: nobody replaces it
// while it lies under a build's overlay. Where there is none, or a fresh one
// is asked for, it is made first, under an exclusive lock. Turning one lock
// into the other is not atomic, flock(2), so another build may come in between;
// its tree is as good.
func (b *build) takeBase(ctx context.Context, dir string) (_ *base, made bool, err error) {
	waiting := sync.OnceFunc(func() { b.progress.Info("waiting for another build of this base tree") })
	for {
		if made || !b.opts.Refresh {
			got, err := openBase(ctx, dir, unix.LOCK_SH, waiting)
			if err != nil || got.root != "" {
				return got, made, err
			}
			if err := got.close(); err != nil {
				return nil, made, err
			}
		}
		if made {
			return nil, made, fmt.Errorf("%s: removed as soon as it was there", dir)
		}
		got, err := openBase(ctx, dir, unix.LOCK_EX, waiting)
		if err != nil {
			return nil, made, err
		}
		if got.root == "" || b.opts.Refresh {
			err = b.bootstrap(ctx, dir)
			made = true
		}
		if err := errors.Join(err, got.close()); err != nil {
			return nil, made, err
		}
	}
}

// openBase locks the base tree at dir and reads what is known of it. Without
// an error there is a lock, but where there is no finished tree, root is
// empty.
func openBase(ctx context.Context, dir string, how int, waiting func()) (*base, error) {
	lock, err := lockFile(ctx, dir+".lock", how, waiting)
	if err != nil {
		return nil, err
	}
	got := &base{lock: lock}
	content, err := os.ReadFile(filepath.Join(dir, "base.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return got, nil
	}
	if err != nil {
		return nil, errors.Join(err, got.close())
	}
	var meta baseMeta
	if json.Unmarshal(content, &meta) == nil {
		got.root, got.epoch = filepath.Join(dir, "root"), time.Unix(meta.Epoch, 0).UTC()
	}
	return got, nil
}

// bootstrap makes the tree in the scratch directory and renames it into the
// cache.
func (b *build) bootstrap(ctx context.Context, dir string) error {
	started := time.Now()
	tmp := filepath.Join(b.work.dir, "base")
	root := filepath.Join(tmp, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := b.stageFor(rootPhase, root).run(ctx, rootPhase, nil); err != nil {
		return err
	}
	// Such as a package cache that a hook lent the tree: it is no part of it.
	if err := rootfs.UnmountBelow(root); err != nil {
		return fmt.Errorf("phase root.d: %w", err)
	}
	if err := checkBase(root); err != nil {
		return err
	}
	epoch, err := newestBefore(root, started)
	if err != nil {
		return err
	}
	meta, err := json.Marshal(baseMeta{Epoch: epoch.Unix()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "base.json"), meta, 0o644); err != nil {
		return err
	}
	return replaceDir(tmp, dir, filepath.Join(b.work.dir, "old"))
}

// replaceDir puts the directory src at dest. What was there goes to old, in
// one step: a removal that is interrupted would leave a part of it.
func replaceDir(src, dest, old string) error {
	if err := syncAll(src); err != nil {
		return err
	}
	if err := os.Rename(dest, old); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Rename(src, dest); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dest))
}

// syncAll writes out everything that lies on the file system of dir, so that
// a tree that is there after a power cut is complete.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", dir, err), d.Close())
	}
	return d.Close()
}

// baseMeta is base.json beside a base tree; it is written last, so a tree
// without it is not finished.
type baseMeta struct {
	Epoch int64 `json:"epoch"` // seconds since 1970
}

// newestBefore returns the newest modification time of a regular file that is
// older than limit, to the second: files that packages brought keep the time
// they were packaged at, files that were made now do not count.
func newestBefore(dir string, limit time.Time) (time.Time, error) {
	newest := time.Unix(0, 0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if t := fi.ModTime(); t.Before(limit.Add(-time.Minute)) && t.After(newest) {
			newest = t
		}
		return nil
	})
	return newest.Truncate(time.Second).UTC(), err
}
