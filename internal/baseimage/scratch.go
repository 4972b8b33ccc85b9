package baseimage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// scratch is the directory that one extraction works in, beside the one that
// it makes. It is locked for as long as the extraction lives.
type scratch struct {
	dir  string
	lock *os.File // the directory itself
}

func scratchPrefix(dir string) string { return "." + filepath.Base(dir) + ".goldsmith-" }

// newScratch makes a scratch directory for dir, into which nobody else comes.
func newScratch(dir string) (*scratch, error) {
	for {
		tmp, err := os.MkdirTemp(filepath.Dir(dir), scratchPrefix(dir))
		if err != nil {
			return nil, err
		}
		// Before it is locked, another extraction may have swept it away.
		s, err := lockScratch(tmp)
		if err != nil && !errors.Is(err, errSwept) {
			return nil, errors.Join(err, os.Remove(tmp))
		}
		if err == nil {
			return s, nil
		}
	}
}

// errSwept says that a directory is not there any more, or locked by who takes
// it away.
var errSwept = errors.New("locked by another extraction")

// lockScratch locks a directory that is this user's.
func lockScratch(dir string) (*scratch, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errSwept
	}
	if err != nil {
		return nil, err
	}
	if err := lockDir(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &scratch{dir, f}, nil
}

func lockDir(f *os.File) error {
	err := error(unix.EINTR)
	for err == unix.EINTR {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == unix.EWOULDBLOCK {
		return errSwept
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Lstat(f.Name()); err != nil || !os.SameFile(fi, there) {
		return errSwept
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s: another user's", f.Name())
	}
	return nil
}

// close removes the directory.
func (s *scratch) close() error { return errors.Join(os.RemoveAll(s.dir), s.lock.Close()) }

var digits = regexp.MustCompile(`^[0-9]+$`)

// sweep removes what extractions to dir left that were killed.
func sweep(dir string) error {
	parent := filepath.Dir(dir)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), scratchPrefix(dir))
		if !ok || !digits.MatchString(rest) || !e.IsDir() {
			continue
		}
		if s, err := lockScratch(filepath.Join(parent, e.Name())); err == nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}
