// Package atomicfile writes files that are seen whole or not at all.
//
// A file is written beside its destination and renamed over it; a write that
// fails or is killed leaves the old file. What a killed process leaves beside
// it is named ".NAME.goldsmith-*", so that the next writer of NAME removes it.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// File is a temporary file that becomes its destination on Commit.
type File struct {
	*os.File
	dest string
	done bool
}

// Create opens a temporary file beside dest with the given mode. The caller
// must call Commit or Abort; Abort after Commit does nothing, so that it can
// be deferred.
func Create(dest string, mode os.FileMode) (*File, error) {
	dir, base := filepath.Split(dest)
	if dir == "" {
		dir = "."
	}
	prefix := "." + base + ".goldsmith-"
	sweep(dir, prefix)
	for range 100 {
		f, err := os.CreateTemp(dir, prefix+"*")
		if err != nil {
			return nil, err
		}
		mine, err := claim(f)
		if err == nil && mine {
			err = f.Chmod(mode)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
		if mine {
			return &File{File: f, dest: dest}, nil
		}
		_ = f.Close()
	}
	return nil, fmt.Errorf("%s: other writers keep removing the temporary file", dest)
}

// claim locks a temporary file, which tells other writers that this one lives.
// It is false when another writer swept the file before it was locked.
func claim(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	return st.Nlink > 0, err
}

// sweep removes what killed writers left in dir. A file that is still locked
// belongs to a living one.
func sweep(dir, prefix string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !e.Type().IsRegular() {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(f.Name())
		}
		_ = f.Close()
	}
}

// Commit flushes the file and the directory and renames the file over its
// destination.
func (f *File) Commit() error {
	if f.done {
		return fmt.Errorf("%s: committed twice", f.dest)
	}
	f.done = true
	err := f.Sync()
	if err == nil {
		err = os.Rename(f.Name(), f.dest)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if err := f.Close(); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(f.dest))
}

// Abort removes the temporary file unless Commit has been called.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// Write replaces the file called dest by data.
func Write(dest string, data []byte, mode os.FileMode) error {
	f, err := Create(dest, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// SyncDir flushes a directory, so that a rename in it survives a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
