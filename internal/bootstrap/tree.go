package bootstrap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is a file tree into which others' archives are written. Every path is
// resolved by the kernel as if the tree's root were "/" (openat2(2),
// RESOLVE_IN_ROOT): no link in it leads out.
type tree struct {
	fd int
}

func openTree(root string) (*tree, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	return &tree{fd}, nil
}

func (t *tree) close() { _ = unix.Close(t.fd) }

// inRoot is how directories are opened.
var inRoot = unix.OpenHow{
	Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
}

// open opens a directory by its absolute path. The kernel gets it relative to
// the tree, which keeps it there twice over.
func (t *tree) open(p string) (int, error) {
	for {
		how := inRoot
		fd, err := unix.Openat2(t.fd, "./"+strings.TrimLeft(p, "/"), &how)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR): // something was renamed meanwhile
		default:
			return -1, &os.PathError{Op: "open directory", Path: p, Err: err}
		}
	}
}

// maxMissing is how many components of a path may be missing.
const maxMissing = 64

// dir is open that makes what is missing of the path, which is not much: a
// package lists its directories.
func (t *tree) dir(p string) (int, error) { return t.make(p, maxMissing) }

func (t *tree) make(p string, depth int) (int, error) {
	fd, err := t.open(p)
	if err == nil || !errors.Is(err, unix.ENOENT) || p == "/" || depth == 0 {
		return fd, err
	}
	parent, err := t.make(path.Dir(p), depth-1)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	err = unix.Mkdirat(parent, path.Base(p), 0o755)
	if err == nil {
		err = unix.Fchmodat(parent, path.Base(p), 0o755, 0) // whatever the umask
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, &os.PathError{Op: "make directory", Path: p, Err: err}
	}
	return t.open(p) // fails where a link leads to nowhere
}

// dirs keeps directories open for one goroutine.
type dirs struct {
	tree *tree
	fds  map[string]int
}

// trim closes them all when there are many. What get returned before is closed
// then.
func (d *dirs) trim() {
	if len(d.fds) > 200 {
		d.close()
	}
}

func (d *dirs) get(p string) (int, error) {
	if fd, ok := d.fds[p]; ok {
		return fd, nil
	}
	fd, err := d.tree.dir(p)
	if err == nil {
		if d.fds == nil {
			d.fds = map[string]int{}
		}
		d.fds[p] = fd
	}
	return fd, err
}

func (d *dirs) close() {
	for p, fd := range d.fds {
		_ = unix.Close(fd)
		delete(d.fds, p)
	}
}

// maxRead bounds the files that are read, in bytes.
const maxRead = 64 << 20

// read returns the content of a file in the tree, which must be a regular one;
// nil when it is not there.
func (t *tree) read(p string) ([]byte, error) {
	fd, err := t.open(path.Dir(p))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n, err := unix.Openat(fd, path.Base(p), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p, Err: err}
	}
	f := os.NewFile(uintptr(n), p)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// mkdir makes a directory and what is missing above it.
func (t *tree) mkdir(p string) error {
	fd, err := t.dir(p)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// write makes or replaces a file in the tree.
func (t *tree) write(p string, data []byte, mode uint32) error {
	fd, err := t.dir(path.Dir(p))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	f, err := create(fd, path.Base(p))
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, unix.Fchmod(int(f.Fd()), mode), f.Close())
}

// remove takes a file or a link away; one that is not there is no error.
func (t *tree) remove(p string) error {
	fd, err := t.open(path.Dir(p))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Unlinkat(fd, path.Base(p), 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: p, Err: err}
	}
	return nil
}

// rename moves a file within its directory.
func (t *tree) rename(p, name string) error {
	fd, err := t.open(path.Dir(p))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Renameat(fd, path.Base(p), fd, name); err != nil {
		return &os.PathError{Op: "rename", Path: p, Err: err}
	}
	return nil
}

// exists tells whether something has the path.
func (t *tree) exists(p string) bool {
	fd, err := t.open(path.Dir(p))
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	return unix.Fstatat(fd, path.Base(p), &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// create makes a file, in the place of what is no directory.
func create(dir int, name string) (*os.File, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags, 0o600)
	if errors.Is(err, unix.EEXIST) {
		if err := unix.Unlinkat(dir, name, 0); err != nil {
			return nil, &os.PathError{Op: "replace", Path: name, Err: err}
		}
		fd, err = unix.Openat(dir, name, flags, 0o600)
	}
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// absolute makes a clean absolute path of an archive's file name, which may
// not climb.
func absolute(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("file name %q climbs", name)
		}
	}
	if strings.ContainsAny(name, "\x00\n") {
		return "", fmt.Errorf("file name %q", name)
	}
	return path.Clean("/" + name), nil
}
