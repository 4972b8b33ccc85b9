package step

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"goldsmith/pipeline/engine"
)

// boundedLog is a log that takes so many bytes, and forgets what comes after
// them. It is safe for several goroutines.
type boundedLog struct {
	mu   sync.Mutex // guards the fields below
	w    io.Writer
	left int64
	cut  bool
}

// Write implements io.Writer. All is said to be written, also what is forgotten:
// a stage does not end for its log.
func (l *boundedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	part := p[:min(int64(len(p)), l.left)]
	l.left -= int64(len(part))
	_, err := l.w.Write(part)
	if len(part) < len(p) && !l.cut {
		l.cut = true
		_, bad := fmt.Fprint(l.w, "\n[the log is cut here: it has all that an attempt may write]\n")
		err = errors.Join(err, bad)
	}
	return len(p), err
}

// shrink removes files below an attempt's directory that lie too deep, and the
// largest, but for its log, until the others have no more bytes than limit; say
// is told of each.
func shrink(dir string, limit int64, say func(format string, args ...any)) error {
	type file struct {
		path string
		size int64
	}
	var files []file
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == filepath.Join(dir, "log") {
			return err
		}
		if name, _ := filepath.Rel(dir, path); engine.TooDeep(name) {
			say("%s is not kept: it lies below more than %d directories", name, engine.MaxDepth)
			return os.Remove(path)
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			files = append(files, file{path, fi.Size()})
			sum += fi.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(files, func(a, b file) int { return int(min(1, max(-1, b.size-a.size))) })
	for _, f := range files {
		if sum <= limit {
			return nil
		}
		if err := os.Remove(f.path); err != nil {
			return err
		}
		sum -= f.size
		name, _ := filepath.Rel(dir, f.path)
		say("%s is not kept: it has %d MiB, and an attempt's files may have %d MiB", name, f.size>>20, limit>>20)
	}
	return nil
}
