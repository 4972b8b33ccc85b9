package applycfg

import (
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
	"goldsmith/internal/filelock"
)

// Files of a state directory. Of prepareName and commitName, see transact.
const (
	lockName    = "lock"
	prepareName = "prepare"
	commitName  = "commit"
)

// state is a locked state directory.
type state struct {
	dir       string
	id        string // of temporary files
	keep      bool
	step      func(string) error
	warn      func(error)
	temporary bool // the directory is removed when nothing is left in it
	lock      *os.File
	told      bool // that a record could not be written
}

func (o Output) stateDir(r *root) (dir string, temporary bool) {
	switch {
	case o.State != "":
		return o.State, false
	case r.name == "/" && errors.Is(unix.Access("/var/lib", unix.W_OK), unix.EROFS):
		return VolatileState, false
	case r.name == "/":
		return DefaultState, false
	}
	return r.path(".goldsmith-applycfg"), true
}

// interrupted says that a run was killed, or is going on.
func (o Output) interrupted(r *root) bool {
	dir, _ := o.stateDir(r)
	return exists(dir) && (exists(filepath.Join(dir, commitName)) || exists(filepath.Join(dir, prepareName)))
}

func exists(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil
}

// lockState makes and locks the state directory, and goes on with what a
// killed run left. The caller must call release.
func (o Output) lockState(ctx context.Context, r *root) (*state, error) {
	dir, temporary := o.stateDir(r)
	waiting := o.Waiting
	if waiting == nil {
		waiting = func() {}
	}
	for {
		if err := makePrivate(dir, temporary); err != nil {
			return nil, err
		}
		lock, err := filelock.Lock(ctx, filepath.Join(dir, lockName), filelock.Exclusive, waiting)
		if temporary && errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
			continue // its last user has removed it
		}
		if err != nil {
			return nil, err
		}
		s := &state{dir: dir, id: sum(dir), step: o.step, warn: o.Warn, temporary: temporary, lock: lock}
		s.sweep()
		s.keep = o.Keep || exists(s.path(keptIndex))
		if err := s.recover(r); err != nil {
			return nil, errors.Join(err, s.release())
		}
		return s, nil
	}
}

// sweep removes half-written records of killed runs.
func (s *state) sweep() {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			_ = os.Remove(s.path(e.Name()))
		}
	}
}

// makePrivate makes a directory that only this user may write to; one that
// others may could be a trap.
func makePrivate(dir string, one bool) error {
	make := os.MkdirAll
	if one {
		make = os.Mkdir
	}
	if err := make(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return command.Missing(fmt.Errorf("state directory: %w", err), "--state names another directory")
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return command.BadInput(fmt.Errorf("state directory %s: not a directory that only this user may write to",
			dir), "remove it, or name another with --state")
	}
	return nil
}

// release unlocks the directory.
func (s *state) release() error {
	if s.temporary {
		if entries, err := os.ReadDir(s.dir); err == nil && len(entries) == 1 && entries[0].Name() == lockName {
			_ = os.Remove(s.path(lockName))
			_ = os.Remove(s.dir)
		}
	}
	return s.lock.Close()
}

func (s *state) path(name string) string { return filepath.Join(s.dir, name) }

// readState reads a file of a state directory, no link and no pipe.
func readState(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, command.Hint(fmt.Errorf("%s: not a regular file", path), "remove it")
	}
	return readAll(int(f.Fd()), fi.Size(), nil)
}

// writeState writes a file of a state directory in place of what is there. Half
// a file is not left.
func writeState(path string, body []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// remove removes a record.
func (s *state) remove(name string) error {
	err := os.Remove(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

const journalHead = "applycfg journal 1\n"

// write writes a record of the files on their way: docs/formats.md has the
// format.
func (s *state) write(name string, todo []*job) error {
	b := make([]byte, 0, 100*(1+len(todo)))
	b = append(b, journalHead...)
	for _, j := range todo {
		what := "put "
		if j.action == Deleted {
			what = "del "
		}
		b = strconv.AppendUint(append(b, what...), j.ino, 10)
		b = appendQuoted(append(b, ' '), j.path)
		b = append(appendQuoted(append(b, ' '), j.temp), '\n')
	}
	b = fmt.Appendf(b, "end %d\n", len(todo))
	return atomicfile.Write(s.path(name), b, 0o600)
}

// appendQuoted is strconv.AppendQuote, faster for what paths are made of.
func appendQuoted(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return strconv.AppendQuote(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// read reads a record; nil when it is not there.
func (s *state) read(name string) ([]*job, error) {
	b, err := readState(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	todo, ok := parseJournal(string(b))
	if !ok {
		return nil, command.Hint(fmt.Errorf("%s: not a journal of applycfg", s.path(name)),
			"remove it; the next run compares every file anyway")
	}
	return todo, nil
}

func parseJournal(text string) ([]*job, bool) {
	text, ok := strings.CutPrefix(text, journalHead)
	if !ok {
		return nil, false
	}
	todo := []*job{}
	for line := range strings.Lines(text) {
		if line == fmt.Sprintf("end %d\n", len(todo)) {
			return todo, true
		}
		what, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		number, rest, _ := strings.Cut(rest, " ")
		ino, err1 := strconv.ParseUint(number, 10, 64)
		path, rest, ok1 := quoted(rest)
		temp, rest, ok2 := quoted(strings.TrimPrefix(rest, " "))
		action, ok3 := map[string]Action{"put": Updated, "del": Deleted}[what]
		if err1 != nil || !ok1 || !ok2 || !ok3 || rest != "" || !filepath.IsLocal(path) || filepath.Base(temp) != temp {
			return nil, false
		}
		todo = append(todo, &job{path: path, action: action, ino: ino, temp: temp})
	}
	return nil, false
}

// quoted reads one text in double quotes.
func quoted(s string) (text, rest string, ok bool) {
	q, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", s, false
	}
	text, err = strconv.Unquote(q)
	return text, s[len(q):], err == nil
}
