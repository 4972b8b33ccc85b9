package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
)

// medic mounts a state partition, and repairs it when it cannot be mounted.
type medic struct {
	c   *console
	dev string // device file
	dir string // where it is mounted
	// run runs one of the image's programs and returns what it prints, at most
	// maxDiary bytes; without want, that goes to the console.
	run func(want bool, args ...string) ([]byte, error)
}

func newMedic(c *console, dev string) *medic { return &medic{c, dev, stateRoot, inImage} }

// remedy is what had to be done to mount the state partition; its zero value is
// nothing.
type remedy struct {
	stage string // of the diary
	text  string // for people
}

// patience is how many starts end because the state partition cannot be mounted
// nor repaired, before it gets a new file system: as many as an image on trial
// has, which are those that a boot loader counts and one by kexec before them.
// The other image, or a disk that was only slow, has its chance before anything
// is lost.
const patience = 4

// mount mounts the state partition. One that cannot be mounted, or in which the
// kernel found errors, is repaired by e2fsck(8): by what is safe, else whatever
// that costs. Where it still cannot be mounted after some starts, it gets a new
// file system: neither an update nor the image before would mount it, and a
// machine that comes up empty can be told what to do.
func (m *medic) mount() (done remedy, err error) {
	if isMounted(m.dir) { // the diary needed it
		return done, m.count(0)
	}
	noted, err := hasErrors(m.dev)
	if err != nil {
		return done, err
	}
	cause := errNoted
	if !noted {
		cause = m.try()
	}
	for _, how := range []string{"-p", "-y"} {
		if cause == nil {
			break
		}
		m.c.say("%v; e2fsck %s", cause, how)
		_, fsck := m.run(false, "/sbin/e2fsck", "-f", how, m.dev)
		status, ok := exitStatus(fsck)
		if !ok || status&^(1|2|4|8) != 0 { // it could not do its work: that says nothing of the file system
			if noted && m.try() == nil {
				m.c.say("not checked: %v", fsck)
				return done, m.count(0)
			}
			return done, fmt.Errorf("%w; %w", cause, fsck)
		}
		if how == "-p" && status >= 4 {
			continue
		}
		if cause = m.try(); cause == nil && how == "-y" {
			done = remedy{stageRepaired, "the state partition was damaged, and repaired by e2fsck -y: files may be missing, " +
				"or be in lost+found"}
			m.c.shout(done.text)
		}
	}
	if cause == nil {
		return done, m.count(0)
	}
	return m.giveUp(cause)
}

// errNoted is why a file system is checked that could be mounted.
var errNoted = errors.New("the state partition had errors while it was used")

// hasErrors tells whether the kernel, which makes a file system read-only then,
// has noted errors in its superblock (s_state, EXT4_ERROR_FS).
func hasErrors(dev string) (bool, error) {
	f, err := os.Open(dev)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var state [2]byte
	_, err = f.ReadAt(state[:], 1024+58)
	return state[0]&2 != 0, err
}

// try mounts the file system as it is.
func (m *medic) try() error {
	if err := unix.Mount(m.dev, m.dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount state partition %s: %w", m.dev, err)
	}
	return nil
}

// giveUp counts a start without state; after the last it makes a file system.
func (m *medic) giveUp(cause error) (done remedy, err error) {
	n, err := m.counted()
	if err != nil {
		return done, errors.Join(cause, err)
	}
	if n++; n <= patience {
		cause = fmt.Errorf("%w; e2fsck -y does not help; start %d of %d before it gets a new file system",
			cause, n, patience)
		return done, errors.Join(cause, m.count(n))
	}
	records := map[string][]byte{}
	for _, name := range keptByReset {
		// It prints nothing of a file that is not there; -c: whatever is damaged beside it.
		b, err := m.run(true, "/sbin/debugfs", "-c", "-R", "cat /boot/"+name, m.dev)
		if err == nil && len(b) > 0 {
			records[name] = b
		}
	}
	if err := m.renew(records); err != nil {
		return done, errors.Join(cause, err)
	}
	done = remedy{stageLost, "the state partition could not be repaired in " + fmt.Sprint(n) +
		" starts and has a new file system: what this machine kept is lost"}
	if len(records) > 0 {
		done.text += ", but for " + strings.Join(slices.Sorted(maps.Keys(records)), ", ")
	}
	m.c.shout(done.text)
	return done, nil
}

// renew makes a file system with these files in the directory boot, and mounts
// it.
func (m *medic) renew(records map[string][]byte) error {
	if err := m.makeState(); err != nil {
		return err
	}
	if err := m.try(); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(m.dir, 0o700), os.Mkdir(m.dir+"/boot", 0o700)); err != nil {
		return err
	}
	for name, b := range records {
		if err := atomicfile.Write(filepath.Join(m.dir, "boot", name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// makeState runs the image's own mke2fs. It leaves the writing of inode tables
// and journal to the kernel, for later.
func (m *medic) makeState() error {
	_, err := m.run(false, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", "state", "-m", "1", "-e", "remount-ro",
		"-E", "lazy_itable_init=1,lazy_journal_init=1", m.dev)
	return err
}

// tallyBegin and tallyEnd are around the count of starts without state, which is in the partition's
// first sector, which ext4 leaves alone and mke2fs clears.
const tallyBegin, tallyEnd = "goldsmith: ", " starts without state\n"

// counted is how many starts without state there were in a row.
func (m *medic) counted() (n int, err error) {
	f, err := os.Open(m.dev)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sector := make([]byte, 512)
	if _, err := io.ReadFull(f, sector); err != nil {
		return 0, fmt.Errorf("read %s: %w", m.dev, err)
	}
	text, ok := strings.CutPrefix(string(sector), tallyBegin)
	text, _, found := strings.Cut(text, tallyEnd)
	if n, err = strconv.Atoi(text); err != nil || !ok || !found || n < 0 {
		return 0, nil // something else is there, or nothing
	}
	return n, nil
}

// count notes how many there were; 0 clears the note, where there is one.
func (m *medic) count(n int) error {
	old, err := m.counted()
	if err != nil || old == n {
		return err
	}
	f, err := os.OpenFile(m.dev, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	sector := make([]byte, 512)
	if n > 0 {
		copy(sector, tallyBegin+strconv.Itoa(n)+tallyEnd)
	}
	_, err = f.Write(sector)
	return errors.Join(err, f.Sync(), f.Close())
}
