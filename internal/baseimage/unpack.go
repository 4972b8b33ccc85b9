package baseimage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/tree"
)

// maxLinks bounds the symbolic links that one path may lead through, as the
// kernel does.
const maxLinks = 40

// unpacker writes entries into a directory that is nobody else's. It follows
// symbolic links only in the parents of what it writes, and as if the
// directory were the root.
type unpacker struct {
	root  string
	times map[string]time.Time // of directories, which writing into them changes
	layer map[string]bool      // what the layer at hand has written, with its parents
}

func newUnpacker(root string) *unpacker {
	return &unpacker{root: root, times: map[string]time.Time{}, layer: map[string]bool{}}
}

func (u *unpacker) host(real string) string { return filepath.Join(u.root, real) }

// resolve returns where the name p really is, relative to the root: its parent
// without symbolic links, the last name as it is. Missing parents are made if
// create is set.
func (u *unpacker) resolve(p string, create bool) (string, error) {
	parent, err := u.directory(path.Dir(tree.Clean(p)), create)
	if err != nil {
		return "", fmt.Errorf("%s: %w", p, err)
	}
	return path.Join(parent, path.Base(tree.Clean(p))), nil
}

// directory follows p to a directory.
func (u *unpacker) directory(p string, create bool) (string, error) {
	at, links := ".", 0
	for left := p; left != ""; {
		var name string
		name, left, _ = strings.Cut(left, "/")
		if name == "" || name == "." {
			continue
		}
		if name == ".." { // of a link's target; the root's parent is the root
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, name)
		fi, err := os.Lstat(u.host(next))
		switch {
		case os.IsNotExist(err) && create:
			if err := os.Mkdir(u.host(next), 0o755); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		case fi.Mode()&os.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", unix.ELOOP
			}
			target, err := os.Readlink(u.host(next))
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "."
			}
			left = target + "/" + left
			continue
		case !fi.IsDir():
			return "", unix.ENOTDIR
		}
		at = next
	}
	return at, nil
}

// add writes an entry; content writes a regular file's.
func (u *unpacker) add(e *tree.Entry, content func(f *os.File) error) error {
	if strings.ContainsRune(e.Path, 0) {
		return fmt.Errorf("%q: a name with a zero byte", e.Path)
	}
	real := "."
	if e.Path != "." {
		var err error
		if real, err = u.resolve(e.Path, true); err != nil {
			return err
		}
		for p := real; p != "." && !u.layer[p]; p = path.Dir(p) {
			u.layer[p] = true
		}
	}
	made, err := u.create(e, real, content)
	if err != nil || !made {
		return err
	}
	return u.attributes(e, real)
}

// create makes the file, in place of any that is there. It is false for what
// needs no attributes.
func (u *unpacker) create(e *tree.Entry, real string, content func(f *os.File) error) (bool, error) {
	host := u.host(real)
	fi, err := os.Lstat(host)
	if err == nil {
		if e.LinkTo == "" && e.IsDir() && fi.IsDir() {
			return true, nil
		}
		if real == "." {
			return false, errors.New("the root is not a directory")
		}
		if e.LinkTo != "" {
			if from, err := u.resolve(e.LinkTo, false); err == nil && from == real {
				return false, nil // a link to itself
			}
		}
		if err := u.remove(real); err != nil {
			return false, err
		}
	}
	if e.LinkTo != "" {
		from, err := u.resolve(e.LinkTo, false)
		if err != nil {
			return false, err
		}
		return false, os.Link(u.host(from), host) // of a symbolic link itself, too
	}
	switch e.Kind() {
	case tree.ModeDir:
		return true, os.Mkdir(host, 0o700)
	case tree.ModeSymlink:
		return true, os.Symlink(e.Target, host)
	case tree.ModeRegular:
		f, err := os.OpenFile(host, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return false, err
		}
		return true, errors.Join(content(f), f.Close())
	case tree.ModeSocket:
		return false, nil // nothing without its server
	}
	if err := unix.Mknod(host, e.Mode, int(unix.Mkdev(e.Major, e.Minor))); err != nil {
		return false, &os.PathError{Op: "mknod", Path: e.Path, Err: err}
	}
	return true, nil
}

// attributes sets owner, extended attributes, mode and time, in the order in
// which none undoes another.
func (u *unpacker) attributes(e *tree.Entry, real string) error {
	host := u.host(real)
	fail := func(what string, err error) error { return &os.PathError{Op: what, Path: e.Path, Err: err} }
	if err := unix.Lchown(host, int(e.UID), int(e.GID)); err != nil {
		return fail("set owner of", err)
	}
	for name, value := range e.Xattrs {
		if name == "security.selinux" {
			continue // labels are of the machine that the image was made on
		}
		if err := unix.Lsetxattr(host, name, []byte(value), 0); err != nil {
			return fail("set attribute "+name+" of", err)
		}
	}
	if e.Kind() != tree.ModeSymlink {
		if err := unix.Chmod(host, e.Mode&0o7777); err != nil {
			return fail("set mode of", err)
		}
	}
	if e.IsDir() {
		u.times[real] = e.ModTime
		return nil
	}
	return u.setTime(real, e.ModTime)
}

func (u *unpacker) setTime(real string, t time.Time) error {
	ts := unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, u.host(real), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &os.PathError{Op: "set time of", Path: real, Err: err}
	}
	return nil
}

// remove takes a file, or a directory with all in it, away.
func (u *unpacker) remove(real string) error {
	for p := range u.times {
		if p == real || strings.HasPrefix(p, real+"/") {
			delete(u.times, p)
		}
	}
	return os.RemoveAll(u.host(real))
}

// finish gives directories their times.
func (u *unpacker) finish() error {
	for real, t := range u.times {
		if err := u.setTime(real, t); err != nil {
			return err
		}
	}
	return nil
}

// Names that hide what lower layers have (image-spec, layer.md, "Whiteouts").
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// hide does what a whiteout says; it is false for other names.
func (u *unpacker) hide(p string) (bool, error) {
	base := path.Base(p)
	if !strings.HasPrefix(base, whiteout) {
		return false, nil
	}
	if base == opaque {
		dir, err := u.directory(path.Dir(tree.Clean(p)), false)
		if os.IsNotExist(err) {
			return true, nil
		}
		if err != nil {
			return true, fmt.Errorf("%s: %w", p, err)
		}
		return true, u.prune(dir)
	}
	name := strings.TrimPrefix(base, whiteout)
	if name == "" || name == "." || name == ".." {
		return true, fmt.Errorf("%s: hides no name", p)
	}
	real, err := u.resolve(path.Join(path.Dir(p), name), false)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil || u.layer[real] {
		return true, err // it hides what lower layers have, and nothing of its own
	}
	return true, u.remove(real)
}

// prune takes away what lower layers have put into a directory.
func (u *unpacker) prune(dir string) error {
	entries, err := os.ReadDir(u.host(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		child := path.Join(dir, e.Name())
		switch {
		case !u.layer[child]:
			err = u.remove(child)
		case e.IsDir():
			err = u.prune(child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
