package imagebuild

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"goldsmith/internal/command"
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

// checkClock fails when files are from the future: packages of a tree whose
// machine's clock was set back cannot be told from what the build made.
func checkClock(newest, now time.Time) error {
	if newest.After(now.Add(24 * time.Hour)) {
		return command.Missing(fmt.Errorf("this machine's clock says %s, and the image has files of %s",
			now.UTC().Format(time.DateTime), newest.UTC().Format(time.DateTime)), "set the clock")
	}
	return nil
}

// newestBefore returns the newest modification time of a regular file that is older
// than limit, to the second: files that packages brought keep the time
// they were packaged at, files that were made now do not count. The other time
// is that of the newest of all.
func newestBefore(dir string, limit time.Time) (_, all time.Time, _ error) {
	newest := time.Unix(0, 0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		t := fi.ModTime()
		if t.Before(limit.Add(-time.Minute)) && t.After(newest) {
			newest = t
		}
		if t.After(all) {
			all = t
		}
		return nil
	})
	return newest.Truncate(time.Second).UTC(), all, err
}
