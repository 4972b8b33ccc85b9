package refreshcfg

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
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

// remove removes hooks, or whole phases.
func (m *machine) remove(names ...string) {
	m.t.Helper()
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(m.c.Base, name)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// edit changes a migration's record.
func (m *machine) edit(name string, change func(*Migration)) {
	m.t.Helper()
	s := state{m.c.State}
	r, there, err := s.migration(name)
	if err != nil || !there {
		m.t.Fatal(there, err)
	}
	change(&r)
	if err := s.write(migrationRecord(name), r); err != nil {
		m.t.Fatal(err)
	}
}

// fails runs everything, which has to fail with what is wanted in the error,
// and returns what hooks printed.
func (m *machine) fails(want string) (stdout string) {
	m.t.Helper()
	m.said = nil
	stdout, err := run(m.t, m.c)
	if err == nil || !strings.Contains(err.Error(), want) {
		m.t.Errorf("ran %q, %v; want an error with %q\n%s", stdout, err, want, strings.Join(m.said, "\n"))
	}
	return stdout
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
	m.fails("migration: ")
	if m.state() != "1-m started" {
		t.Fatalf("%s; want a migration that was cut short", m.state())
	}
	m.runs("1-m resumed")
	m.remove("migration.d/1-m")
	m.c.Image.Version = "1"
	m.runs("")
	if m.read("db") != "old\n" {
		t.Errorf("db %q; want what it held before the first attempt", m.read("db"))
	}
}

// The image before was told to become another one before it had succeeded: what
// the other one did to the data is undone nevertheless. Once an image has
// succeeded, a newer one keeps what it migrated.
func TestReturnBeforeAnySuccess(t *testing.T) {
	m := newMachine(t)
	m.write("db", "old\n")
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo spoiled >ETC/db\nexit 1\n")
	m.fails("migration: ")
	if m.read("db") != "spoiled\n" {
		t.Fatalf("db %q", m.read("db"))
	}
	m.remove("migration.d/1-m")
	m.c.Image.Version = "1"
	m.runs("")
	if m.read("db") != "old\n" {
		t.Errorf("db %q; want what it held before", m.read("db"))
	}
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo new >ETC/db\n")
	m.runs("1-m")
	m.c.Image.Version = "3"
	m.runs("")
	if m.read("db") != "new\n" {
		t.Errorf("db %q; want what version 2 migrated", m.read("db"))
	}
}

// Where nobody knows which image ran before, the other one may be the newer:
// what is reversible runs again only where data that it changed were put back,
// and not twice over the same data.
func TestReversibleBeforeAnySuccess(t *testing.T) {
	m := newMachine(t)
	m.write("db", "1\n")
	m.c.Image.Version = "2"
	hooks := func() {
		m.hook("migration.d/1-m", `{"once": "machine", "reversible": true}`, "echo m >>ETC/log\n")
		m.hook("migration.d/2-n", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 2 >>ETC/db\n")
		m.hook("migration.d/3-o", `{"once": "machine", "reversible": true}`, "echo 3 >>ETC/db\n")
	}
	hooks()
	m.hook("migration.d/4-p", "", "exit 1\n")
	m.fails("migration: ")
	m.c.Image.Version = "3"
	m.hook("migration.d/4-p", "", "")
	m.runs("2-n 3-o 4-p")
	if m.read("db") != "1\n2\n3\n" || m.read("log") != "m\n" {
		t.Errorf("db %q, log %q", m.read("db"), m.read("log"))
	}
}

// An image without a name that succeeded left no record of it: what it migrated
// stays when the machine gets an image with one.
func TestNamelessImageKeepsWhatItMigrated(t *testing.T) {
	m := newMachine(t)
	m.c.Image = Image{}
	m.write("db", "old\n")
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo new >ETC/db\n")
	m.runs("1-m")
	m.c.Image = Image{Name: "web", Version: "2"}
	m.runs("")
	if m.read("db") != "new\n" {
		t.Errorf("db %q; want what was migrated", m.read("db"))
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
	m.remove("migration.d") // the older image has them not
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

// A return that is cut short is finished by the next run, whatever image that
// is: the newer one migrates anew.
func TestReturnIsResumed(t *testing.T) {
	for _, next := range []string{"1", "2"} {
		m := newMachine(t)
		m.write("db", "1\n")
		m.runs("")
		m.c.Image.Version = "2"
		m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 2 >>ETC/db\n")
		m.runs("1-m")
		m.edit("1-m", func(r *Migration) { r.State = MigrationReturning })
		if err := os.Rename(filepath.Join(m.etc, "db"), filepath.Join(m.etc, "db.goldsmith-old")); err != nil {
			t.Fatal(err)
		}
		want, ran := "1\n2\n", "1-m"
		if m.c.Image.Version = next; next == "1" {
			m.remove("migration.d")
			want, ran = "1\n", ""
		}
		m.agrees(ran)
		if left, _ := filepath.Glob(m.etc + "/*"); m.read("db") != want || len(left) != 1 {
			t.Errorf("in image %s: db %q, files %v", next, m.read("db"), left)
		}
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

// Another image than the one that began a migration may end it.
func TestMigrationIsResumedByAnother(t *testing.T) {
	m := newMachine(t)
	m.c.Image.Version = "2"
	m.hook("migration.d/1-m", `{"once": "machine", "reversible": true}`, "echo \"$GOLDSMITH_NEW_VERSION\"\n[ -n \"$GOLDSMITH_RESUMED\" ]\n")
	m.fails("migration: ")
	m.c.Image.Version = "3"
	m.runs("1-m 3")
	if r, _, err := (state{m.c.State}).migration("1-m"); err != nil || r.To.Version != "3" {
		t.Errorf("record %+v, %v; want it for version 3", r, err)
	}
}

// A record that is damaged stops everything: paths are removed for what it says.
func TestDamagedRecord(t *testing.T) {
	const good = `{"name": "1-m", "state": "done", "from": {"version": "1"}, "to": {"version": "2"}, "paths": ["/x"], "sequence": 1}`
	for _, c := range []struct{ text, want string }{
		{"", "unexpected end of JSON input"},
		{strings.Replace(good, "1-m", "../../x", 1), `is the record of "../../x"`},
		{strings.Replace(good, "done", "doing", 1), `no such state: "doing"`},
		{strings.Replace(good, "/x", "x/..", 1), `"x/..": an absolute path`},
		{strings.Replace(good, "/x", "/", 1), `"/": an absolute path`},
		{strings.Replace(good, `["/x"]`, `["/x"], "there": [true, true]`, 1), `"there" is of 2 paths`},
	} {
		m := newMachine(t)
		m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "")
		writeState(t, m, "migrations/1-m.json", c.text)
		_, err := run(t, m.c)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "migrations/1-m.json") || command.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q; want %q", c.text, err, command.HintOf(err), c.want)
		}
		if _, err := m.c.Plan(t.Context(), nil); err == nil {
			t.Errorf("%s: planned", c.text)
		}
	}
	m := newMachine(t)
	m.hook("migration.d/1-m", `{"once": "machine", "reversible": true}`, "")
	writeState(t, m, "image.json", "{")
	if _, err := run(t, m.c); err == nil || !strings.Contains(command.HintOf(err), "remove it") {
		t.Errorf("damaged image.json: %v, hint %q", err, command.HintOf(err))
	}
}

func writeState(t *testing.T, m *machine, name, text string) {
	t.Helper()
	p := filepath.Join(m.c.State, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestCheckMigrationNames(t *testing.T) {
	m := newMachine(t)
	m.hook("migration.d/1-m", `{"once": "machine", "reversible": true}`, "")
	m.hook("configure.d/1-m", `{"once": "image"}`, "")
	if err := m.c.Check(); err != nil {
		t.Error(err)
	}
	m.hook("configure.d/1-m", `{"once": "machine", "reversible": true}`, "")
	if err := m.c.Check(); err == nil || !strings.Contains(err.Error(), "configure.d/1-m: migration.d has a migration of this name, too") {
		t.Errorf("Check = %v", err)
	}
	if out := m.fails("configure: configure.d/1-m: migration.d has"); out != "" {
		t.Errorf("ran %q", out)
	}
}

// A migration that has not begun is what its hook says now, whatever was
// noted: nothing was changed yet.
func TestMigrationNotBegun(t *testing.T) {
	m := newMachine(t)
	m.runs("")
	if err := os.Symlink("real", filepath.Join(m.etc, "db")); err != nil {
		t.Fatal(err)
	}
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "")
	m.fails("a symbolic link")
	if m.state() != "" {
		t.Fatalf("state %q; want nothing noted", m.state())
	}
	// As it is when power fails while copies are made.
	writeState(t, m, "migrations/1-m.json", `{"phase": "migration", "name": "1-m", "state": "started", "from": {}, "to": {"version": "0"}, "paths": ["`+m.etc+`/db"], "sequence": 1}`)
	m.hook("migration.d/1-m", `{"once": "machine", "reversible": true}`, "echo \"$GOLDSMITH_OLD_VERSION$GOLDSMITH_RESUMED\"\n")
	m.c.Image.Version = "2"
	if p, err := m.c.Plan(t.Context(), nil); err != nil || p.Phases[0].Hooks[0].Why != "never done on this machine" {
		t.Errorf("plan %+v, %v", p, err)
	}
	m.runs("1-m 1")
	if r, _, err := (state{m.c.State}).migration("1-m"); err != nil || r.Paths != nil || r.State != MigrationDone {
		t.Errorf("record %+v, %v", r, err)
	}
}

// Migrations that begin at the same time are numbered one by one.
func TestMigrationsBeside(t *testing.T) {
	m := newMachine(t)
	for _, n := range []string{"1-a", "2-b", "3-c", "4-d", "5-e", "6-f"} {
		m.hook("configure.d/"+n, `{"after": [], "once": "machine", "reversible": true}`, "")
	}
	if _, err := run(t, m.c); err != nil {
		t.Fatal(err)
	}
	all, err := state{m.c.State}.migrations()
	if err != nil || len(all) != 6 {
		t.Fatal(all, err)
	}
	for i, r := range all {
		if r.Sequence != i+1 {
			t.Errorf("%s has the number %d; want %d", r.Name, r.Sequence, i+1)
		}
	}
}
