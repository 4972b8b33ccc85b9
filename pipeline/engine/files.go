package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// AttemptDir is where an attempt's files lie in a store's directory.
func AttemptDir(dir string, run int64, stage string, attempt int) string {
	return filepath.Join(RunDir(dir, run), stage, fmt.Sprint(attempt))
}

// RunDir is where a run's files lie in a store's directory.
func RunDir(dir string, run int64) string { return filepath.Join(dir, "runs", fmt.Sprint(run)) }

// Bounds of what an attempt leaves, in bytes. A log ends with a line that says
// so where it was cut; of files the largest are removed.
const (
	MaxLog   = 64 << 20
	LogEnd   = 64 << 10 // more for what is said at its end
	MaxFiles = 2 << 30  // beside the log
)

// MaxDepth is how many directories below the attempt's a file may lie.
const MaxDepth = 4

// TooDeep tells whether a file, by its name in the attempt's directory, lies too
// deep to be kept.
func TooDeep(name string) bool { return strings.Count(name, "/") > MaxDepth }

// OpenFile opens a file that an attempt left, by its name in the attempt's
// directory, and nothing that a link in it leads to elsewhere. The error wraps
// fs.ErrNotExist where there is none, or what is there is no file: a pipe would
// be waited for. The caller closes it.
func OpenFile(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: it is no file", filepath.Join(dir, name), fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
