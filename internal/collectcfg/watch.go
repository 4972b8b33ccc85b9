package collectcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// watchMask are the events after which a file may read otherwise. A file that
// is being created is not among them: it is read when its writer closes it.
const watchMask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ATTRIB |
	unix.IN_CREATE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// watch calls wake whenever one of the files, or something in one of the
// directories, may have changed, also once when it has begun to look; until
// the context ends. What is not there yet is waited for in the nearest
// directory that is.
func watch(ctx context.Context, paths []string, wake func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	w := &watcher{fd: fd, dirs: map[string]int{}, names: map[int]string{}, wanted: map[int]map[string]bool{}}
	b := make([]byte, 64<<10)
	for {
		if err := w.look(paths); err != nil {
			return err
		}
		wake()
		for relevant := false; !relevant; {
			n, err := f.Read(b)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("inotify: %w", err)
			}
			relevant = w.relevant(b[:n])
		}
		settle(f, b)
	}
}

// watcher is what is being watched.
type watcher struct {
	fd     int
	dirs   map[string]int          // directory → watch descriptor
	names  map[int]string          // and back
	wanted map[int]map[string]bool // watch descriptor → names that count; nil: all
}

// look brings the watches up to date. A path that is a directory is watched
// with all that is in it; of a file, and of what is not there, the directory
// is, for the file's name. What a symbolic link leads to counts as well.
func (w *watcher) look(paths []string) error {
	want := map[string]map[string]bool{}
	name := func(path string) {
		dir, base := filepath.Dir(path), filepath.Base(path)
		if names, ok := want[dir]; !ok {
			want[dir] = map[string]bool{base: true}
		} else if names != nil {
			names[base] = true
		}
	}
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		name(existing(abs))
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			name(real)
			if fi, err := os.Stat(real); err == nil && fi.IsDir() {
				want[real] = nil
			}
		}
	}
	clear(w.wanted)
	clear(w.names)
	for dir := range w.dirs {
		if _, ok := want[dir]; !ok {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(w.dirs[dir])) // it may be gone
			delete(w.dirs, dir)
		}
	}
	for dir, names := range want {
		wd, err := unix.InotifyAddWatch(w.fd, dir, watchMask)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue // gone this moment: its parent will tell
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
		w.dirs[dir], w.names[wd], w.wanted[wd] = wd, dir, names
	}
	return nil
}

// isLink says that a path is a link of either kind to something whole.
func isLink(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && (st.Mode&unix.S_IFMT == unix.S_IFLNK || st.Nlink > 1)
}

// existing is the path cut off behind the first part that is not there: what
// has to appear first.
func existing(path string) string {
	for {
		if _, err := os.Lstat(filepath.Dir(path)); err == nil || filepath.Dir(path) == path {
			return path
		}
		path = filepath.Dir(path)
	}
}

// relevant says that one of the events is about something that was asked for.
func (w *watcher) relevant(b []byte) bool {
	ne := binary.NativeEndian
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask, n := int(int32(ne.Uint32(b))), ne.Uint32(b[4:]), int(ne.Uint32(b[12:]))
		if unix.SizeofInotifyEvent+n > len(b) {
			break
		}
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:][:n]), "\x00")
		b = b[unix.SizeofInotifyEvent+n:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			return true
		}
		names, ok := w.wanted[wd]
		self := mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0
		switch {
		case !ok || mask&unix.IN_IGNORED != 0:
		case mask&(unix.IN_CREATE|unix.IN_ISDIR) == unix.IN_CREATE && !isLink(filepath.Join(w.names[wd], name)):
			// A file begins to be written.
		case names == nil, names[name], self:
			return true
		}
	}
	return false
}
