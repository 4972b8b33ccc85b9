package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/testenv"
)

// ward is a file system in a file, as the state partition of a machine, and
// what a machine does with it.
type ward struct {
	*medic
	t    *testing.T
	disk string
	said bytes.Buffer
	ran  string // programs
	// ends are statuses that programs end with instead of doing their work, by
	// their first words.
	ends map[string]int
}

func newWard(t *testing.T) *ward {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "losetup", "mke2fs", "e2fsck", "debugfs")
	dir := t.TempDir()
	w := &ward{t: t, disk: filepath.Join(dir, "disk"), ends: map[string]int{}}
	w.medic = &medic{c: &console{out: &w.said}, dir: filepath.Join(dir, "state"), run: w.program}
	w.must(os.WriteFile(w.disk, nil, 0o600))
	w.must(os.Truncate(w.disk, 64<<20))
	w.must(os.Mkdir(w.dir, 0o700))
	out, err := exec.Command("losetup", "--show", "-f", w.disk).Output()
	w.must(err)
	w.dev = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		w.unmount()
		w.must(exec.Command("losetup", "-d", w.dev).Run())
	})
	w.must(w.makeState())
	if _, err := w.mount(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"boot/slots.json", "fs/var/kept"} {
		put(t, filepath.Join(w.dir, name))
	}
	w.unmount()
	return w
}

func (w *ward) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *ward) unmount() {
	if isMounted(w.dir) {
		w.must(unix.Unmount(w.dir, 0))
	}
}

func (w *ward) program(want bool, args ...string) ([]byte, error) {
	words := strings.Join(args, " ")
	w.ran += strings.ReplaceAll(words, " "+w.dev, "") + "\n"
	for begin, status := range w.ends {
		if strings.HasPrefix(words, begin) {
			return nil, &statusError{args[0], status}
		}
	}
	out, err := exec.Command(args[0], args[1:]...).Output()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		err = &statusError{args[0], ee.ExitCode()}
	}
	return out, err
}

// zero overwrites a part of the disk.
func (w *ward) zero(off, n int64) {
	w.t.Helper()
	f, err := os.OpenFile(w.dev, os.O_RDWR, 0)
	w.must(err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, n), off)
	w.must(errors.Join(err, f.Sync()))
}

// spoilRoot makes a file system that e2fsck -p leaves alone: its first inodes
// are lost, and with them its root directory.
func (w *ward) spoilRoot() {
	out, err := exec.Command("debugfs", "-R", "imap <2>", w.dev).Output()
	w.must(err)
	_, at, ok := strings.Cut(string(out), "located at block ")
	if !ok {
		w.t.Fatalf("debugfs: %s", out)
	}
	block := int64(0)
	for _, c := range strings.SplitN(at, ",", 2)[0] {
		block = 10*block + int64(c-'0')
	}
	w.zero(block*w.blockSize(), 1024)
}

func (w *ward) blockSize() int64 {
	b := make([]byte, 4)
	f, err := os.Open(w.dev)
	w.must(err)
	defer f.Close()
	_, err = f.ReadAt(b, 1024+24)
	w.must(err)
	return 1024 << b[0]
}

// Damage beyond e2fsck -p is repaired by -y, and said.
func TestRepairWhateverItCosts(t *testing.T) {
	w := newWard(t)
	w.spoilRoot()
	done, err := w.mount()
	if err != nil || done.stage != stageRepaired || !isMounted(w.dir) {
		t.Fatalf("%+v, %v\n%s%s", done, err, w.ran, w.said.String())
	}
	if want := "/sbin/e2fsck -f -p\n/sbin/e2fsck -f -y\n"; !strings.HasSuffix(w.ran, want) {
		t.Errorf("ran %s", w.ran)
	}
	if !strings.Contains(w.said.String(), done.text) {
		t.Errorf("said %s", w.said.String())
	}
	w.unmount()
	if out, err := exec.Command("e2fsck", "-fn", w.dev).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A file system of which only the mark is lost is damaged, and not a partition
// that nobody has used: a copy of its superblock is elsewhere.
func TestMarkIsLost(t *testing.T) {
	w := newWard(t)
	w.zero(1024+56, 2)
	if unused, err := noSuperblock(w.dev); unused || err != nil {
		t.Errorf("unused: %v, %v", unused, err)
	}
	done, err := w.mount()
	if err != nil || done.stage != stageRepaired {
		t.Fatalf("%+v, %v\n%s%s", done, err, w.ran, w.said.String())
	}
	if got := layer(t, w.dir); got != "boot/slots.json, fs/var/kept, lost+found" {
		t.Errorf("left %s", got)
	}
}

// What cannot be repaired either is made anew, but not before the other image
// had its starts. The records stay, where they can be read.
func TestNewFileSystemInTheEnd(t *testing.T) {
	if patience != bootentry.Tries+1 {
		t.Errorf("an image on trial starts %d times, and once by kexec", bootentry.Tries)
	}
	w := newWard(t)
	w.spoilJournal()
	w.ends["/sbin/e2fsck"] = 8
	for start := range patience {
		if done, err := w.mount(); err == nil || done.stage != "" || !strings.Contains(err.Error(), "of 4") {
			t.Fatalf("start %d: %+v, %v", start+1, done, err)
		}
		if strings.Count(w.ran, "mke2fs") != 1 {
			t.Fatalf("start %d: %s", start+1, w.ran)
		}
	}
	done, err := w.mount()
	if err != nil || done.stage != stageLost || !strings.Contains(done.text, "but for slots.json") ||
		!strings.Contains(w.said.String(), done.text) {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := layer(t, w.dir); got != "boot/slots.json, lost+found" {
		t.Errorf("left %s", got)
	}
	if n, err := w.counted(); n != 0 || err != nil {
		t.Errorf("counted %d, %v", n, err)
	}
}

// spoilJournal makes a file system that cannot be mounted, though all else can be
// read.
func (w *ward) spoilJournal() {
	w.must(exec.Command("debugfs", "-w", "-R", "clri <8>", w.dev).Run())
}

// A start that mounts it again begins the count anew, also one in which the
// diary did.
func TestTallyIsForgotten(t *testing.T) {
	for _, early := range []bool{false, true} {
		w := newWard(t)
		w.must(w.count(2))
		if n, err := w.counted(); n != 2 || err != nil {
			t.Fatalf("counted %d, %v", n, err)
		}
		if early {
			w.must(w.try())
		}
		if done, err := w.mount(); err != nil || done != (remedy{}) {
			t.Fatalf("%+v, %v", done, err)
		}
		if n, err := w.counted(); n != 0 || err != nil {
			t.Errorf("counted %d, %v", n, err)
		}
		w.unmount()
		if out, err := exec.Command("e2fsck", "-fn", w.dev).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if _, err := os.Stat(w.dir); err != nil {
			t.Error(err)
		}
	}
}

// An e2fsck that cannot do its work says nothing of the file system.
func TestNothingIsLostOverABrokenProgram(t *testing.T) {
	for _, status := range []int{-1, 16, 32, 127, 128} {
		w := newWard(t)
		w.spoilJournal()
		w.ends["/sbin/e2fsck"] = status
		for range patience + 2 {
			if _, err := w.mount(); err == nil || strings.Count(w.ran, "mke2fs") != 1 {
				t.Fatalf("status %d: %v\n%s", status, err, w.ran)
			}
		}
	}
}

// Where the kernel noted errors the file system is checked, though it could be
// mounted; not so where that cannot be done.
func TestNotedErrors(t *testing.T) {
	for _, broken := range []bool{false, true} {
		w := newWard(t)
		w.must(exec.Command("debugfs", "-w", "-R", "ssv state 3", w.dev).Run())
		if broken {
			w.ends["/sbin/e2fsck"] = -1
		}
		done, err := w.mount()
		if err != nil || done != (remedy{}) || !strings.HasSuffix(w.ran, "/sbin/e2fsck -f -p\n") || !isMounted(w.dir) {
			t.Errorf("%+v, %v\n%s", done, err, w.ran)
		}
		if got := layer(t, w.dir); got != "boot/slots.json, fs/var/kept, lost+found" {
			t.Errorf("left %s", got)
		}
		w.unmount()
		if noted, err := hasErrors(w.dev); noted != broken || err != nil {
			t.Errorf("noted: %v, %v", noted, err)
		}
	}
}
