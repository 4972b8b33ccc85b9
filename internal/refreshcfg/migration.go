package refreshcfg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
)

// Migration is what became of a hook that a machine runs once.
type Migration struct {
	Phase string `json:"phase"`
	Name  string `json:"name"`
	State string `json:"state"` // MigrationStarted, …
	From  Image  `json:"from"`  // the image before; empty on a new machine
	To    Image  `json:"to"`
	// Paths were kept as they were, for a return to From. Kept is false while
	// they are copied, and when the copies are gone.
	Paths []string `json:"paths,omitempty"`
	Kept  bool     `json:"kept,omitempty"`
	// There says of each path whether it was there, and so has a copy. Older
	// records have it not.
	There    []bool `json:"there,omitempty"`
	Sequence int    `json:"sequence"` // the later, the higher
}

// States of a migration.
const (
	MigrationStarted   = "started"   // or it was, when power failed: it runs again
	MigrationDone      = "done"      // it never runs again
	MigrationReturning = "returning" // the older image runs, and its data are put back
	MigrationReturned  = "returned"  // and were: the next newer image migrates anew
)

func migrationRecord(name string) string { return filepath.Join("migrations", name+".json") }

// same tells whether two images are one.
func (i Image) same(o Image) bool {
	if i.Root != "" && o.Root != "" {
		return i.Root == o.Root
	}
	return i.Name == o.Name && i.Version == o.Version
}

// migrations returns the records, the oldest first.
func (s state) migrations() ([]Migration, error) {
	dir := filepath.Join(s.dir, "migrations")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []Migration
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" || e.Name()[0] == '.' {
			continue
		}
		m, _, err := s.migration(strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Migration) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return all, err
}

// migration reads a migration's record, and whether there is one. Who took the
// copies out of a return that had begun gave up the way back.
func (s state) migration(name string) (m Migration, there bool, err error) {
	there, err = s.read(migrationRecord(name), &m)
	if err == nil && there {
		if err = m.check(name); err != nil {
			err = fmt.Errorf("%s: %w", filepath.Join(s.dir, migrationRecord(name)), err)
		}
	}
	if m.State == MigrationReturning && m.lost() {
		m.State = MigrationDone
	}
	if err != nil {
		err = command.Hint(err, "what was migrated is not known without it; restore the file, or write it anew if you know")
	}
	return m, there, err
}

// check refuses a record that is damaged: paths are removed for what it says.
func (m *Migration) check(name string) error {
	if m.Name != name || !hook.Name.MatchString(name) {
		return fmt.Errorf("is the record of %q", m.Name)
	}
	if !slices.Contains([]string{MigrationStarted, MigrationDone, MigrationReturning, MigrationReturned}, m.State) {
		return fmt.Errorf("no such state: %q", m.State)
	}
	if len(m.There) != 0 && len(m.There) != len(m.Paths) {
		return fmt.Errorf(`"there" is of %d paths, and "paths" are %d`, len(m.There), len(m.Paths))
	}
	return checkSnapshot(m.Paths)
}

// begun tells whether the hook may have run, and has not succeeded. It does
// not start before what it changes is kept.
func (m *Migration) begun() bool { return m.State == MigrationStarted && (m.Kept || len(m.Paths) == 0) }

// lost tells whether there are no copies of what the migration changes: not
// yet, or, once it has succeeded, no longer.
func (m *Migration) lost() bool { return len(m.Paths) > 0 && !m.Kept }

// begin notes that a migration starts and keeps what it may change. It returns
// what the hook finds in its environment. One at a time: each gets its own
// number.
func (s state) begin(ctx context.Context, phase, name string, h Header, now Image) (*Migration, []string, error) {
	all, err := s.migrations()
	if err != nil {
		return nil, nil, err
	}
	m := &Migration{Phase: phase, Name: name, State: MigrationStarted, To: now, Paths: h.Snapshot}
	resumed := "GOLDSMITH_RESUMED="
	if i := slices.IndexFunc(all, func(o Migration) bool { return o.Name == name && o.begun() }); i >= 0 {
		m, resumed = &all[i], "GOLDSMITH_RESUMED=1"
		m.To = now // which may be yet another image
	} else {
		var last lastImage
		if _, err := s.read(imageRecord, &last); err != nil {
			return nil, nil, command.Hint(err, "remove it: migrations of this image then have no way back")
		}
		m.From, m.Sequence = last.Image, last.next(all)
		for _, p := range m.Paths {
			if _, err := s.mayReturn(p); err != nil {
				return nil, nil, fmt.Errorf("keep what %s changes: %w", name, err)
			}
		}
		if err := s.makeRoom(m); err != nil {
			return nil, nil, err
		}
		if err := s.write(migrationRecord(name), m); err != nil {
			return nil, nil, err
		}
	}
	if len(m.Paths) > 0 && !m.Kept {
		if err := s.keep(ctx, m); err != nil {
			return nil, nil, fmt.Errorf("keep what %s changes: %w", name, err)
		}
	}
	return m, []string{"GOLDSMITH_OLD_VERSION=" + m.From.Version, "GOLDSMITH_NEW_VERSION=" + m.To.Version, resumed}, nil
}

// done notes that a migration has succeeded, once all that it wrote is on the
// disk.
func (s state) done(m *Migration) error {
	unix.Sync()
	m.State = MigrationDone
	return s.replace(migrationRecord(m.Name), m)
}

// imageRecord names the image in which the last run succeeded.
const imageRecord = "image.json"

func (s state) snapshot(m *Migration, i int) string {
	return filepath.Join(s.dir, "snapshots", m.Name, strconv.Itoa(i))
}

// keep copies the migration's paths, and says so in its record. When it fails,
// nothing of the copies is left.
func (s state) keep(ctx context.Context, m *Migration) error {
	err := s.sweep()
	if err == nil {
		err = s.copyPaths(ctx, m)
	}
	if err == nil {
		m.Kept = true
		err = s.replace(migrationRecord(m.Name), m)
	}
	if err != nil {
		err = errors.Join(err, s.sweep())
	}
	if full(err) {
		err = command.Hint(err, "the copies need room below "+s.dir)
	}
	return err
}

// copyPaths copies the migration's paths; one that is not there has no copy.
func (s state) copyPaths(ctx context.Context, m *Migration) error {
	dir := filepath.Join(s.dir, "snapshots", m.Name)
	if err := s.mkdir("snapshots"); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	m.There = make([]bool, len(m.Paths))
	for i, p := range m.Paths {
		there, err := s.mayReturn(p)
		if err != nil {
			return err
		}
		m.There[i] = there
		if !there {
			continue
		}
		if err := likeDir(filepath.Dir(p), s.snapshot(m, i)+parentSuffix); err != nil {
			return err
		}
		if err := copyTree(ctx, p, s.snapshot(m, i)); err != nil {
			return err
		}
	}
	return syncFS(dir)
}

// sweep removes copies that their record does not count on: making them was cut
// short, or removing them.
func (s state) sweep() error {
	dir := filepath.Join(s.dir, "snapshots")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		m, there, unread := s.migration(e.Name())
		if unread != nil {
			return unread
		}
		if there && !m.Kept {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// mayReturn tells whether there is something at a path, and refuses what could
// not be put back by renaming.
func (s state) mayReturn(path string) (bool, error) {
	var st, parent unix.Stat_t
	if strings.HasPrefix(s.dir+"/", path+"/") {
		return false, command.BadInput(fmt.Errorf("%s: holds the copies themselves, in %s", path, s.dir), `name in "snapshot" what lies beside them`)
	}
	err := unix.Lstat(path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = unix.Stat(filepath.Dir(path), &parent)
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("%s: %w", path, err)
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return false, command.BadInput(fmt.Errorf("%s: a symbolic link", path), `name in "snapshot" what it leads to`)
	case st.Dev != parent.Dev:
		return false, command.BadInput(fmt.Errorf("%s: a file system of its own", path), `name in "snapshot" what lies in it`)
	}
	return true, nil
}

// forget removes copies for a return that has become impossible: of the two
// images that a machine has, neither is the one the copies are for.
func (s state) forget(now Image) error {
	all, err := s.migrations()
	if err != nil {
		return err
	}
	for _, m := range all {
		if !m.Kept || m.State != MigrationDone || m.To.same(now) || m.From.same(now) {
			continue
		}
		m.Kept = false
		if err := s.replace(migrationRecord(m.Name), &m); err != nil {
			return err
		}
	}
	return s.sweep()
}
