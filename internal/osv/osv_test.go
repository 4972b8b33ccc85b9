package osv

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
)

const bash = `{"id":"DSA-1","aliases":["CVE-2026-1"],"summary":"bad\nmore","affected":[
 {"package":{"ecosystem":"Debian:12","name":"bash"},"ranges":[{"type":"ECOSYSTEM","events":[{"fixed":"5.2.15-3"},{"introduced":"0"}]}]},
 {"package":{"ecosystem":"Debian:13","name":"bash"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`

const many = `{"id":"DSA-2","affected":[{"package":{"ecosystem":"Debian","name":"curl"},
 "ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"1.0"},{"fixed":"1.5"},{"introduced":"2:1"},{"last_affected":"2:3"}]},{"type":"GIT","events":[{"introduced":"0"}]}],
 "versions":["0.1-1"]}]}
{"id":"DSA-3","withdrawn":"2026-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"Debian","name":"curl"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}
{"id":"PYSEC-1","affected":[{"package":{"ecosystem":"PyPI","name":"curl"},"versions":["1.2"]}]}`

func load(t *testing.T, content string) (*DB, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db.json")
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return Load(file)
}

func TestAffecting(t *testing.T) {
	db, err := load(t, bash+"\n"+many)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		release, name, version, want string
	}{
		{"bookworm", "bash", "5.2.15-2+b2", "DSA-1 fixed 5.2.15-3"},
		{"12", "bash", "5.2.15-3~deb12u1", "DSA-1 fixed 5.2.15-3"},
		{"bookworm", "bash", "5.2.15-3", ""},
		{"bullseye", "bash", "5.1", ""},
		{"trixie", "bash", "9.9", "DSA-1 fixed "},
		{"bookworm", "curl", "0.9", ""},
		{"bookworm", "curl", "0.1-1", "DSA-2 fixed "},
		{"bookworm", "curl", "1.0", "DSA-2 fixed 1.5"},
		{"bookworm", "curl", "1.5", ""},
		{"bookworm", "curl", "2:1", "DSA-2 fixed "},
		{"bookworm", "curl", "2:3", "DSA-2 fixed "},
		{"bookworm", "curl", "2:3.1", ""},
		{"bookworm", "zsh", "1", ""},
	} {
		found, err := db.Affecting(tt.release, []Source{{tt.name, tt.version}})
		got := ""
		for _, v := range found {
			got += v.ID + " fixed " + v.Fixed
		}
		if err != nil || got != tt.want {
			t.Errorf("%s %s in %s: %q, %v; want %q", tt.name, tt.version, tt.release, got, err, tt.want)
		}
	}
	if _, err := db.Affecting("noble", nil); command.Status(err) != command.StatusUsage {
		t.Errorf("another distribution: %v", err)
	}
}

// A list, an archive and records one after the other say the same.
func TestForms(t *testing.T) {
	packages := []Source{{"bash", "1"}, {"curl", "1.0"}}
	want, err := load(t, bash+many)
	if err != nil {
		t.Fatal(err)
	}
	expected, err := want.Affecting("bookworm", packages)
	if err != nil || len(expected) != 2 {
		t.Fatal(expected, err)
	}
	list, err := load(t, "\n["+bash+","+strings.ReplaceAll(many, "\n{", ",\n{")+"]")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "all.zip")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for name, text := range map[string]string{"DSA-1.json": bash, "DSA-2.json": many, "README": "hello"} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	archive, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, db := range []*DB{list, archive} {
		got, err := db.Affecting("12", packages)
		if d := cmp.Diff(expected, got); err != nil || d != "" {
			t.Errorf("%v\n%s", err, d)
		}
	}
}

func TestBadDatabases(t *testing.T) {
	for _, text := range []string{"", "hello", "[", `[{"id":"A"}`, `{"id":""}`, `{"id":"a\nb"}`, `{"id":1}`, `{"id":"A","affected":{}}`} {
		if _, err := load(t, text); command.Status(err) != command.StatusUsage || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a directory is a database")
	}
}
