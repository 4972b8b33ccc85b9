package libvirt

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// owner is a directory that belongs to one living process: its lock file is
// locked for as long as the process lives, whatever ends it.
type owner struct {
	dir  string
	lock *os.File
}

// lockName is the lock file in an owner's directory.
const lockName = "lock"

// unborn is how old a directory without a lock must be to count as left
// behind and not as just being made.
const unborn = time.Minute

// newOwner makes a directory "PREFIX-random" below base, after removing those
// that dead owners left there.
func newOwner(base, prefix string) (*owner, error) {
	if err := sweepOwners(base, prefix); err != nil {
		return nil, err
	}
	var r [4]byte
	_, _ = rand.Read(r[:]) // never fails
	dir := filepath.Join(base, prefix+"-"+hex.EncodeToString(r[:]))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	o := &owner{dir: dir}
	if err := o.take(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return o, nil
}

// take makes the lock file and locks it before it gets its name.
func (o *owner) take() error {
	path := filepath.Join(o.dir, lockName)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	o.lock = f
	return nil
}

func (o *owner) lockPath() string { return filepath.Join(o.dir, lockName) }

// remove gives the directory up. It may be called twice.
func (o *owner) remove() error {
	return errors.Join(os.RemoveAll(o.dir), closeOnce(o.lock))
}

func closeOnce(f *os.File) error {
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

// sweepOwners removes the directories of dead owners.
func sweepOwners(base, prefix string) error {
	dirs, err := filepath.Glob(filepath.Join(base, prefix+"-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		fi, err := os.Lstat(dir)
		if err != nil || !fi.IsDir() || int(fi.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			continue
		}
		lock := filepath.Join(dir, lockName)
		if _, err := os.Lstat(lock); errors.Is(err, fs.ErrNotExist) && time.Since(fi.ModTime()) < unborn {
			continue
		}
		if dead(lock) {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what a dead run left: %w", err)
	}
	return nil
}

// dead tells whether nobody holds the lock file.
func dead(lock string) bool {
	f, err := os.OpenFile(lock, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}
