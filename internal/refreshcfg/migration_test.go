package refreshcfg

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func (m *machine) state() string {
	m.t.Helper()
	all, err := state{m.c.State}.migrations()
	if err != nil {
		m.t.Fatal(err)
	}
	var s []string
	for _, r := range all {
		s = append(s, r.Name+" "+r.State)
	}
	return strings.Join(s, ", ")
}

func TestMigrationRunsOnce(t *testing.T) {
	m := newMachine(t)
	m.runs("")
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo \"$GOLDSMITH_OLD_VERSION>$GOLDSMITH_NEW_VERSION$GOLDSMITH_RESUMED\"\necho new >ETC/db\n")
	m.write("db", "old\n")
	m.runs("1-m 1>2")
	m.runs("")
	if m.read("db") != "new\n" || m.state() != "1-m done" {
		t.Errorf("db is %q, %s", m.read("db"), m.state())
	}
}

// What power took away in the middle runs again, over the data as they were
// left, and with the copy of those before the first attempt.
func TestMigrationIsResumed(t *testing.T) {
	m := newMachine(t)
	m.runs("")
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo half >ETC/db\n[ -n \"$GOLDSMITH_RESUMED\" ] && echo resumed\n")
	m.write("db", "old\n")
	if _, err := run(t, m.c); err == nil || m.state() != "1-m started" {
		t.Fatalf("%v, %s; want a migration that was cut short", err, m.state())
	}
	m.runs("1-m resumed")
	if err := os.Remove(filepath.Join(m.c.Base, "migration.d/1-m")); err != nil {
		t.Fatal(err)
	}
	m.c.Image.Version = "1"
	m.runs("")
	if m.read("db") != "old\n" {
		t.Errorf("db %q; want what it held before the first attempt", m.read("db"))
	}
}

// The machine returns to the image it came from: what newer ones migrated is
// as it was, the latest first.
func TestReturn(t *testing.T) {
	m := newMachine(t)
	m.write("db", "1\n")
	m.runs("")
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db", "ETC/new"]}`, "echo 2 >ETC/db; echo x >ETC/new\n")
	m.hook("migration.d/2-n", `{"once": "machine", "reversible": true}`, "echo n >>ETC/log\n")
	m.hook("migration.d/3-o", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 3 >ETC/db\n")
	m.runs("1-m 2-n 3-o")
	m.c.Image.Version = "1"
	for _, f := range []string{"1-m", "2-n", "3-o"} { // the older image has them not
		if err := os.Remove(filepath.Join(m.c.Base, "migration.d", f)); err != nil {
			t.Fatal(err)
		}
	}
	m.runs("")
	if m.read("db") != "1\n" || m.read("new") != "(none)" || m.read("log") != "n\n" {
		t.Errorf("db %q, new %q, log %q", m.read("db"), m.read("new"), m.read("log"))
	}
	if s := m.state(); s != "1-m returned, 2-n returned, 3-o returned" {
		t.Error(s)
	}
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db", "ETC/new"]}`, "echo 2 >ETC/db\n")
	m.runs("1-m")
	if m.read("db") != "2\n" {
		t.Errorf("db %q", m.read("db"))
	}
}

// A return that is cut short is finished by the next run.
func TestReturnIsResumed(t *testing.T) {
	m := newMachine(t)
	m.write("db", "1\n")
	m.runs("")
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 2 >ETC/db\n")
	m.runs("1-m")
	s := state{m.c.State}
	all, err := s.migrations()
	if err != nil {
		t.Fatal(err)
	}
	all[0].State = MigrationReturning
	if err := s.write(migrationRecord("1-m"), all[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(m.etc, "db"), filepath.Join(m.etc, "db.goldsmith-old")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(m.c.Base, "migration.d")); err != nil {
		t.Fatal(err)
	}
	m.c.Image.Version = "1"
	m.runs("")
	if left, _ := filepath.Glob(m.etc + "/*"); m.read("db") != "1\n" || len(left) != 1 {
		t.Errorf("db %q, files %v", m.read("db"), left)
	}
}

// Two images on, nobody goes back: the copies go.
func TestForget(t *testing.T) {
	m := newMachine(t)
	m.write("db", "1\n")
	m.runs("")
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 2 >ETC/db\n")
	kept := filepath.Join(m.c.State, "snapshots/1-m/0")
	for _, v := range []string{"2", "3"} {
		m.c.Image.Version = v
		m.said = nil
		if _, err := run(t, m.c); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(kept); (err == nil) != (v == "2") {
			t.Errorf("in image %s: %v", v, err)
		}
	}
	m.c.Image.Version = "2"
	m.runs("")
	if m.read("db") != "2\n" {
		t.Errorf("db %q", m.read("db"))
	}
}
