package refreshcfg

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"goldsmith/internal/command"
)

// What could not be put back by renaming is refused before the hook runs.
func TestSnapshotRefused(t *testing.T) {
	m := newMachine(t)
	m.write("real", "1")
	if err := os.Symlink("real", filepath.Join(m.etc, "db")); err != nil {
		t.Fatal(err)
	}
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "")
	if out := m.fails("a symbolic link"); out != "" {
		t.Errorf("a link: ran %q", out)
	}
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["/proc"]}`, "")
	if out := m.fails("a file system of its own"); out != "" {
		t.Errorf("a mount point: ran %q", out)
	}
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["`+filepath.Dir(m.c.State)+`"]}`, "")
	if err := os.RemoveAll(filepath.Join(m.c.State, "migrations")); err != nil {
		t.Fatal(err)
	}
	if out := m.fails("holds the copies themselves"); out != "" {
		t.Errorf("the state's directory: ran %q", out)
	}
}

// The directory that held what was kept may be gone; the copies may not.
func TestReturnOfWhatIsGone(t *testing.T) {
	for _, lost := range []bool{false, true} {
		m := newMachine(t)
		m.hook("migration.d/.keep", "", "")
		m.runs("")
		m.c.Image.Version = "2"
		m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/app/db"]}`, "mv ETC/app ETC/moved\n")
		if err := os.Mkdir(filepath.Join(m.etc, "app"), 0o755); err != nil {
			t.Fatal(err)
		}
		m.write("app/db", "old")
		m.runs("1-m")
		m.c.Image.Version = "1"
		if !lost {
			m.runs("1-m") // which this machine's image 1 has, too
			continue
		}
		if err := errors.Join(os.RemoveAll(m.c.State+"/snapshots/1-m"), os.Mkdir(m.etc+"/app", 0o755)); err != nil {
			t.Fatal(err)
		}
		m.write("app/db", "new")
		if _, err := run(t, m.c); err == nil || !strings.Contains(command.HintOf(err), "restore the copies") {
			t.Errorf("%v, hint %q", err, command.HintOf(err))
		}
		if m.read("app/db") != "new" {
			t.Error("the data are gone")
		}
	}
}

// What held the data may be gone altogether: it is made again as it was.
func TestReturnWithoutParent(t *testing.T) {
	m := newMachine(t)
	m.runs("")
	if err := os.MkdirAll(filepath.Join(m.etc, "app/lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write("app/lib/db", "old")
	lib := filepath.Join(m.etc, "app/lib")
	if err := syscall.Chmod(lib, 0o2750); err != nil {
		t.Fatal(err)
	}
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/app/lib/db", "ETC/app/none"]}`, "rm -rf ETC/app\n")
	m.runs("1-m")
	m.remove("migration.d")
	m.c.Image.Version = "1"
	m.runs("")
	if fi, err := os.Stat(lib); m.read("app/lib/db") != "old" || err != nil || fi.Mode() != fs.ModeDir|fs.ModeSetgid|0o750 {
		t.Errorf("db %q, in %v, %v", m.read("app/lib/db"), fi.Mode(), err)
	}
}

// Copies whose record is lost may be all that is left of the data; but a
// migration makes its own.
func TestCopiesWithoutRecord(t *testing.T) {
	m := newMachine(t)
	m.write("db", "1\n")
	writeState(t, m, "snapshots/1-m/0", "0\n")
	kept := filepath.Join(m.c.State, "snapshots/1-m/0")
	for _, want := range []string{"0\n", "1\n"} {
		m.runs(map[string]string{"1\n": "1-m"}[want])
		if b, err := os.ReadFile(kept); err != nil || string(b) != want {
			t.Errorf("the copy is %q, %v; want %q", b, err, want)
		}
		m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 2 >ETC/db\n")
	}
}

// What is remembered is root's: digests of short values tell what they are.
func TestStateIsClosed(t *testing.T) {
	m := newMachine(t)
	m.c.State = filepath.Join(m.c.State, "goldsmith/refreshcfg")
	m.doc = `{"pin": 1234}`
	m.write("db", "old")
	m.hook("configure.d/1-x", `{"changed": ["pin"]}`, "")
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "")
	m.runs("1-x 1-m")
	err := filepath.WalkDir(m.c.State, func(path string, d os.DirEntry, err error) error {
		if strings.Contains(path, "/snapshots/1-m/") {
			return err // as it was
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v", path, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Dir(m.c.State)); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("what is above it: %v, %v", fi.Mode(), err)
	}
}

// An older record does not tell what was there: a copy does, also one that has
// no mark of its directory, as older versions made them.
func TestReturnWithoutMark(t *testing.T) {
	m := newMachine(t)
	m.runs("")
	m.write("a", "1\n")
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/a", "ETC/b"]}`,
		"echo 2 >ETC/a; echo 2 >ETC/b\n")
	m.runs("1-m")
	m.remove("migration.d/1-m")
	m.edit("1-m", func(r *Migration) { r.There = nil })
	if err := os.Remove(filepath.Join(m.c.State, "snapshots/1-m/0"+parentSuffix)); err != nil {
		t.Fatal(err)
	}
	m.c.Image.Version = "1"
	m.agrees("")
	if a := m.read("a"); a != "1\n" || m.state() != "1-m returned" {
		t.Errorf("a is %q, %s", a, m.state())
	}
	if _, err := os.Lstat(filepath.Join(m.etc, "b")); !os.IsNotExist(err) {
		t.Errorf("what was not there: %v", err)
	}
}
