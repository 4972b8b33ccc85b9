package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resetFile is on the state partition when the machine is to forget what it
// keeps.
const resetFile = "boot/factory-reset"

// keptByReset are the files of the directory boot that a reset leaves: what is
// in the slots, and how boots went.
var keptByReset = []string{"slots.json", "attempts.jsonl"}

// resetMachine does a factory reset, if that was asked for. A file system that
// cannot be emptied, as it is damaged, is replaced by a new one.
func resetMachine(m *medic) error {
	err := resetState(m.c, m.dir)
	if err == nil {
		return nil
	}
	m.c.say("factory reset: %v; make a new file system on %s", err, m.dev)
	records := map[string][]byte{}
	for _, name := range keptByReset {
		if b, err := readBounded(filepath.Join(m.dir, "boot", name)); err == nil && len(b) > 0 {
			records[name] = b
		}
	}
	if err := unix.Unmount(m.dir, 0); err != nil {
		return fmt.Errorf("factory reset: %w", err)
	}
	return m.renew(records)
}

// resetState empties the state partition, if that was asked for. After a power
// cut the next boot goes on: the request goes last. A new file system instead
// would lose the records of the slots with it when the power fails.
func resetState(c *console, state string) error {
	request := filepath.Join(state, resetFile)
	if _, err := os.Lstat(request); err != nil {
		return nil // a state partition that cannot be read fails elsewhere
	}
	c.say("factory reset: this machine forgets what it kept")
	if err := emptyBut(state, "boot", "lost+found"); err != nil {
		return err
	}
	if err := emptyBut(filepath.Join(state, "lost+found")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := emptyBut(filepath.Dir(request),
		append(slices.Clone(keptByReset), filepath.Base(request))...); err != nil {
		return err
	}
	if err := syncAll(state); err != nil {
		return err
	}
	if err := os.Remove(request); err != nil {
		return err
	}
	discard(c, state)
	return syncAll(state)
}

// emptyBut removes everything in a directory but some names.
func emptyBut(dir string, keep ...string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if !slices.Contains(keep, e.Name()) {
			err = errors.Join(err, removeAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// removeAll removes also what chattr has made immutable.
func removeAll(path string) error {
	if os.RemoveAll(path) == nil {
		return nil
	}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Type().IsRegular()) {
			err = clearFlags(p)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(path))
}

// clearFlags takes all flags of chattr(1) from a file that can be without.
func clearFlags(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	const forbids = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND // the same bits as FS_IMMUTABLE_FL, FS_APPEND_FL
	if err != nil || flags&forbids == 0 {
		return err
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags&^forbids))
}

// discard tells the disk that what was removed is not needed, so that it
// forgets it, too. Not every disk can.
func discard(c *console, dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	span := [3]uint64{0, math.MaxUint64, 0} // struct fstrim_range: start, length, smallest
	const fitrim = 0xc0185879
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim, uintptr(unsafe.Pointer(&span))); errno != 0 {
		c.say("the disk was not told to forget: %v", errno)
	}
}
