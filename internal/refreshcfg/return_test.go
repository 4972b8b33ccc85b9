package refreshcfg

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/command"
)

// agrees runs the machine and holds the run to what a plan and --noop said
// before it, of what is put back and of which hooks run. It returns what was
// said of the data.
func (m *machine) agrees(want string) string {
	m.t.Helper()
	p, err := m.c.Plan(m.t.Context(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	var planned, data []string
	for _, b := range p.Back {
		for _, path := range b.Paths {
			planned = append(planned, fmt.Sprintf("back from %s: %s as it was before %s", b.To, path, b.Name))
		}
	}
	for _, s := range p.Stay {
		planned = append(planned, stays(s))
	}
	slices.Sort(planned)
	for _, ph := range p.Phases {
		for _, h := range ph.Hooks {
			if h.Run {
				planned = append(planned, h.Name+": "+h.Why)
			}
		}
	}
	said := func() (list []string) {
		for _, line := range m.said {
			line = strings.ReplaceAll(line, " would be as ", " as ")
			if strings.Contains(line, "back from ") {
				list = append(list, line)
			}
		}
		slices.Sort(list)
		data = list
		return list
	}
	noop := m.c
	noop.Noop = true
	m.said = nil
	if _, err := run(m.t, noop); err != nil {
		m.t.Fatal(err)
	}
	told := said()
	for _, line := range m.said {
		if name, why, ok := strings.Cut(line, ": would run: "); ok {
			told = append(told, name[strings.Index(name, "/")+1:]+": "+why)
		}
	}
	if !slices.Equal(planned, told) {
		m.t.Errorf("the plan is\n%s\nand --noop says\n%s", strings.Join(planned, "\n"), strings.Join(told, "\n"))
	}
	var hooks []string
	for _, line := range planned {
		if name, _, ok := strings.Cut(line, ": "); ok && !strings.Contains(line, "back from ") {
			hooks = append(hooks, name)
		}
	}
	if got := strings.Join(hooks, " "); got != want {
		m.t.Errorf("planned %q; want %q", got, want)
	}
	m.runs(want)
	if !slices.Equal(told[:len(told)-len(hooks)], said()) {
		m.t.Errorf("before the run %q was said, and in it %q", told, data)
	}
	return strings.Join(data, "; ")
}

// The copies for a return are gone: the data stay as the newer image left
// them, which is said, and they are not migrated a second time.
func TestReturnWithoutCopies(t *testing.T) {
	m := newMachine(t)
	m.write("db", "v0\n")
	m.agrees("")
	migration := func(name string) {
		m.hook("migration.d/"+name, `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo $GOLDSMITH_NEW_VERSION >>ETC/db\n")
	}
	migration("1-m")
	m.c.Image.Version = "2"
	m.agrees("1-m")
	m.c.Image.Version = "3"
	migration("2-n")
	m.agrees("2-n") // and the copies before 1-m are forgotten
	m.c.Image.Version = "1"
	want := "back from demo 3: " + m.etc + "/db as it was before 2-n; " +
		"no way back from demo 2: the copies from before 1-m are gone, and as newer images left it stays " + m.etc + "/db"
	if got := m.agrees("2-n"); got != want { // image 1 has the hooks, too
		t.Errorf("said %q; want %q", got, want)
	}
	for range 2 { // what it migrated itself stays
		if got := m.agrees(""); got != "" || m.read("db") != "v0\n2\n1\n" {
			t.Errorf("said %q once more, db %q", got, m.read("db"))
		}
	}
	m.c.Image.Version = "3"
	m.agrees("2-n")
	if m.read("db") != "v0\n2\n3\n" || m.state() != "1-m done, 2-n done" {
		t.Errorf("db %q, %s", m.read("db"), m.state())
	}
}

// What came after a migration whose copies are gone goes back nevertheless, as
// far as it has copies itself; what this image has migrated does not.
func TestBackAfterLostCopies(t *testing.T) {
	image := func(version string) Image { return Image{Name: "demo", Version: version} }
	made := func(name, from, to, state, path string, kept bool) Migration {
		m := Migration{Name: name, State: state, From: image(from), To: image(to), Kept: kept}
		if path != "" {
			m.Paths = []string{path}
		}
		return m
	}
	a := made("a", "1", "2", MigrationDone, "/a", false)
	b := made("b", "2", "3", MigrationDone, "/b", true)
	gone := made("b", "2", "3", MigrationDone, "/b", false)
	for name, c := range map[string]struct {
		all              []Migration
		last, back, stay string
	}{
		"later":               {[]Migration{a, b}, "3", "b", "a"},
		"later, told":         {[]Migration{a, b}, "1", "b", ""},
		"started":             {[]Migration{a, made("b", "2", "3", MigrationStarted, "/b", true)}, "2", "b", "a"},
		"not begun":           {[]Migration{a, made("b", "2", "3", MigrationStarted, "/b", false)}, "2", "b", "a"},
		"returning":           {[]Migration{a, made("b", "2", "3", MigrationReturning, "/b", true)}, "3", "b", "a"},
		"returned":            {[]Migration{a, made("b", "2", "3", MigrationReturned, "/b", false)}, "3", "", "a"},
		"reversible":          {[]Migration{a, made("b", "2", "3", MigrationDone, "", false)}, "3", "b", "a"},
		"lost":                {[]Migration{a, gone}, "3", "", "a b"},
		"lost, covered":       {[]Migration{a, b, made("c", "2", "3", MigrationDone, "/b/c", false)}, "3", "c b", "a"},
		"lost, beside":        {[]Migration{a, b, made("c", "2", "3", MigrationDone, "/c", false)}, "3", "b", "a c"},
		"after two lost":      {[]Migration{a, gone, made("c", "3", "4", MigrationDone, "/c", true)}, "4", "c", "a b"},
		"earlier":             {[]Migration{made("b", "0", "1", MigrationDone, "/b", true), a}, "2", "", "a"},
		"of this image":       {[]Migration{a, made("c", "3", "1", MigrationDone, "/c", true)}, "3", "", "a"},
		"of this image, lost": {[]Migration{a, made("c", "3", "1", MigrationDone, "/c", false)}, "3", "", "a"},
		"of this and later":   {[]Migration{a, made("c", "1", "1", MigrationDone, "/c", true), b}, "3", "b", "a"},
		"resumed here":        {[]Migration{a, made("c", "3", "1", MigrationStarted, "/c", true)}, "3", "", "a"},
	} {
		names := func(list []Migration) string {
			var s []string
			for _, m := range list {
				s = append(s, m.Name)
			}
			return strings.Join(s, " ")
		}
		list, stay := back(c.all, image("1"), lastImage{goodImage: goodImage{Image: image(c.last)}, any: true})
		if names(list) != c.back || names(stay) != c.stay {
			t.Errorf("%s: back %q, stay %q; want %q and %q", name, names(list), names(stay), c.back, c.stay)
		}
	}
}

// What a migration left goes with what an earlier one had copies of: it runs
// anew with that, copies or not. What lies beside those stays.
func TestReturnWithoutSomeCopies(t *testing.T) {
	m := newMachine(t)
	m.runs("")
	for _, f := range []string{"db", "other"} {
		m.write(f, "v0\n")
	}
	hooks := func() {
		m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 1 >>ETC/db\n")
		m.hook("migration.d/2-n", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 2 >>ETC/db\n")
		m.hook("migration.d/3-o", `{"once": "machine", "snapshot": ["ETC/other"]}`, "echo 3 >>ETC/other\n")
	}
	hooks()
	m.c.Image.Version = "2"
	m.agrees("1-m 2-n 3-o")
	for _, name := range []string{"2-n", "3-o"} { // as the hint of what is lost says
		m.edit(name, func(r *Migration) { r.Kept = false })
	}
	m.c.Image.Version = "1"
	got := m.agrees("1-m 2-n") // image 1 has the hooks, too
	if !strings.Contains(got, "back from demo 2: "+m.etc+"/db as it was before 1-m; no way back") || !strings.HasSuffix(got, "/other") {
		t.Errorf("said %q", got)
	}
	if m.read("db") != "v0\n1\n2\n" || m.read("other") != "v0\n3\n" {
		t.Errorf("db %q, other %q", m.read("db"), m.read("other"))
	}
}

// Data go back, and the image that runs has the hook: it is planned that it
// migrates anew, whatever the record says so far.
func TestReturnIsPlanned(t *testing.T) {
	for _, succeeded := range []bool{true, false} {
		m := newMachine(t)
		m.write("db", "v0\n")
		if succeeded {
			m.agrees("")
		}
		m.c.Image.Version = "2"
		m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo $GOLDSMITH_NEW_VERSION >>ETC/db\n")
		m.hook("migration.d/2-r", `{"once": "machine", "reversible": true}`, "")
		m.hook("migration.d/3-bad", "", "exit 1\n")
		if _, err := run(t, m.c); err == nil {
			t.Fatal("the run did not fail")
		}
		m.hook("migration.d/3-bad", "", "")
		m.c.Image.Version = "1"
		if got, want := m.agrees("1-m 2-r 3-bad"), "back from demo 2: "+m.etc+"/db as it was before 1-m"; got != want {
			t.Errorf("said %q; want %q", got, want)
		}
		if m.read("db") != "v0\n1\n" {
			t.Errorf("db %q", m.read("db"))
		}
	}
}

// The copies are lost in the middle of a return, and the way back is given up:
// the migration is done.
func TestReturnGivenUp(t *testing.T) {
	m := newMachine(t)
	m.write("db", "new\n")
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "")
	writeState(t, m, "migrations/1-m.json", `{"phase": "migration", "name": "1-m", "state": "returning", "from": {"name": "demo", "version": "1"},
		"to": {"name": "demo", "version": "2"}, "paths": ["`+m.etc+`/db"], "kept": false, "sequence": 1}`)
	if got := m.agrees(""); !strings.HasPrefix(got, "no way back from demo 2: ") || m.state() != "1-m done" {
		t.Errorf("said %q, %s", got, m.state())
	}
}

// A copy that was made is gone: nothing is put back, and nothing removed for
// want of it. The plan, --noop and the run say so in the same words.
func TestReturnWithCopyLost(t *testing.T) {
	for name, c := range map[string]struct {
		lost string // below snapshots/1-m
		old  bool   // a record that does not tell what was there
	}{
		"all": {"", false}, "one": {"1", false}, "one and its mark": {"1*", false},
		"all, old record": {"", true}, "one, old record": {"1", true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.runs("")
			m.write("a", "1\n")
			m.write("b", "1\n")
			m.c.Image.Version = "2"
			m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/a", "ETC/b", "ETC/c"]}`, "for f in a b c; do echo 2 >ETC/$f; done\n")
			m.runs("1-m")
			m.remove("migration.d/1-m")
			if c.old {
				m.edit("1-m", func(r *Migration) { r.There = nil })
			}
			lost, _ := filepath.Glob(filepath.Join(m.c.State, "snapshots/1-m", c.lost))
			for _, path := range lost {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
			m.c.Image.Version = "1"
			_, planned := m.c.Plan(t.Context(), nil)
			noop := m.c
			noop.Noop = true
			_, told := run(t, noop)
			_, ran := run(t, m.c)
			for _, err := range []error{planned, told, ran} {
				if err == nil || !strings.Contains(err.Error(), "what was there before 1-m") || err.Error() != ran.Error() ||
					!strings.HasPrefix(command.HintOf(err), "restore the copies") {
					t.Errorf("%v, hint %q", err, command.HintOf(err))
				}
			}
			if all := m.read("a") + m.read("b") + m.read("c"); all != "2\n2\n2\n" {
				t.Errorf("data %q; want what was migrated", all)
			}
			m.edit("1-m", func(r *Migration) { r.Kept = false })
			if got := m.agrees(""); !strings.HasPrefix(got, "no way back from demo 2: ") || m.state() != "1-m done" {
				t.Errorf("said %q, %s", got, m.state())
			}
		})
	}
}

// Images without a migration are remembered, too: the one to which the machine
// returns may be several back.
func TestReturnAcrossImages(t *testing.T) {
	m := newMachine(t)
	m.write("db", "1\n")
	image := func(version, ran string) string {
		t.Helper()
		m.c.Image.Version = version
		m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo $GOLDSMITH_NEW_VERSION >ETC/db\n")
		if version < "3" {
			m.remove("migration.d")
		}
		return m.agrees(ran)
	}
	image("1", "")
	image("2", "")
	image("3", "1-m")
	back := "back from demo 3: " + m.etc + "/db as it was before 1-m"
	if got := image("1", ""); got != back || m.read("db") != "1\n" || m.state() != "1-m returned" {
		t.Errorf("said %q, db %q, %s", got, m.read("db"), m.state())
	}
	image("3", "1-m") // since 2 ran, too
	if got := image("2", ""); got != back || m.read("db") != "1\n" {
		t.Errorf("said %q, db %q", got, m.read("db"))
	}
}

// image.json as an older version wrote it.
func TestOldImageRecord(t *testing.T) {
	m := newMachine(t)
	m.write("db", "2\n")
	writeState(t, m, "image.json", `{"name": "demo", "version": "2"}`)
	writeState(t, m, "migrations/0-r.json", `{"name": "0-r", "state": "done", "from": {"name": "demo", "version": "0"}, "to": {"name": "demo", "version": "1"}, "sequence": 1}`)
	m.c.Image.Version = "2"
	if m.agrees(""); m.state() != "0-r done" {
		t.Error(m.state())
	}
	writeState(t, m, "image.json", `{"name": "demo", "version": "2"}`)
	m.c.Image.Version = "3"
	m.hook("migration.d/1-m", `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo 3 >ETC/db\n")
	m.agrees("1-m")
	m.remove("migration.d")
	m.c.Image.Version = "2"
	if got := m.agrees(""); !strings.HasPrefix(got, "back from demo 3: ") || m.read("db") != "2\n" {
		t.Errorf("said %q, db %q", got, m.read("db"))
	}
}

// An image knows what was migrated before it succeeded, whatever ran since.
func TestNothingSince(t *testing.T) {
	m := newMachine(t)
	for _, image := range []struct{ version, hook, said string }{
		{"1", "", ""},
		{"3", "1-m", ""},
		{"4", "", ""}, // and the copies before 1-m are forgotten
		{"1", "", "no way back from demo 3: "},
		{"4", "", ""},
		{"5", "2-n", ""},
		{"4", "", "back from demo 5: "},
		{"3", "", ""},
	} {
		m.c.Image.Version = image.version
		m.hook("migration.d/"+or(image.hook, "x"), `{"once": "machine", "snapshot": ["ETC/db"]}`, "echo $GOLDSMITH_NEW_VERSION >ETC/db\n")
		if image.hook == "" {
			m.remove("migration.d")
		}
		if got := m.agrees(image.hook); !strings.HasPrefix(got, image.said) || image.said == "" && got != "" {
			t.Errorf("image %s: said %q; want %q", image.version, got, image.said)
		}
	}
	if m.read("db") != "3\n" || m.state() != "1-m done, 2-n returned" {
		t.Errorf("db %q, %s", m.read("db"), m.state())
	}
}

// What is remembered of images: each once, the last one last.
func TestImagesInOrder(t *testing.T) {
	var last lastImage
	for i, want := range []string{"1", "12", "12", "123", "1234", "1342", "1423", "4231"} {
		last = last.followedBy(goodImage{Image{Version: string("12234231"[i])}, i})
		got := ""
		for _, image := range append(slices.Clone(last.Before), last.goodImage) {
			got += image.Version
		}
		if got != want {
			t.Errorf("step %d: %s; want %s", i, got, want)
		}
	}
	for i := range 3 * maxBefore {
		last = last.followedBy(goodImage{Image{Version: fmt.Sprint("v", i)}, i})
	}
	if n := len(last.Before); n != maxBefore || last.Before[n-1].Next != 3*maxBefore-2 {
		t.Errorf("%d are remembered, the last %v", n, last.Before[n-1])
	}
}
