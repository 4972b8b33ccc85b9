package imagebuild

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"goldsmith/internal/rootfs"
)

// clockAhead is how far the clock of hooks is ahead with [Options.Faketime]:
// more than a day, so that the date is another one in every time zone.
const clockAhead = 26 * time.Hour

// Where hooks in the tree find the library.
const (
	faketimeName = "faketime" // in the hooks tree
	faketimeFile = faketimeName + "/libfaketime.so.1"
)

// lendFaketime puts the library into the hooks tree, where hooks in the image
// see it and from where it gets into no output.
func (b *build) lendFaketime(hooks string) (err error) {
	if b.opts.Faketime == "" {
		return nil
	}
	src, err := os.Open(b.opts.Faketime)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.MkdirAll(filepath.Join(hooks, faketimeName), 0o755); err != nil {
		return err
	}
	dst, err := os.OpenFile(filepath.Join(hooks, faketimeFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err = io.Copy(dst, src); err != nil {
		_ = dst.Close()
		return fmt.Errorf("copy %s: %w", b.opts.Faketime, err)
	}
	return dst.Close()
}

// faketimeEnv sets the clock that tells the date (faketime(1)), and no times of
// files, which belong to the image's content.
var faketimeEnv = map[string]string{
	"FAKETIME":                     fmt.Sprintf("+%.0f", clockAhead.Seconds()),
	"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "FAKE_UTIME": "0",
}

// FaketimeVariables are the variables that libfaketime's clock is set by.
func FaketimeVariables() []string { return slices.Sorted(maps.Keys(faketimeEnv)) }

// now is the time, or what hooks take for it where that is later.
func (b *build) now() time.Time {
	if b.opts.Faketime != "" {
		return time.Now().Add(clockAhead)
	}
	return time.Now()
}

// setFaketime makes programs of hooks see another time.
func (b *build) setFaketime(s *stage) {
	if b.opts.Faketime == "" {
		return
	}
	maps.Copy(s.Env, faketimeEnv)
	s.Host["LD_PRELOAD"] = b.opts.Faketime
	s.Inside["LD_PRELOAD"] = rootfs.HooksDir + "/" + faketimeFile
}
