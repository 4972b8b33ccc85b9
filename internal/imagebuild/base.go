package imagebuild

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// checkBase fails when root.d made no tree; what it may put into /tmp alone is
// none.
func checkBase(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "tmp" && e.Name() != "lost+found" {
			return nil
		}
	}
	return errors.New("phase root.d: made no tree: an operating system element must fill TARGET_ROOT")
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
