package engine

import (
	"fmt"
	"path/filepath"
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
