package step

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
)

// Swept is how many files were removed, and how large they were.
type Swept struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// SweepArtifacts removes what runs left whose time is over, as each run's
// pipeline file says (pipeline.Stage.Keep); runs that have not ended keep
// everything. With dry it only counts.
func (s *Store) SweepArtifacts(ctx context.Context, e *engine.Engine, now time.Time, dry bool) (total Swept, err error) {
	before := int64(0)
	for {
		runs, err := e.RunsBefore(ctx, before, sweepAtOnce)
		if err != nil || len(runs) == 0 {
			return total, err
		}
		for _, r := range runs {
			if r.Ended == nil {
				continue
			}
			if err := s.sweepRun(ctx, e, r, now, dry, &total); err != nil {
				return total, err
			}
		}
		if before, err = engine.Number(runs[0].ID); err != nil {
			return total, err
		}
	}
}

// sweepAtOnce is how many runs are read at a time.
const sweepAtOnce = 200

func (s *Store) sweepRun(ctx context.Context, e *engine.Engine, r *pipeline.Run, now time.Time, dry bool, total *Swept) error {
	id, err := engine.Number(r.ID)
	if err != nil {
		return err
	}
	if _, err := os.Stat(engine.RunDir(s.Dir, id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	source, err := e.Source(ctx, id)
	if err != nil {
		return err
	}
	p, err := pipeline.Parse(r.File, source, r.Inputs, Names())
	if err != nil {
		return nil // a file that this program does not take any more: nothing is known of what it wanted
	}
	for i, st := range r.Stages {
		if i >= len(p.Stages) || len(p.Stages[i].Artifacts) == 0 {
			continue
		}
		for _, a := range st.Attempts {
			dir := engine.AttemptDir(s.Dir, id, st.Name, a.Number)
			err := sweepAttempt(dir, now.Sub(*r.Ended), dry, total, func(name string) time.Duration {
				return p.Stages[i].Keep(name, a.Status == pipeline.Passed)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepAttempt removes the files of a directory whose time, which keep says, is
// over. Links are not followed.
func sweepAttempt(dir string, age time.Duration, dry bool, total *Swept, keep func(string) time.Duration) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if k := keep(filepath.ToSlash(name)); k < 0 || age < k {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		total.Files++
		total.Bytes += fi.Size()
		if dry {
			return nil
		}
		return root.Remove(name)
	})
}
