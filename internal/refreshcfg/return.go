package refreshcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
)

// back returns the migrations that were made since the image that runs now
// succeeded before, the latest first: it is an older one, to which the machine
// returned, be it several images back.
// On a machine on which no image has succeeded so far, nobody knows which ran
// before; there another image than the one that migrated gets the data as they
// were, and migrates anew if it is a newer one; a reversible migration of which
// nothing is put back stays done.
//
// So does one whose copies are gone, unless those of an earlier one hold its
// data: stay are such of which this image has not been told. Later ones go back
// nevertheless, but not those of the image that runs: as a record of what stays
// remains, they came after the return.
func back(all []Migration, now Image, last lastImage) (list, stay []Migration) {
	lost := false // whether one that is to go back has no copies
	for _, m := range all {
		if m.State == MigrationReturned {
			continue
		}
		older := m.From != (Image{}) && last.since(now, m) && !m.To.same(now)
		older = older || m.From == (Image{}) && !last.any && m.Kept && m.To != (Image{}) && !m.To.same(now)
		since := older || len(list) > 0 || lost && !m.To.same(now)
		if m.State != MigrationReturning && !since {
			continue
		}
		if m.State != MigrationDone || !m.lost() || within(m.Paths, list) {
			list = append(list, m)
			continue
		}
		lost = true
		if !last.any || !last.same(now) {
			stay = append(stay, m)
		}
	}
	slices.Reverse(list)
	return list, stay
}

// within tells whether all paths lie in what is put back.
func within(paths []string, list []Migration) bool {
	for _, p := range paths {
		if !slices.ContainsFunc(list, func(m Migration) bool {
			holds := func(kept string) bool { return strings.HasPrefix(p+"/", kept+"/") }
			return m.Kept && slices.ContainsFunc(m.Paths, holds)
		}) {
			return false
		}
	}
	return true
}

// kept are those of which data are put back.
func kept(list []Migration) []Migration {
	return slices.DeleteFunc(slices.Clone(list), func(m Migration) bool { return !m.Kept })
}

// stays is what is said of a migration without copies.
func stays(m Migration) string {
	return fmt.Sprintf("no way back from %s: the copies from before %s are gone, and as newer images left it stays %s",
		m.To, m.Name, strings.Join(m.Paths, ", "))
}

// goodImage is an image in which a run succeeded.
type goodImage struct {
	Image
	// Next is the Sequence of the first migration after its last success; 0,
	// in files of older versions, is not known.
	Next int `json:"next,omitempty"`
}

// lastImage is image.json: the image in which the last run succeeded.
type lastImage struct {
	goodImage             // empty where the record cannot be read
	Before    []goodImage `json:"before,omitempty"` // others, the one that succeeded last at the end

	any bool // whether a run has succeeded on this machine
}

// maxBefore bounds how many images are remembered.
const maxBefore = 100

// since tells whether a migration was made after the last success of the image
// that runs now.
func (l lastImage) since(now Image, m Migration) bool {
	if m.From.same(now) {
		return true
	}
	return slices.ContainsFunc(append(slices.Clone(l.Before), l.goodImage), func(g goodImage) bool {
		return g.same(now) && g.Next > 0 && m.Sequence >= g.Next
	})
}

// followedBy is what is remembered when a run has succeeded in an image.
func (l lastImage) followedBy(now goodImage) lastImage {
	before := slices.DeleteFunc(append(slices.Clone(l.Before), l.goodImage), func(g goodImage) bool {
		return g.same(now.Image) || g.Image == Image{}
	})
	return lastImage{now, before[max(0, len(before)-maxBefore):], true}
}

// next is the number of the next migration.
func (l lastImage) next(all []Migration) int {
	n := max(1, l.Next)
	for _, m := range all {
		n = max(n, m.Sequence+1)
	}
	return n
}

func (s state) lastImage() (last lastImage, err error) {
	_, err = os.Lstat(filepath.Join(s.dir, imageRecord))
	if errors.Is(err, fs.ErrNotExist) {
		return last, nil
	}
	there := err == nil
	if _, unread := s.read(imageRecord, &last); unread != nil {
		last = lastImage{}
	}
	last.any = there
	return last, err
}

// returning is [back] by the records on this machine. It is an error when a
// copy that a record speaks of is gone.
func (s state) returning(now Image) (list, stay []Migration, err error) {
	all, err := s.migrations()
	if err != nil {
		return nil, nil, err
	}
	last, err := s.lastImage()
	if err != nil {
		return nil, nil, err
	}
	list, stay = back(all, now, last)
	for _, m := range kept(list) {
		if err := s.complete(&m); err != nil {
			return nil, nil, err
		}
	}
	return list, stay, nil
}

// giveBack puts back what a list of migrations changed. It must be called
// before anything uses the data.
func (s state) giveBack(ctx context.Context, list []Migration, say func(string, ...any)) error {
	for _, m := range list {
		if m.State == MigrationStarted && !m.begun() {
			if err := s.remove(migrationRecord(m.Name)); err != nil {
				return err
			}
			continue
		}
		if m.Kept { // else nothing is put back
			m.State = MigrationReturning
			if err := s.replace(migrationRecord(m.Name), m); err != nil {
				return err
			}
			if err := s.putAllBack(ctx, &m, say); err != nil {
				return err
			}
		}
		m.State, m.Kept = MigrationReturned, false
		if err := s.replace(migrationRecord(m.Name), m); err != nil {
			return err
		}
		if err := s.sweep(); err != nil {
			return err
		}
	}
	return nil
}

// putAllBack makes all paths of a migration what they were, when nothing of its
// hook runs any more.
func (s state) putAllBack(ctx context.Context, m *Migration, say func(string, ...any)) error {
	lock, err := s.running(ctx, m)
	if err != nil {
		return err
	}
	defer lock.Close()
	for i, p := range m.Paths {
		say("back from %s: %s as it was before %s", m.To, p, m.Name)
		kept := s.snapshot(m, i)
		if err := s.putBack(ctx, kept, p, s.had(m, i)); err != nil {
			return command.Hint(fmt.Errorf("%s as it was before %s: %w", p, m.Name, err), "it is kept as "+kept)
		}
	}
	return nil
}

// had tells whether the nth path was there before the migration. Of an older
// record, which does not say so, the copy does, and the mark beside it, either of
// which may be missing; what cannot be looked at counts as there.
func (s state) had(m *Migration, n int) bool {
	if len(m.There) > 0 {
		return m.There[n]
	}
	kept := s.snapshot(m, n)
	for _, path := range []string{kept, kept + parentSuffix} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// complete refuses to put back when a copy is gone: only what was not there
// before is removed.
func (s state) complete(m *Migration) error {
	want := []string{filepath.Join(s.dir, "snapshots", m.Name)}
	for i := range m.Paths {
		if s.had(m, i) {
			want = append(want, s.snapshot(m, i))
		}
	}
	for _, path := range want {
		if _, err := os.Lstat(path); err != nil {
			record := filepath.Join(s.dir, migrationRecord(m.Name))
			return command.Hint(fmt.Errorf("what was there before %s: %w", m.Name, err),
				`restore the copies, or give up the way back with "kept": false in `+record)
		}
	}
	return nil
}

// putBack makes a path what its copy is, or removes it where it was not there.
// Whenever it is cut short, doing it again ends well.
func (s state) putBack(ctx context.Context, kept, path string, there bool) error {
	fresh, old := path+".goldsmith-new", path+".goldsmith-old"
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(old)); err != nil {
		return err
	}
	if there {
		if err := copyBack(ctx, kept, path, fresh); err != nil {
			return errors.Join(err, os.RemoveAll(fresh))
		}
	}
	if err := os.Rename(path, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if there {
		if err := os.Rename(fresh, path); err != nil {
			return err
		}
	}
	if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(old)
}

// copyBack copies what was kept of a path to beside it. On a disk that is too
// full for both, the path goes first: what it holds is not wanted again.
func copyBack(ctx context.Context, kept, path, fresh string) error {
	if err := makeParent(kept, filepath.Dir(path)); err != nil {
		return err
	}
	err := copyTree(ctx, kept, fresh)
	if full(err) {
		if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(path)); err != nil {
			return err
		}
		err = copyTree(ctx, kept, fresh)
	}
	if err != nil {
		return err
	}
	return syncFS(filepath.Dir(path))
}
