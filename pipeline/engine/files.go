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
