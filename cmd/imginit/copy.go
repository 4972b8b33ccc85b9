package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// copyTree copies the directory from to the new directory to: contents,
// owners, modes, times, hard links, extended attributes, symbolic links and
// devices. Sockets are left out; they mean nothing without their program.
func copyTree(from, to string) error {
	c := &copier{links: map[[2]uint64]string{}}
	return c.copy(from, to)
}

type copier struct {
	links map[[2]uint64]string // device and inode to the copy
}

func (c *copier) copy(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return nil
	}
	if st.Nlink > 1 && kind != unix.S_IFDIR {
		id := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := c.links[id]; ok {
			return os.Link(first, to)
		}
		c.links[id] = to
	}
	if err := c.create(from, to, &st); err != nil {
		return err
	}
	return attributes(from, to, &st)
}

// create makes the copy with its content, but without what attributes sets.
func (c *copier) create(from, to string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		entries, err := os.ReadDir(from)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := c.copy(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
				return err
			}
		}
		return nil
	case unix.S_IFREG:
		return copyFile(from, to)
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
		return &os.PathError{Op: "mknod", Path: to, Err: err}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close()
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return dst.Close()
}

// attributes sets owner, extended attributes, mode and time, in the order in
// which none undoes another: a new owner clears setuid and file capabilities.
func attributes(from, to string, st *unix.Stat_t) error {
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	times := []unix.Timespec{st.Mtim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set time of", Path: to, Err: err}
	}
	return nil
}

func copyXattrs(from, to string) error {
	size, err := unix.Llistxattr(from, nil)
	if err == unix.ENOTSUP || err == nil && size == 0 {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "list attributes of", Path: from, Err: err}
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(from, names); err != nil {
		return &os.PathError{Op: "list attributes of", Path: from, Err: err}
	}
	for _, name := range bytes.Split(bytes.TrimRight(names[:size], "\x00"), []byte{0}) {
		value := make([]byte, 1<<16) // the kernel's limit
		n, err := unix.Lgetxattr(from, string(name), value)
		if err != nil {
			return &os.PathError{Op: "read attribute " + string(name) + " of", Path: from, Err: err}
		}
		if err := unix.Lsetxattr(to, string(name), value[:n], 0); err != nil {
			return &os.PathError{Op: "set attribute " + string(name) + " of", Path: to, Err: err}
		}
	}
	return nil
}
