package refreshcfg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// small mounts a file system of so many KiB on a directory.
func (m *machine) small(dir, kib string) {
	m.t.Helper()
	testenv.NeedRoot(m.t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size="+kib+"k"); err != nil {
		testenv.Missing(m.t, "no tmpfs can be mounted: "+err.Error())
	}
	m.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			m.t.Error(err)
		}
	})
}

// fill writes a file until its file system is full, or so many KiB.
func (m *machine) fill(path string, kib int) {
	m.t.Helper()
	if err := os.WriteFile(path, make([]byte, kib<<10), 0o644); err != nil && !errors.Is(err, unix.ENOSPC) {
		m.t.Fatal(err)
	}
}

// used is what a file system holds, in KiB.
func (m *machine) used(dir string) int {
	m.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		m.t.Fatal(err)
	}
	return int((st.Blocks - st.Bfree) * uint64(st.Bsize) >> 10)
}

const dbHook = `{"once": "machine", "snapshot": ["ETC/db"]}`

// Copies that do not fit leave nothing: files can be given back in the same
// run, the older image runs however little room is left, and what fits later
// migrates.
func TestCopiesDoNotFit(t *testing.T) {
	m := newMachine(t)
	m.small(m.c.State, "96")
	m.write("db", strings.Repeat("1", 120<<10))
	m.runs("")
	before := m.used(m.c.State)
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", dbHook, "echo 2 >ETC/db\n")
	room := 0
	m.c.Rollback = func(context.Context) (int, error) {
		room = m.used(m.c.State) - before
		return 0, nil
	}
	m.fails("No space left on device")
	if room == 0 || room > 32 {
		t.Errorf("in the run that failed, %d KiB were taken", room)
	}
	_, err := run(t, m.c)
	if want := "the copies need room below " + m.c.State; command.HintOf(err) != want {
		t.Errorf("the hint is %q; want %q", command.HintOf(err), want)
	}
	m.fill(m.c.State+"/full", 96)
	m.remove("migration.d")
	m.c.Image.Version = "1"
	m.runs("")
	if m.state() != "" {
		t.Error(m.state())
	}
	if err := os.Remove(m.c.State + "/full"); err != nil {
		t.Fatal(err)
	}
	m.c.Image.Version = "2"
	m.write("db", "1\n")
	m.hook("migration.d/1-m", dbHook, "echo 2 >ETC/db\n")
	m.runs("1-m")
}

// Power fails while copies fill the disk: whatever image comes next removes
// them before it writes anything.
func TestHalfCopiesOnFullDisk(t *testing.T) {
	for _, next := range []string{"1", "2", "3"} {
		m := newMachine(t)
		m.small(m.c.State, "96")
		m.runs("")
		writeState(t, m, "migrations/1-m.json", `{"phase": "migration", "name": "1-m", "state": "started", "from": {"name": "demo", "version": "1"},
			"to": {"name": "demo", "version": "2"}, "paths": ["`+m.etc+`/db"], "sequence": 1}`)
		writeState(t, m, "snapshots/1-m/0", "")
		m.fill(m.c.State+"/snapshots/1-m/0", 96)
		m.write("db", "1\n")
		want := ""
		if m.c.Image.Version = next; next == "2" {
			m.hook("migration.d/1-m", dbHook, "echo 2 >ETC/db\n")
			want = "1-m"
		}
		m.agrees(want)
		if kib := m.used(m.c.State); kib > 48 {
			t.Errorf("image %s: %d KiB are taken", next, kib)
		}
	}
}

// A migration is done, but the state's disk is full and the run fails: that is
// recorded, and the machine returns.
func TestReturnOnFullDisk(t *testing.T) {
	for _, header := range []string{dbHook, `{"once": "machine", "reversible": true}`} {
		m := newMachine(t)
		m.small(m.c.State, "96")
		m.write("db", "1\n")
		m.runs("")
		m.c.Image.Version = "2"
		m.hook("migration.d/1-m", header, "echo 2 >>ETC/db; head -c 96K /dev/zero >"+m.c.State+"/full || true\n")
		m.hook("migration.d/2-bad", "", "exit 1\n")
		m.fails("2-bad")
		m.remove("migration.d")
		m.c.Image.Version = "1"
		m.agrees("")
		if m.state() != "1-m returned" || header == dbHook && m.read("db") != "1\n" {
			t.Errorf("%s, db %q", m.state(), m.read("db"))
		}
		if _, err := os.Stat(m.c.State + "/room"); err != nil {
			t.Error(err) // for the next time
		}
	}
}

// A migration fills the disk that data and copies are on, and fails. The older
// image puts the copies in place of what is there.
func TestReturnToFullData(t *testing.T) {
	m := newMachine(t)
	m.small(m.etc, "300")
	m.c.State = filepath.Join(m.etc, "state")
	m.fill(filepath.Join(m.etc, "db"), 120)
	m.runs("")
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", dbHook, "head -c 300K /dev/zero >>ETC/db\n")
	m.fails("No space left on device")
	m.remove("migration.d")
	m.c.Image.Version = "1"
	m.agrees("")
	if db := m.read("db"); len(db) != 120<<10 || m.state() != "1-m returned" {
		t.Errorf("%d bytes of data, %s", len(db), m.state())
	}
}

// What does not even fit in place of the data leaves no half of it, and fits
// when there is room.
func TestReturnDoesNotFit(t *testing.T) {
	m := newMachine(t)
	m.small(m.etc, "300")
	m.fill(filepath.Join(m.etc, "db"), 150)
	m.runs("")
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", dbHook, "echo 2 >ETC/db; head -c 250K /dev/zero >ETC/other\n")
	m.runs("1-m")
	m.remove("migration.d")
	m.c.Image.Version = "1"
	for range 2 {
		m.fails("No space left on device")
		if left, _ := filepath.Glob(m.etc + "/*.goldsmith-*"); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
	if err := os.Remove(filepath.Join(m.etc, "other")); err != nil {
		t.Fatal(err)
	}
	m.agrees("")
	if db := m.read("db"); len(db) != 150<<10 {
		t.Errorf("%d bytes of data", len(db))
	}
}
