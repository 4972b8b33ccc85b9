package applycfg

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// root is an open output directory. Paths below it are resolved by the
// kernel, which refuses those that leave it.
type root struct {
	name    string
	fd      int
	resolve uint64

	// The directory that was last asked for, as files come sorted.
	at      string
	dir     int   // -1 for none
	missing error // why it is not there

	body []byte // of the file that was read last
}

func openRoot(dir string) (*root, error) {
	if dir == "" {
		dir = "/"
	}
	dir = filepath.Clean(dir)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, command.BadInput(fmt.Errorf("output directory %s: %w", dir, err),
			"create it, or name another with --output")
	}
	r := &root{name: dir, fd: fd, dir: -1, resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	if dir == "/" {
		// Nothing is outside; links such as /var/run -> /run must work.
		r.resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	}
	return r, nil
}

func (r *root) close() error {
	r.forget()
	return unix.Close(r.fd)
}

// path is a path below the root as people see it.
func (r *root) path(rel string) string { return filepath.Join(r.name, rel) }

func (r *root) open(rel string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: r.resolve}
	for {
		fd, err := unix.Openat2(r.fd, rel, &how)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			continue // something was renamed meanwhile
		case errors.Is(err, unix.EXDEV):
			return -1, command.Hint(fmt.Errorf("%s: a symbolic link on the way leads out of %s", r.path(rel), r.name),
				"nothing outside the output directory is written; remove the link")
		case err != nil:
			return -1, fmt.Errorf("%s: %w", r.path(rel), err)
		}
		return fd, nil
	}
}

// parent is the open directory of a file, which stays open until another one
// is asked for, and the file's name in it. That a directory is not there is
// remembered, too, unless it is to be made.
func (r *root) parent(rel string, create bool) (dir int, name string, err error) {
	i := strings.LastIndexByte(rel, '/')
	at, name := ".", rel[i+1:]
	if i > 0 {
		at = rel[:i]
	}
	if r.at == at && (r.dir >= 0 || r.missing != nil && !create) {
		return r.dir, name, r.missing
	}
	r.forget()
	fd := -1
	if create {
		fd, err = r.mkdirAll(at)
	} else {
		fd, err = r.open(at, unix.O_RDONLY|unix.O_DIRECTORY)
	}
	if errors.Is(err, unix.ENOENT) {
		r.missing = err
	} else if err != nil {
		return -1, name, err
	}
	r.at, r.dir = at, fd
	return fd, name, err
}

// forget closes the directory that parent keeps open.
func (r *root) forget() {
	if r.dir >= 0 {
		_ = unix.Close(r.dir)
	}
	r.at, r.dir, r.missing = "", -1, nil
}

// stat follows a link that stays in the root.
func (r *root) stat(rel string) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := r.open(rel, unix.O_PATH)
	if err != nil {
		return st, err
	}
	return st, errors.Join(unix.Fstat(fd, &st), unix.Close(fd))
}

// mkdirAll opens a directory and makes what is missing of it.
func (r *root) mkdirAll(rel string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	fd, err := r.open(rel, flags)
	if !errors.Is(err, unix.ENOENT) || rel == "." {
		return fd, err
	}
	parent, err := r.mkdirAll(filepath.Dir(rel))
	if err != nil {
		return -1, err
	}
	err = unix.Mkdirat(parent, filepath.Base(rel), 0o777)
	if err := errors.Join(ignore(err, unix.EEXIST), unix.Close(parent)); err != nil {
		return -1, fmt.Errorf("%s: %w", r.path(rel), err)
	}
	return r.open(rel, flags)
}

func ignore(err, ignored error) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}
