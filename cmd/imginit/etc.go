package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The layers of /etc in the state partition's directory etc: upper is the one
// that is mounted, previous what it was when the machine ran before, next one
// that is complete and not in its place yet.
const (
	etcUpper    = "upper"
	etcPrevious = "previous"
	etcNext     = "next"
	etcPart     = ".new"
)

// freshEtc gives /etc a new upper layer, in the directory dir. It has what is
// kept: files and directories below /etc, as patterns; all else is the image's
// again, whose /etc is the directory image, until it is configured. A power cut
// leaves the layer before, or the new one, whole.
func freshEtc(dir, image string, keep []string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_, err := os.Lstat(at(etcUpper))
	if errors.Is(err, fs.ErrNotExist) { // the first boot, or a power cut between the two renames
		if err := os.Rename(at(etcNext), at(etcUpper)); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return copyDirectory(image, at(etcUpper))
	}
	if err != nil {
		return err
	}
	for _, name := range []string{etcPart, etcNext, etcPrevious} { // the last of them to have room
		if err := os.RemoveAll(at(name)); err != nil {
			return err
		}
	}
	if err := keepEtc(at(etcUpper), at(etcPart), image, keep); err != nil {
		return err
	}
	// Contents must be on the disk before the name is.
	if err := syncAll(dir); err != nil {
		return err
	}
	if err := os.Rename(at(etcPart), at(etcNext)); err != nil {
		return err
	}
	if err := os.Rename(at(etcUpper), at(etcPrevious)); err != nil {
		return err
	}
	if err := os.Rename(at(etcNext), at(etcUpper)); err != nil {
		return err
	}
	return syncAll(dir)
}

// keepEtc copies what is kept from one layer to a new one. What was removed is
// a device in a layer, and is copied as that.
func keepEtc(from, to, image string, keep []string) error {
	if err := copyDirectory(image, to); err != nil {
		return err
	}
	for _, pattern := range keep {
		inEtc := strings.TrimPrefix(strings.TrimPrefix(pattern, "/etc"), "/")
		found, err := filepath.Glob(filepath.Join(from, inEtc))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := keepOne(from, to, image, strings.TrimPrefix(f, from)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepOne copies one path, unless a longer rule has it already. The directories
// on the way are as in the image, if it has them.
func keepOne(from, to, image, path string) error {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i := 1; i < len(parts); i++ {
		dir := filepath.Join(parts[:i]...)
		if !isDirectory(filepath.Join(from, dir)) {
			return nil // a link: what lies behind it is not in this layer
		}
		like := filepath.Join(image, dir)
		if !isDirectory(like) {
			like = filepath.Join(from, dir)
		}
		if err := copyDirectory(like, filepath.Join(to, dir)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if _, err := os.Lstat(filepath.Join(to, path)); err == nil {
		return nil
	}
	return copyTree(filepath.Join(from, path), filepath.Join(to, path))
}

func isDirectory(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

// copyDirectory makes a directory with owner and mode of another, but without
// its extended attributes: one that hides what the image has would hide it now.
func copyDirectory(like, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(like, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: like, Err: err}
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(to, st.Mode&0o7777)
}
