package applycfg

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
)

// Output is a directory that files are written below.
type Output struct {
	Dir    string // empty means "/"
	DryRun bool   // compare only; nothing is written
}

// Action is what happens to one file.
type Action string

// The actions. Updated is another content, mode or owner.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Deleted   Action = "deleted"
	Unchanged Action = "unchanged"
)

// Change is one file and what happened to it, or would.
type Change struct {
	Path   string `json:"path"`
	Action Action `json:"action"`
}

// Apply makes the files what they should be and says what it did, file by
// file, in order. Every file is compared, and prepared beside its
// destination, before the first is renamed: an error up to there leaves
// everything as it was, but for directories that were missing.
//
// A symbolic link at a file's place is replaced by the file. A symbolic link
// on the way is followed as long as it stays in Dir.
func (o Output) Apply(files []File) (changes []Change, err error) {
	r, err := openRoot(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	jobs := make([]job, len(files))
	for i, f := range files {
		if jobs[i], err = r.compare(f); err != nil {
			return nil, err
		}
		changes = append(changes, Change{filepath.Join(r.name, f.Path), jobs[i].action})
	}
	if o.DryRun {
		return changes, nil
	}
	defer func() {
		for i := range jobs {
			jobs[i].release()
		}
	}()
	for i := range jobs {
		if err := jobs[i].prepare(r); err != nil {
			return nil, fmt.Errorf("%s: %w", changes[i].Path, inner(err))
		}
	}
	for i := range jobs {
		if err := jobs[i].commit(); err != nil {
			return changes[:i], fmt.Errorf("%s: %w", changes[i].Path, inner(err))
		}
	}
	return changes, nil
}

// inner drops the path of an error that is about a temporary file.
func inner(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}

// job is one file on its way.
type job struct {
	file   File
	action Action
	stat   unix.Stat_t // mode and owner the file is to have
	dir    int         // its directory, open while temp waits; -1 before
	temp   *atomicfile.File
}

// compare finds out what is to be done for a file.
func (r *root) compare(f File) (job, error) {
	j := job{file: f, action: Created, dir: -1}
	j.stat.Mode, j.stat.Uid, j.stat.Gid = 0o644, uint32(os.Geteuid()), uint32(os.Getegid())
	remove := f.Control.NoEmpty && len(f.Body) == 0
	old, err := r.lstat(f.Path)
	there := err == nil
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return j, err
	case old.Mode&unix.S_IFMT == unix.S_IFDIR:
		return j, command.Hint(fmt.Errorf("%s: a directory is where the file should be", r.path(f.Path)), "remove the directory, or the template")
	default:
		j.action = Updated
		// Of a link, its target's; a link to a directory gives nothing.
		if st, err := r.stat(f.Path); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			j.stat.Mode, j.stat.Uid, j.stat.Gid = st.Mode&0o7777, st.Uid, st.Gid
		}
	}
	if f.Control.Mode != 0 {
		j.stat.Mode = uint32(f.Control.Mode)
	}
	if f.Control.UID >= 0 {
		j.stat.Uid = uint32(f.Control.UID)
	}
	if f.Control.GID >= 0 {
		j.stat.Gid = uint32(f.Control.GID)
	}
	switch {
	case remove && there:
		j.action = Deleted
	case remove:
		j.action = Unchanged
	case there && r.same(old, &j):
		j.action = Unchanged
	}
	return j, nil
}

// same says that the file is already as it should be.
func (r *root) same(old unix.Stat_t, j *job) bool {
	if old.Mode != unix.S_IFREG|j.stat.Mode || old.Uid != j.stat.Uid || old.Gid != j.stat.Gid || old.Size != int64(len(j.file.Body)) {
		return false
	}
	fd, err := r.open(j.file.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), j.file.Path)
	defer f.Close()
	body, err := io.ReadAll(f)
	return err == nil && bytes.Equal(body, j.file.Body)
}

// prepare writes the file beside its destination.
func (j *job) prepare(r *root) (err error) {
	switch j.action {
	case Unchanged:
		return nil
	case Deleted:
		j.dir, err = r.open(filepath.Dir(j.file.Path), unix.O_PATH|unix.O_DIRECTORY)
		return err
	}
	if j.dir, err = r.mkdirAll(filepath.Dir(j.file.Path)); err != nil {
		return err
	}
	j.temp, err = atomicfile.Create(j.inDir(), 0o600)
	if err != nil {
		return err
	}
	if _, err := j.temp.Write(j.file.Body); err != nil {
		return err
	}
	if err := j.temp.Chown(int(j.stat.Uid), int(j.stat.Gid)); err != nil {
		return err
	}
	// After chown, which takes the set-user-ID bit away.
	return unix.Fchmod(int(j.temp.Fd()), j.stat.Mode)
}

func (j *job) commit() error {
	switch {
	case j.action == Deleted:
		return unix.Unlinkat(j.dir, filepath.Base(j.file.Path), 0)
	case j.temp == nil:
		return nil
	}
	return j.temp.Commit()
}

// inDir is a path that leads to the file through its open directory, so that
// nothing that happens to the path meanwhile leads elsewhere.
func (j *job) inDir() string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(j.dir), filepath.Base(j.file.Path))
}

func (j *job) release() {
	if j.temp != nil {
		j.temp.Abort()
	}
	if j.dir >= 0 {
		_ = unix.Close(j.dir)
	}
}
