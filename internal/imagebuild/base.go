package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// baseFormat changes when this code makes another tree of the same inputs.
const baseFormat = "base/1"

// base is a finished base tree in the cache: what the root.d hooks made.
type base struct {
	root  string    // the directory
	epoch time.Time // newest modification time that a package gave one of its files
}

// baseKey names what a base tree depends on: the hooks that make it with
// their environment snippets, the packages and the definition's words. The
// state of the package mirror is not in it: see Options.Refresh.
func (b *build) baseKey() (string, error) {
	h := sha256.New()
	add := func(parts ...string) {
		for _, p := range parts {
			fmt.Fprintf(h, "%d:%s", len(p), p)
		}
	}
	add(baseFormat, b.def.Arch, b.def.Release, strings.Join(b.def.Mirror, "\n"))
	add(b.packages...)
	for _, k := range slices.Sorted(maps.Keys(b.def.Environment)) {
		add(k, b.def.Environment[k])
	}
	for _, dir := range []string{"root.d", "environment.d"} {
		top := filepath.Join(b.hooks, dir)
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(b.hooks, p)
			add(rel, string(content))
			return nil
		})
		if err != nil && !os.IsNotExist(err) {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// makeBase runs the root.d hooks, or takes the tree they made before.
func (b *build) makeBase(ctx context.Context) (*base, error) {
	key, err := b.baseKey()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.cache.dir, "base", key)
	step := b.progress.Start("base " + b.def.Release)
	lock, err := lockFile(ctx, dir+".lock", unix.LOCK_EX, func() { b.progress.Info("waiting for another build of this base tree") })
	if err != nil {
		step.Done(err, "")
		return nil, err
	}
	defer lock.Close()
	if !b.opts.Refresh {
		if got, err := openBase(dir); err == nil {
			step.Cached(fmt.Sprintf("%d packages asked for, base tree %s", len(b.packages), key[:12]))
			return got, nil
		}
	}
	err = b.bootstrap(ctx, dir)
	step.Done(err, "")
	if err != nil {
		return nil, err
	}
	return openBase(dir)
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
	list := filepath.Join(b.work.dir, "packages")
	if err := os.WriteFile(list, []byte(strings.Join(b.packages, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	if err := b.runPhase(ctx, phase{name: "root.d"}, root); err != nil {
		return err
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) == 0 {
		return fmt.Errorf("phase root.d: made no tree: an operating system element must fill TARGET_ROOT")
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
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// baseMeta is base.json beside a base tree; it is written last, so a tree
// without it is not finished.
type baseMeta struct {
	Epoch int64 `json:"epoch"` // seconds since 1970
}

func openBase(dir string) (*base, error) {
	content, err := os.ReadFile(filepath.Join(dir, "base.json"))
	if err != nil {
		return nil, err
	}
	var meta baseMeta
	if err := json.Unmarshal(content, &meta); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return &base{filepath.Join(dir, "root"), time.Unix(meta.Epoch, 0).UTC()}, nil
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
