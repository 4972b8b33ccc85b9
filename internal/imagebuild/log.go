package imagebuild

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// buildLog is the file that a build's whole output goes to. It is made when
// there is something to write: a build that has nothing to do leaves the log
// of the one that did it.
type buildLog struct {
	path string
	file *os.File
}

// newLog checks that a log can be made at path: never through a link or into
// another file, which the superuser could write to wherever it is.
func newLog(path string) (*buildLog, error) {
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		return nil, command.BadInput(fmt.Errorf("%s: the log's place is taken by a directory", path), "")
	}
	return &buildLog{path: path}, nil
}

func (l *buildLog) Write(p []byte) (int, error) {
	if l.file == nil {
		if err := os.Remove(l.path); err != nil && !os.IsNotExist(err) {
			return 0, fmt.Errorf("old log: %w", err)
		}
		if err := l.create(); err != nil {
			return 0, err
		}
	}
	return l.file.Write(p)
}

func (l *buildLog) create() (err error) {
	l.file, err = os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}

// Close ends the log. Where there is none at all, it makes an empty one.
func (l *buildLog) Close() error {
	if l.file == nil {
		if err := l.create(); errors.Is(err, os.ErrExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return l.file.Close()
}
