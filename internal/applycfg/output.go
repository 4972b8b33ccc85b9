package applycfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// Output is a directory that files are written below.
type Output struct {
	Dir string // empty means "/"
	// State is the directory of the lock, the journal and what Keep keeps, of
	// mode 0700. Empty means DefaultState for "/", or VolatileState where that
	// cannot be written, else .goldsmith-applycfg in Dir; that one is removed
	// again when nothing is left in it.
	State  string
	Create bool // make Dir if it is not there and something is to be written
	DryRun bool // compare only; nothing is written
	Diff   bool // with DryRun: say how the files differ
	Keep   bool // keep what is replaced, for Rollback
	// Tell is a file to which the paths of files that changed are added, one a
	// line; it must be there. Empty: nobody is told.
	Tell string
	// Secrets are those of the machine's metadata, for Rollback with Diff; nil
	// shows nothing.
	Secrets *Secrets
	// Warn, when set, is called with what went wrong and fails nothing.
	Warn func(error)
	// Waiting, when set, is called when another process is writing below Dir
	// and has to be waited for.
	Waiting func()

	// step, when set, is called before each step that changes what others see,
	// and fails it with its error.
	step func(what string) error
}

// Where the state of the whole system's configuration is: VolatileState when
// /var is read-only.
const (
	DefaultState  = "/var/lib/goldsmith/applycfg"
	VolatileState = "/run/goldsmith/applycfg"
)

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
	// Diff is how its content changes, as diff -u has it from the first "@@"
	// on, without secrets: of the old content it has what the state remembers
	// as public. It is empty without Output.Diff, and when only mode or owner
	// change.
	Diff string `json:"diff,omitempty"`
}

// Apply makes the files what they should be and says what it did, file by
// file, in order. All files change, or none does, whenever this process or the
// machine ends: what a run was doing when it was killed is finished or undone
// by the next one. Only directories that were missing may stay behind. Of runs
// at the same time, one waits for the other until ctx ends.
//
// A symbolic link at a file's place is replaced by the file. A symbolic link
// on the way is followed as long as it stays in Dir.
func (o Output) Apply(ctx context.Context, files []File) (changes []Change, err error) {
	if o.Create && !o.DryRun && !exists(o.Dir) {
		if !slices.ContainsFunc(files, func(f File) bool { return !f.Absent() }) {
			return nil, nil
		}
		if err := os.MkdirAll(o.Dir, 0o777); err != nil {
			return nil, err
		}
	}
	changes, err = o.change(ctx, func(r *root, all bool) ([]job, error) { return r.compareAll(files, all) }, nil)
	if err == nil && o.Tell != "" && !o.DryRun {
		err = tell(o.Tell, changes)
	}
	return changes, err
}

// tell adds what changed to a file.
func tell(path string, changes []Change) error {
	var b strings.Builder
	for _, c := range changes {
		if c.Action != Unchanged {
			b.WriteString(c.Path + "\n")
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	return errors.Join(err, f.Close())
}

// Absent says that the file is not to be there.
func (f *File) Absent() bool { return f.Control.NoEmpty && len(f.Body) == 0 }

// change brings about what plan finds to be done, and calls after, unless it is
// nil, while the lock is still held. Where plan is not asked for all, it may
// end with the first job that there is to do.
func (o Output) change(ctx context.Context, plan func(r *root, all bool) ([]job, error), after func(*state) error) (
	changes []Change, err error) {
	r, err := openRoot(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	jobs, err := plan(r, o.DryRun)
	if err != nil && (o.DryRun || !o.interrupted(r)) {
		return nil, err
	}
	if o.DryRun {
		return o.report(r, jobs), nil
	}
	idle := !pending(jobs) && err == nil && after == nil && !o.interrupted(r)
	if idle {
		if dir, temporary := o.stateDir(r); temporary || !outgrown(dir, r, jobs) {
			return o.report(r, jobs), nil
		}
	}
	s, err := o.lockState(ctx, r)
	if err != nil && idle && ctx.Err() == nil && !o.interrupted(r) {
		tellForgotten(o.Warn, err)
		return o.report(r, jobs), nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.release()) }()
	// Others may have written until the lock was ours.
	r.forget()
	if jobs, err = plan(r, true); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !pending(jobs) {
		s.renew(r, jobs)
	} else if err := s.transact(ctx, r, jobs); err != nil {
		return nil, err
	}
	if after != nil {
		if err := after(s); err != nil {
			return nil, err
		}
	}
	return o.report(r, jobs), nil
}

func pending(jobs []job) bool {
	for i := range jobs {
		if jobs[i].action != Unchanged {
			return true
		}
	}
	return false
}

func (o Output) report(r *root, jobs []job) []Change {
	changes := make([]Change, len(jobs))
	known := &record{}
	if o.DryRun && o.Diff {
		dir, _ := o.stateDir(r)
		known = readRecord(filepath.Join(dir, recordName), r)
		if !known.covers(keysOf(jobs, known.keys)) {
			known = &record{}
		}
	}
	for i := range jobs {
		changes[i] = Change{Path: r.path(jobs[i].path), Action: jobs[i].action}
		if o.DryRun && o.Diff && jobs[i].action != Unchanged {
			changes[i].Diff = r.diff(&jobs[i], known.files[jobs[i].path])
		}
	}
	return changes
}

// job is one file on its way.
type job struct {
	path     string // below the root
	action   Action
	body     []byte
	link     string // the target, where the file is to be a symbolic link
	mode     uint32 // permission bits it is to have
	uid, gid int    // -1: those that a new file gets
	shown    shown  // nil: nothing is

	old   status // what is there now
	there bool   // something is

	temp     string // its name while it waits beside its destination
	ino, dev uint64 // of the new file, or of the one to be deleted; dev is not in the journal
	swapped  bool   // temp has changed places with what was there
	finished bool
}

// status is what statx(2) says of a file, as far as it matters.
type status struct {
	Mode, Uid, Gid        uint32
	Size, Ino, Attributes uint64
	Dev                   uint64
}

// compareAll finds out what is to be done; unless all is wanted, up to the
// first file that is not as it should be.
func (r *root) compareAll(files []File, all bool) ([]job, error) {
	jobs := make([]job, len(files))
	for i := range files {
		f := &files[i]
		j := &jobs[i]
		*j = job{path: f.Path, body: f.Body, mode: 0o644, uid: -1, gid: -1, shown: f.shown}
		if err := r.look(j); err != nil {
			return nil, err
		}
		exists := j.there
		if exists {
			exists = r.inherit(j)
		}
		if f.Control.Mode != 0 {
			j.mode = uint32(f.Control.Mode)
		}
		if f.Control.UID >= 0 {
			j.uid = f.Control.UID
		}
		if f.Control.GID >= 0 {
			j.gid = f.Control.GID
		}
		switch {
		case f.Absent() && exists:
			j.action = Deleted
		case f.Absent(), j.there && r.same(j):
			j.action = Unchanged
		case j.there:
			j.action = Updated
		default:
			j.action = Created
		}
		if j.action != Unchanged {
			if err := r.replaceable(j); err != nil {
				return nil, err
			}
			if !all {
				return jobs[:i+1], nil
			}
		}
	}
	return jobs, nil
}

// look finds out what is at a file's place.
func (r *root) look(j *job) error {
	dir, name, err := r.parent(j.path, false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	var st unix.Statx_t
	err = unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.path(j.path), err)
	}
	j.there = true
	j.old = status{uint32(st.Mode), st.Uid, st.Gid, st.Size, st.Ino, st.Attributes,
		unix.Mkdev(st.Dev_major, st.Dev_minor)}
	return nil
}

// inherit takes mode and owner from what is there: of a link, from what it
// leads to. It is false for a link that leads nowhere.
func (r *root) inherit(j *job) bool {
	if j.old.Mode&unix.S_IFMT != unix.S_IFLNK {
		j.mode, j.uid, j.gid = j.old.Mode&0o7777, int(j.old.Uid), int(j.old.Gid)
		return true
	}
	st, err := r.stat(j.path)
	if err != nil { // where it leads out of the root, it leads somewhere
		return !errors.Is(err, unix.ENOENT)
	}
	j.mode, j.uid, j.gid = st.Mode&0o7777, int(st.Uid), int(st.Gid)
	return true
}

// replaceable refuses what cannot be renamed over, before anything is done.
func (r *root) replaceable(j *job) error {
	if !j.there {
		return nil
	}
	path := r.path(j.path)
	switch {
	case j.old.Mode&unix.S_IFMT == unix.S_IFDIR:
		return command.Hint(fmt.Errorf("%s: a directory is where the file should be", path),
			"remove the directory, or the template")
	case j.old.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return command.Hint(fmt.Errorf("%s: something is mounted there", path), "unmount it, or remove the template")
	case j.old.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0 && !r.layered(j):
		return command.Hint(fmt.Errorf("%s: the file is immutable", path), "chattr -ia "+path)
	}
	return nil
}

// layered says that a file is on an overlay. A file of a lower layer that is
// read-only is called immutable there, as one of an image's EROFS, and can be
// replaced all the same; one that really is fails when it is renamed.
func (r *root) layered(j *job) bool {
	dir, _, err := r.parent(j.path, false)
	if err != nil {
		return false
	}
	var fs unix.Statfs_t
	return unix.Fstatfs(dir, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// same says that the file is already as it should be.
func (r *root) same(j *job) bool {
	if j.old.Mode != unix.S_IFREG|j.mode || j.uid != int(j.old.Uid) || j.gid != int(j.old.Gid) ||
		j.old.Size != uint64(len(j.body)) {
		return false
	}
	body, err := r.read(j.path)
	return err == nil && bytes.Equal(body, j.body)
}

// read reads a file, no link and no pipe. The next read overwrites it.
func (r *root) read(rel string) ([]byte, error) {
	dir, name, err := r.parent(rel, false)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path(rel), err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	r.body, err = readAll(fd, st.Size, r.body)
	return r.body, err
}

// readAll reads a file of about a size, into buf where it is large enough. It
// goes on to the end if it is longer.
func readAll(fd int, size int64, buf []byte) ([]byte, error) {
	b := slices.Grow(buf[:0], int(size)+1)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		b = b[:len(b)+n]
		if n == 0 || int64(len(b)) == size && n > 0 {
			return b, nil
		}
		b = slices.Grow(b, 1)
	}
}

// display names a file in errors.
func (r *root) display(j *job, err error) error {
	return fmt.Errorf("%s: %w", filepath.Join(r.name, j.path), err)
}
