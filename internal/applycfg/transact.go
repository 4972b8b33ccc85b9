package applycfg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
)

// transact brings about all jobs or none.
//
// The list of temporary files is written to the state directory first
// ("prepare"), so that the next run can remove them. When all are written and
// flushed, the journal ("commit") says what is to be renamed: from then on
// the next run finishes what this one does not. Files change places with
// their temporary ones where the file system can do that, so that a failure
// is undone at once.
func (s *state) transact(ctx context.Context, r *root, jobs []job) error {
	var todo []*job
	for i := range jobs {
		if j := &jobs[i]; j.action != Unchanged {
			j.temp = s.tempName(len(todo))
			todo = append(todo, j)
		}
	}
	known := readRecord(s.path(recordName), r)
	s.renewKept(r, jobs)
	more := false
	if s.keep {
		var err error
		if more, err = s.keepOld(r, todo, known, known.covers(keysOf(jobs, known.keys))); err != nil {
			return err
		}
	}
	if err := s.write(prepareName, todo); err != nil {
		return err
	}
	err := s.prepare(ctx, r, todo)
	if err == nil && !s.temporary {
		if err := s.remember(r, jobs, known); err != nil {
			s.forgotten(err)
		}
	}
	if err == nil {
		err = s.write(commitName, todo)
	}
	if err != nil {
		return errors.Join(err, s.abandon(r, todo))
	}
	if err := s.commit(r, todo); err != nil {
		return err
	}
	if err := s.conclude(r, todo); err != nil {
		return err
	}
	if more {
		s.makeRoom()
	}
	return nil
}

// conclude ends a change that is made.
func (s *state) conclude(r *root, todo []*job) error {
	if err := s.flush(r, todo); err != nil {
		return err
	}
	if err := s.discard(r, todo); err != nil {
		return err
	}
	s.recordInPlace()
	return errors.Join(s.remove(prepareName), s.remove(commitName))
}

// abandon ends a change that is not to be made. The journal goes first:
// without its temporary files it would mislead.
func (s *state) abandon(r *root, todo []*job) error {
	if err := errors.Join(s.remove(commitName), s.remove(recordNew), atomicfile.SyncDir(s.dir)); err != nil {
		return err
	}
	if err := s.discard(r, todo); err != nil {
		return err
	}
	return s.remove(prepareName)
}

func (s *state) do(what string) error {
	if s.step == nil {
		return nil
	}
	return s.step(what)
}

// prepare writes every file beside its destination and flushes them all.
func (s *state) prepare(ctx context.Context, r *root, todo []*job) error {
	for _, j := range todo {
		if err := errors.Join(ctx.Err(), s.do("prepare")); err != nil {
			return err
		}
		if j.action == Deleted {
			j.ino, j.dev = j.old.Ino, j.old.Dev
			continue
		}
		if err := r.writeTemp(j); err != nil {
			return err
		}
	}
	return s.flush(r, todo)
}

// writeTemp makes the temporary file with the content, mode and owner that
// the file is to have.
func (r *root) writeTemp(j *job) error {
	dir, _, err := r.parent(j.path, true)
	if err != nil {
		return err
	}
	if j.link != "" {
		if err := unix.Symlinkat(j.link, dir, j.temp); err != nil {
			return r.display(j, err)
		}
		if err := unix.Fchownat(dir, j.temp, j.uid, j.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return r.display(j, err)
		}
		var st unix.Stat_t
		err := unix.Fstatat(dir, j.temp, &st, unix.AT_SYMLINK_NOFOLLOW)
		j.ino, j.dev = st.Ino, st.Dev
		return err
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, j.temp, flags, j.mode&0o777)
	if errors.Is(err, unix.EEXIST) { // of a run whose record is lost
		if err = unix.Unlinkat(dir, j.temp, 0); err == nil {
			fd, err = unix.Openat(dir, j.temp, flags, j.mode&0o777)
		}
	}
	if err != nil {
		return r.display(j, err)
	}
	if err := errors.Join(fill(fd, j), unix.Close(fd)); err != nil {
		return r.display(j, err)
	}
	return nil
}

func fill(fd int, j *job) error {
	for b := j.body; len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		b = b[max(n, 0):]
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	j.ino, j.dev = st.Ino, st.Dev
	if j.uid >= 0 && j.uid != int(st.Uid) || j.gid >= 0 && j.gid != int(st.Gid) {
		if err := unix.Fchown(fd, j.uid, j.gid); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 == j.mode {
		return nil
	}
	// After chown, which takes the set-user-ID bit away.
	return unix.Fchmod(fd, j.mode)
}

// flush writes all changed files and directories to their disks: one call for
// each file system, where a call for each file would wait for each.
func (s *state) flush(r *root, todo []*job) error {
	var done []uint64
	for _, j := range todo {
		if slices.Contains(done, j.dev) {
			continue // its directory need not be opened for that
		}
		dir, _, err := r.parent(j.path, false)
		if errors.Is(err, unix.ENOENT) {
			continue // of a file that was to be removed
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(dir, &st); err != nil {
			return err
		}
		if slices.Contains(done, st.Dev) {
			continue
		}
		done = append(done, st.Dev)
		if err := unix.Syncfs(dir); err != nil {
			return fmt.Errorf("flush %s: %w", r.path(r.at), err)
		}
	}
	return nil
}

// commit gives every file its place. What fails is undone.
func (s *state) commit(r *root, todo []*job) error {
	for i, j := range todo {
		err := s.do("rename")
		if err == nil {
			err = r.place(j)
		}
		if err == nil {
			continue
		}
		err = r.display(j, err)
		for _, done := range slices.Backward(todo[:i]) {
			if undo := r.displace(done); undo != nil {
				return fmt.Errorf("%w, and some files are changed: the next run goes on (%w)", err, undo)
			}
		}
		return errors.Join(err, s.abandon(r, todo))
	}
	return nil
}

// place gives one file its place; what was there gets the temporary name.
func (r *root) place(j *job) error {
	dir, name, err := r.parent(j.path, false)
	if err != nil {
		return err
	}
	switch {
	case j.action == Deleted:
		err = unix.Renameat2(dir, name, dir, j.temp, unix.RENAME_NOREPLACE)
		j.swapped = err == nil
		if errors.Is(err, unix.EINVAL) {
			err = unix.Unlinkat(dir, name, 0)
		}
	case j.there:
		err = unix.Renameat2(dir, j.temp, dir, name, unix.RENAME_EXCHANGE)
		j.swapped = err == nil
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not known there, or nothing is there any more
			err = unix.Renameat(dir, j.temp, dir, name)
		}
	default:
		err = unix.Renameat2(dir, j.temp, dir, name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) {
			err = unix.Renameat(dir, j.temp, dir, name)
		}
	}
	j.finished = err == nil
	return err
}

// displace takes place back.
func (r *root) displace(j *job) error {
	dir, name, err := r.parent(j.path, false)
	if err != nil {
		return err
	}
	switch {
	case j.action == Created:
		err = unix.Renameat(dir, name, dir, j.temp)
	case !j.swapped:
		err = fmt.Errorf("%s cannot be taken back", r.path(j.path))
	case j.action == Deleted:
		err = unix.Renameat2(dir, j.temp, dir, name, unix.RENAME_NOREPLACE)
	default:
		err = unix.Renameat2(dir, j.temp, dir, name, unix.RENAME_EXCHANGE)
	}
	j.finished = j.finished && err != nil
	return err
}

// discard removes the temporary files.
func (s *state) discard(r *root, todo []*job) error {
	for _, j := range todo {
		if j.finished && !j.swapped {
			continue
		}
		dir, _, err := r.parent(j.path, false)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = ignore(unix.Unlinkat(dir, j.temp, 0), unix.ENOENT)
		}
		if err != nil {
			return r.display(j, err)
		}
		if err := s.do("discard"); err != nil {
			return err
		}
	}
	return nil
}

// recover finishes what a killed run began, or undoes it if it had not come
// to changing files.
func (s *state) recover(r *root) error {
	todo, err := s.read(commitName)
	if err != nil {
		return err
	}
	if todo == nil {
		if todo, err = s.read(prepareName); todo == nil || err != nil {
			return err
		}
		return s.abandon(r, todo)
	}
	for _, j := range todo {
		if err := s.do("recover"); err != nil {
			return err
		}
		if err := r.finish(j); err != nil {
			return fmt.Errorf("finishing what a killed run began: %w", r.display(j, err))
		}
	}
	return s.conclude(r, todo)
}

// finish gives a file of the journal its place, if it has not got it. The
// numbers of the files tell.
func (r *root) finish(j *job) error {
	dir, name, err := r.parent(j.path, false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	number := func(name string) uint64 {
		var st unix.Stat_t
		if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			return 0
		}
		return st.Ino
	}
	switch {
	case j.action == Deleted && number(name) == j.ino:
		return unix.Unlinkat(dir, name, 0)
	case j.action != Deleted && number(name) != j.ino && number(j.temp) == j.ino:
		return unix.Renameat(dir, j.temp, dir, name)
	}
	return nil
}

// tempName is the name of the nth temporary file. It differs between states,
// so that runs for different directories that overlap do not meet.
func (s *state) tempName(n int) string { return ".applycfg-" + s.id + "-" + strconv.Itoa(n) }

// sum is a short number of a text that does not change.
func sum(text string) string {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(text) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return fmt.Sprintf("%08x", uint32(h^h>>32))
}
