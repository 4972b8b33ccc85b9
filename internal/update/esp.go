package update

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"goldsmith/internal/bootentry"
)

// esp is the EFI partition of a machine while something is done with it. What
// it says of the versions is kept for both boot loaders, whichever started this
// machine: the disk may start under the other one next time.
type esp struct {
	dir  string
	bios bool // it has what GRUB needs
}

// cut is called before each change of names and of GRUB's variables: a test
// ends the program there.
var cut = func() {}

func openESP(dir string) (*esp, error) {
	e := &esp{dir: dir}
	if _, err := os.Stat(e.path(bootentry.Dir)); err != nil {
		return nil, fmt.Errorf("EFI partition: %w", err)
	}
	_, err := os.Stat(e.path(bootentry.ConfigFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("EFI partition: %w", err)
	}
	e.bios = err == nil
	return e, nil
}

func (e *esp) path(p ...string) string {
	return filepath.Join(append([]string{e.dir}, p...)...)
}

// entries are the kernel images that systemd-boot can start.
func (e *esp) entries() ([]bootentry.Entry, error) {
	files, err := os.ReadDir(e.path(bootentry.Dir))
	if err != nil {
		return nil, err
	}
	var list []bootentry.Entry
	for _, f := range files {
		if entry, ok := bootentry.ParseFile(f.Name()); ok && f.Type().IsRegular() {
			list = append(list, entry)
		}
	}
	return list, nil
}

// find returns the entries of one version. There is more than one only after a
// power cut in the middle of a rename.
func (e *esp) find(id string) ([]bootentry.Entry, error) {
	all, err := e.entries()
	var found []bootentry.Entry
	for _, entry := range all {
		if entry.ID == id {
			found = append(found, entry)
		}
	}
	return found, err
}

// rename gives the version's kernel image the name of the entry want, and
// removes what else there is of it. Without one it is an error.
func (e *esp) rename(want bootentry.Entry) error {
	found, err := e.find(want.ID)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("EFI partition: no kernel image %s", want.ID)
	}
	dir := bootentry.Dir
	for i, entry := range found {
		switch {
		case entry == want:
			continue
		case i == 0 && !hasEntry(found, want):
			cut()
			err = os.Rename(e.path(dir, entry.File()), e.path(dir, want.File()))
		default:
			cut()
			err = os.Remove(e.path(dir, entry.File()))
		}
		if err != nil {
			return err
		}
	}
	return e.sync()
}

func hasEntry(list []bootentry.Entry, want bootentry.Entry) bool {
	for _, entry := range list {
		if entry == want {
			return true
		}
	}
	return false
}

// remove takes a version away from both boot loaders. One that is not there is
// no error, nor is none.
func (e *esp) remove(id string) error {
	if id == "" {
		return nil // not the directory with all of them
	}
	found, err := e.find(id)
	if err != nil {
		return err
	}
	for _, entry := range found {
		cut()
		if err := os.Remove(e.path(bootentry.Dir, entry.File())); err != nil {
			return err
		}
	}
	cut()
	if err := os.RemoveAll(e.path(bootentry.BIOSDir, id)); err != nil {
		return err
	}
	return e.sync()
}

// clean removes what a killed update left, and every version that is not named.
func (e *esp) clean(keep ...string) error {
	kept := func(id string) bool {
		for _, k := range keep {
			if k == id && id != "" {
				return true
			}
		}
		return false
	}
	entries, err := e.entries()
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !kept(entry.ID) {
			if err := e.remove(entry.ID); err != nil {
				return err
			}
		}
	}
	cut()
	if err := os.RemoveAll(e.path(bootentry.Dir, stagingName)); err != nil {
		return err
	}
	ids, err := os.ReadDir(e.path(bootentry.BIOSDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range ids {
		if !kept(d.Name()) {
			if err := e.remove(d.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// stagingName is a file beside the kernel images and a directory beside GRUB's
// versions that take what is not complete yet. Neither boot loader looks there.
// They get their names in the directory in which they are: a FAT has the old
// and the new name in one sector then, save for very long ones. Two directories
// could both have the file after a power cut, with the same clusters, and to
// remove it from the one would free them under the other.
const stagingName = "goldsmith.new"

// stage makes an empty file for a kernel image.
func (e *esp) stage() (*os.File, error) {
	cut()
	if err := os.RemoveAll(e.path(bootentry.Dir, stagingName)); err != nil {
		return nil, err
	}
	return os.OpenFile(e.path(bootentry.Dir, stagingName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// need is how many bytes a kernel image takes on the partition.
func (e *esp) need(size int64) int64 {
	if e.bios {
		size *= 2 // kernel and initramfs once more, for GRUB
	}
	return size + 1<<20
}

func (e *esp) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(e.dir, &st); err != nil {
		return 0, fmt.Errorf("EFI partition: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// checkStaged flushes the staged kernel image and compares what the partition
// has with its digest.
func (e *esp) checkStaged(f *os.File, sum string) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("EFI partition: %w", err)
	}
	dropped(f, 0, 0) // what is compared shall come from the disk
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<40)); err != nil {
		return fmt.Errorf("EFI partition: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("EFI partition: the kernel image reads back as %s, want %s: the disk is failing", got, sum)
	}
	return nil
}

// place gives the staged kernel image its name, with all tries, for both boot
// loaders. It can be started from the moment in which systemd-boot's name is
// there: place that last.
func (e *esp) place(id string) error {
	if e.bios {
		if err := e.placeBIOS(id); err != nil {
			return err
		}
	}
	return e.name(id)
}

// staged tells whether there is a kernel image that has no name yet.
func (e *esp) staged() bool {
	_, err := os.Lstat(e.path(bootentry.Dir, stagingName))
	return err == nil
}

// name gives the staged kernel image its name, with all tries.
func (e *esp) name(id string) error {
	entry := bootentry.Entry{ID: id, Counted: true, Left: bootentry.Tries}
	cut()
	if err := os.Rename(e.path(bootentry.Dir, stagingName), e.path(bootentry.Dir, entry.File())); err != nil {
		return err
	}
	return e.sync()
}

// armed tells whether all of arm was done: the version has a counter, and an
// older one's good version has no tries.
func (e *esp) armed(s, good *Slot) bool {
	found, err := e.find(s.ID())
	if err != nil || len(found) == 0 {
		return true // it is gone, which is another matter
	}
	if !found[0].Counted {
		return false
	}
	if bootentry.CompareVersions(s.Version, good.Version) >= 0 {
		return true
	}
	found, err = e.find(good.ID())
	return err != nil || len(found) == 0 || found[0].Counted
}

// waits tells whether the boot loaders will try the version, which was not
// started yet, before the good one.
func (e *esp) waits(s, good *Slot) bool {
	found, err := e.find(s.ID())
	if err != nil || len(found) == 0 || found[0].Left == 0 || e.staged() || !e.armed(s, good) {
		return false
	}
	env, err := e.env()
	return err == nil && (!e.bios || env[bootentry.EnvTry] == s.ID())
}

// good makes a version the one that both boot loaders start, without counters.
func (e *esp) good(id string) error {
	err := e.setEnv(func(env bootentry.Env) {
		env[bootentry.EnvGood] = id
		delete(env, bootentry.EnvTry)
		delete(env, bootentry.EnvLeft)
	})
	if err != nil {
		return err
	}
	return e.rename(bootentry.Entry{ID: id})
}

// sync flushes the whole partition: a FAT has no journal, and names, tables and
// contents lie in different places.
func (e *esp) sync() error {
	dir, err := os.Open(e.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("flush EFI partition: %w", err)
	}
	return nil
}

// reclaimable is how many bytes clean would free.
func (e *esp) reclaimable(keep string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(e.dir, path)
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		entry, ours := bootentry.ParseFile(d.Name())
		switch dir := filepath.Dir(rel); {
		case dir == bootentry.Dir && ours && entry.ID != keep:
		case filepath.Dir(dir) == bootentry.BIOSDir && filepath.Base(dir) != keep:
		case dir == bootentry.Dir && d.Name() == stagingName:
		default:
			return nil
		}
		st, err := d.Info()
		if err == nil {
			sum += st.Size()
		}
		return err
	})
	return sum, err
}
