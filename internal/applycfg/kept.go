package applycfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
)

// What was replaced since the last good set is kept in a directory of the
// state: an index, and the contents of files under numbers.
const (
	keptDir    = "kept"
	keptIndex  = keptDir + "/index"
	keptRecord = keptDir + "/" + recordName
	keptRoom   = keptDir + "/room" // removed when files are given back, which takes room
	keptHead   = "applycfg kept 1\n"
)

// kept is one line of the index: what was at a path.
type kept struct {
	kind     string // none, file, link
	path     string
	mode     uint32
	uid, gid int
	content  string // of a file: the name of its content; of a link: its target
}

// MarkGood forgets what was kept for Rollback: the files as they are now are
// the last good set.
func (o Output) MarkGood(ctx context.Context) (err error) {
	r, err := openRoot(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	dir, temporary := o.stateDir(r)
	if !exists(filepath.Join(dir, keptDir)) && !o.interrupted(r) && !(temporary && exists(dir)) {
		return nil
	}
	s, err := o.lockState(ctx, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.release()) }()
	return s.forgetKept()
}

// Recover finishes or undoes what a killed run left, as every other call does
// before its own work. Without anything left it does nothing.
func (o Output) Recover(ctx context.Context) (err error) {
	r, err := openRoot(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if !o.interrupted(r) {
		return nil
	}
	s, err := o.lockState(ctx, r)
	if err != nil {
		return err
	}
	return s.release()
}

// Rollback gives back every file that was replaced since the last good set:
// all of them, or none. Without any it does nothing.
func (o Output) Rollback(ctx context.Context) (changes []Change, err error) {
	r, err := openRoot(o.Dir)
	if err != nil {
		return nil, err
	}
	dir, _ := o.stateDir(r)
	there := exists(filepath.Join(dir, keptIndex))
	if err := r.close(); err != nil || !there && !o.interrupted(r) {
		return nil, err
	}
	_ = os.Remove(filepath.Join(dir, keptRoom))
	o.Keep = false
	return o.change(ctx, func(r *root, _ bool) ([]job, error) { return r.compareKept(dir, o.Secrets) }, (*state).forgetKept)
}

func (s *state) forgetKept() error {
	// The index first: without it nothing is kept.
	if err := s.remove(keptIndex); err != nil {
		return err
	}
	if exists(s.path(keptDir)) {
		if err := atomicfile.SyncDir(s.path(keptDir)); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.path(keptDir))
}

// keepOld keeps what is about to be replaced. What was kept before is older,
// and stays. So does what is known of it, under the keys that were secret both
// times. Holds says that what is known now holds, more that something was added.
func (s *state) keepOld(r *root, todo []*job, known *record, holds bool) (more bool, err error) {
	all, err := readKept(s.dir)
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.dropHalfKept(len(all)))
		}
	}()
	had, public := map[string]bool{}, readRecord(s.path(keptRecord), r)
	for _, k := range all {
		had[k.path] = true
	}
	if len(public.files) == 0 {
		public.keys = known.keys
	}
	public.keys = public.keys.meet(known.keys)
	if err := os.Mkdir(s.path(keptDir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	before := len(all)
	for _, j := range todo {
		if had[j.path] {
			continue
		}
		if p, ok := known.files[j.path]; ok && holds {
			public.files[j.path] = p
		}
		k, err := s.keepOne(r, j, len(all))
		if err != nil {
			return false, err
		}
		all = append(all, k)
	}
	if len(all) == before {
		return false, nil
	}
	if len(public.files) > 0 {
		if err := public.write(s.path(keptRecord), r, nil); err != nil {
			s.forgotten(err)
		}
	}
	if err := syncfs(s.path(keptDir)); err != nil {
		return false, err
	}
	var b bytes.Buffer
	b.WriteString(keptHead)
	for _, k := range all {
		fmt.Fprintf(&b, "%s %#o %d %d %q %q\n", k.kind, k.mode, k.uid, k.gid, k.path, k.content)
	}
	return true, atomicfile.Write(s.path(keptIndex), b.Bytes(), 0o600)
}

// dropHalfKept removes those of so many contents that the index does not speak
// of.
func (s *state) dropHalfKept(made int) error {
	all, err := readKept(s.dir)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return s.forgetKept()
	}
	for n := len(all); n < made; n++ {
		err = errors.Join(err, s.remove(filepath.Join(keptDir, fmt.Sprint(n))))
	}
	return err
}

// makeRoom makes room for Rollback on a disk that is full by then: for what it
// writes here (a prepare, a commit, a record), which this run has just removed,
// and then for the files, which may be on the same disk, if there is any.
func (s *state) makeRoom() {
	all, err := readKept(s.dir)
	if err != nil {
		return
	}
	journal, files := int64(len(journalHead)+20), int64(0)
	for _, k := range all {
		journal += int64(len(strconv.Quote(k.path)) + 64)
		files += blocks(1)
		if k.kind == "file" {
			files += blocks(s.size(filepath.Join(keptDir, k.content)))
		}
	}
	here := 2*blocks(journal) + blocks(s.size(recordName)+1)
	if grow(s.path(keptRoom), here) == nil {
		_ = grow(s.path(keptRoom), here+files)
	}
}

// size is a file's, in bytes; 0 if it is not there.
func (s *state) size(name string) int64 {
	var st unix.Stat_t
	_ = unix.Lstat(s.path(name), &st)
	return st.Size
}

// blocks is the room that so many bytes take on most disks.
func blocks(n int64) int64 { return (n + 4095) &^ 4095 }

// grow makes a file at least so many bytes, or leaves it as it is.
func grow(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() >= size {
		return err
	}
	if _, err := f.WriteAt(make([]byte, size-fi.Size()), fi.Size()); err != nil {
		return errors.Join(err, f.Truncate(fi.Size()))
	}
	return nil
}

func (s *state) keepOne(r *root, j *job, n int) (kept, error) {
	k := kept{kind: "none", path: j.path}
	if !j.there {
		return k, nil
	}
	k.mode, k.uid, k.gid = j.old.Mode&0o7777, int(j.old.Uid), int(j.old.Gid)
	switch j.old.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		body, err := r.read(j.path)
		if err != nil {
			return k, err
		}
		k.kind, k.content = "file", fmt.Sprint(n)
		return k, writeState(s.path(filepath.Join(keptDir, k.content)), body)
	case unix.S_IFLNK:
		dir, name, err := r.parent(j.path, false)
		if err != nil {
			return k, err
		}
		target := make([]byte, unix.PathMax)
		size, err := unix.Readlinkat(dir, name, target)
		k.kind, k.content = "link", string(target[:max(size, 0)])
		return k, err
	}
	return k, command.Hint(fmt.Errorf("%s: neither a file nor a link, so it cannot be kept", r.path(j.path)),
		"remove it, or do without --rollback-on-failure")
}

func syncfs(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

// readKept reads the index of a state directory; nil when there is none.
func readKept(dir string) ([]kept, error) {
	path := filepath.Join(dir, keptIndex)
	b, err := readState(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(string(b), keptHead)
	var all []kept
	for line := range strings.Lines(text) {
		var k kept
		n, err := fmt.Sscanf(line, "%s %o %d %d %q %q\n", &k.kind, &k.mode, &k.uid, &k.gid, &k.path, &k.content)
		ok = ok && n == 6 && err == nil && filepath.IsLocal(k.path)
		all = append(all, k)
	}
	if !ok {
		return nil, command.Hint(fmt.Errorf("%s: not an index of applycfg", path),
			"remove "+filepath.Dir(path)+"; then nothing can be rolled back")
	}
	return all, nil
}

// compareKept finds out what is to be done so that everything is again as it
// was kept. Now are the secrets that are known of today.
func (r *root) compareKept(dir string, now *Secrets) ([]job, error) {
	all, err := readKept(dir)
	if err != nil {
		return nil, err
	}
	jobs, known := make([]job, len(all)), readRecord(filepath.Join(dir, keptRecord), r)
	under := known.keys.meet(readRecord(filepath.Join(dir, recordName), r).keys)
	if now != nil {
		under = now.keys()
	}
	if !known.covers(under) {
		known = &record{}
	}
	for i, k := range all {
		j := &jobs[i]
		*j = job{path: k.path, mode: k.mode, uid: k.uid, gid: k.gid, action: Updated,
			shown: &recalled{known.files[k.path], under, now}}
		switch k.kind {
		case "file":
			if j.body, err = readState(filepath.Join(dir, keptDir, k.content)); err != nil {
				return nil, err
			}
		case "link":
			j.link = k.content
		}
		if err := r.look(j); err != nil {
			return nil, err
		}
		switch {
		case k.kind == "none" && j.there:
			j.action = Deleted
		case k.kind == "none", k.kind == "file" && j.there && r.same(j):
			j.action = Unchanged
		case !j.there:
			j.action = Created
		}
		if j.action != Unchanged {
			if err := r.replaceable(j); err != nil {
				return nil, err
			}
		}
	}
	return jobs, nil
}
