package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"goldsmith/internal/command"
)

// Runs returns the records of all runs kept in dir, oldest first.
func Runs(dir string) ([]*Run, error) {
	ids, err := runIDs(dir)
	if err != nil {
		return nil, err
	}
	var runs []*Run
	for _, id := range ids {
		r, err := ReadRun(dir, strconv.Itoa(id))
		if errors.Is(err, os.ErrNotExist) {
			continue // killed between making the directory and the record
		}
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// ReadRun returns the record of one run.
func ReadRun(dir, id string) (*Run, error) {
	file := filepath.Join(dir, "runs", filepath.Base(id), "run.json")
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &Run{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: %w", file, err), "the record is damaged: remove "+filepath.Dir(file))
	}
	r.ID = filepath.Base(filepath.Dir(file)) // whatever it says of itself
	r.Stages = slices.DeleteFunc(r.Stages, func(s *StageRun) bool { return s == nil })
	return r, nil
}

func runIDs(dir string) ([]int, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "runs"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 {
			ids = append(ids, n)
		}
	}
	slices.Sort(ids)
	return ids, nil
}
