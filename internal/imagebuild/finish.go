package imagebuild

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goldsmith/internal/rootfs"
	"goldsmith/internal/tree"
)

// finish ends the work on a tree on its file systems as diskimage-builder
// does: the image's own resolv.conf comes back, /tmp is emptied, logs are
// emptied. With a time, everything of normalise is done as well.
func (s *stage) finish(epoch *time.Time) error {
	if s.Lent {
		if err := restoreResolvConf(s.Root); err != nil {
			return err
		}
	}
	if err := rootfs.UnmountBelow(filepath.Join(s.Root, "tmp")); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if epoch != nil {
		return normaliseDir(root, s.Root, *epoch)
	}
	return errors.Join(
		emptyDir(root, "tmp"),
		eachFile(root, "var/log", func(p string) error { return truncate(root, p) }),
		eachFile(root, "root", func(p string) error {
			if strings.HasSuffix(p, ".log") {
				return root.Remove(p)
			}
			return nil
		}),
	)
}

// isDir tells whether dir is a directory and no link to one, which leads who
// knows where.
func isDir(root *os.Root, dir string) bool {
	fi, err := root.Lstat(dir)
	return err == nil && fi.IsDir()
}

func emptyDir(root *os.Root, dir string) error {
	if !isDir(root, dir) {
		return nil
	}
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := root.RemoveAll(dir + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// eachFile calls f for every regular file below dir, links not followed.
func eachFile(root *os.Root, dir string, f func(path string) error) error {
	if !isDir(root, dir) {
		return nil
	}
	return fs.WalkDir(root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return f(p)
	})
}

func truncate(root *os.Root, path string) error {
	f, err := root.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// normaliseDir does to a directory what normalise does to a tree.
func normaliseDir(root *os.Root, dir string, epoch time.Time) error {
	t, err := tree.FromDir(dir)
	if err != nil {
		return err
	}
	var before []string
	for _, e := range t.All() {
		before = append(before, e.Path)
	}
	if err := normalise(t, epoch); err != nil {
		return err
	}
	for _, p := range before {
		if t.Lookup(p) == nil {
			if err := root.RemoveAll(p); err != nil {
				return err
			}
		}
	}
	if t.Lookup("etc/machine-id") == nil {
		return nil
	}
	if err := root.RemoveAll("etc/machine-id"); err != nil {
		return err
	}
	return root.WriteFile("etc/machine-id", nil, 0o444)
}
