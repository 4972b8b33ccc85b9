package imagebuild

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/filelock"
)

// Kinds of what a cache holds.
const (
	KindLayer    = "layer"
	KindDownload = "download" // of the bootstrapper or an element
	KindResult   = "result"   // of a computation; computed again when it is not there
)

// beside lists what is in the directories beside the layers: files, and
// Git repositories as one.
func (c *cache) beside() ([]Cached, error) {
	var all []Cached
	for _, place := range []struct{ dir, kind string }{
		{downloadsName, KindDownload}, {"images", KindDownload}, {"packages", KindDownload}, // of imgbuild extract and bootstrap
		{resultsName, KindResult}, {digestsName, KindResult},
	} {
		dir := filepath.Join(c.dir, place.dir)
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // never made, or removed meanwhile
			}
			if err != nil || d.IsDir() && !isRepository(path) {
				return err
			}
			u, err := measured(path)
			u.Kind = place.kind
			all = append(all, u)
			if err == nil && d.IsDir() {
				err = fs.SkipDir
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// isRepository tells whether a directory is a Git repository or a checkout.
func isRepository(dir string) bool {
	for _, name := range []string{".git", "objects"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil && fi.IsDir() {
			return true
		}
	}
	return false
}

// measured sums up the files below path. The last use is the latest time at
// which one of them was read or written; most file systems note the former
// once a day.
func measured(path string) (Cached, error) {
	u := Cached{Key: path}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		u.Size += st.Size
		for _, t := range []unix.Timespec{st.Atim, st.Mtim} {
			if at := time.Unix(t.Sec, t.Nsec); at.After(u.Used) {
				u.Used = at
			}
		}
		return nil
	})
	return u, err
}

// pruneBeside removes what lies beside the layers and was not used for
// longest, until what is left of it and the layers that were used since hold
// at most keep bytes. It returns what it removed, and the size of what stays.
// While other builds run nothing goes: they may be about to read it.
func (c *cache) pruneBeside(ctx context.Context, keep int64) (removed []Cached, left int64, err error) {
	starting, err := filelock.Lock(ctx, filepath.Join(c.dir, startName), filelock.Exclusive, func() {})
	if err != nil {
		return nil, 0, err
	}
	defer starting.Close()
	units, err := c.beside()
	if err != nil {
		return nil, 0, err
	}
	busy, err := c.running()
	if err != nil {
		return nil, 0, err
	}
	layers, err := c.layers.All()
	if err != nil {
		return nil, 0, err
	}
	all := slices.Concat(units, cached(layers))
	slices.SortStableFunc(all, func(a, b Cached) int { return b.Used.Compare(a.Used) })
	var total int64
	for _, u := range all {
		total += u.Size
		switch {
		case u.Kind == KindLayer:
		case total <= keep || busy:
			left += u.Size
		default:
			if err := os.RemoveAll(u.Key); err != nil {
				return removed, left, err
			}
			removed = append(removed, u)
		}
	}
	return removed, left, nil
}

// running tells whether a build uses the cache. Nobody may be starting.
func (c *cache) running() (bool, error) {
	if err := c.sweep(); err != nil {
		return false, err
	}
	alive, err := filepath.Glob(filepath.Join(c.dir, workName, scratch+"*.lock"))
	return len(alive) > 0, err
}
