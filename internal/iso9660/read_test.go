package iso9660

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

// made makes an image with xorriso.
func made(t testing.TB, files map[string]string, args ...string) []byte {
	t.Helper()
	testenv.Need(t, "xorriso")
	dir, img := t.TempDir(), filepath.Join(t.TempDir(), "img")
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	all := append([]string{"-as", "mkisofs", "-quiet", "-V", "cidata", "-o", img}, args...)
	if out, err := exec.Command("xorriso", append(all, dir)...).CombinedOutput(); err != nil {
		t.Fatalf("xorriso %s: %v: %s", all, err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadOthersVolumes(t *testing.T) {
	files := map[string]string{
		"meta-data": "instance-id: i\n", "user.txt": "u", "empty": "", "big": strings.Repeat("0123456789abcdef", 50_000),
		"openstack/latest/meta_data.json": "{}", strings.Repeat("long", 60) + ".json": "long", "é.txt": "accent",
	}
	for i := range 300 {
		files[fmt.Sprintf("many/file number %d", i)] = fmt.Sprint(i)
	}
	for name, args := range map[string][]string{
		"rock ridge": {"-R"}, "both": {"-R", "-J"}, "joliet": {"-J", "-joliet-long", "--norock"}, "plain": {"--norock", "-iso-level", "3"},
	} {
		v, err := Open(bytes.NewReader(made(t, files, args...)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if v.Label() != "cidata" && v.Label() != "CIDATA" {
			t.Errorf("%s: label %q", name, v.Label())
		}
		for path, want := range files {
			if name == "plain" && strings.ContainsAny(path, "-é ") || name != "rock ridge" && name != "both" && len(path) > 100 {
				continue // names that the form cannot hold
			}
			got, err := v.ReadFile(path, 1<<20)
			if err != nil || string(got) != want {
				t.Errorf("%s: %s: %d bytes, %v; want %d", name, path, len(got), err, len(want))
			}
		}
		for _, path := range []string{"none", "openstack/none", "user.txt/x", "", "openstack/"} {
			if _, err := v.ReadFile(path, 100); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %q: %v; want that it is not there", name, path, err)
			}
		}
		if _, err := v.ReadFile("openstack", 100); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: a directory: %v", name, err)
		}
		if _, err := v.ReadFile("big", 1000); err == nil || !strings.Contains(err.Error(), "larger than 1000 bytes") {
			t.Errorf("%s: a large file: %v", name, err)
		}
		if b, err := v.ReadFile("link", 1000); err == nil && len(b) > 0 {
			t.Errorf("%s: a link is a file: %q", name, b)
		}
	}
	for name, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 1<<17)} {
		if _, err := Open(bytes.NewReader(b)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	if _, err := exec.LookPath("xorriso"); err == nil {
		for _, args := range [][]string{{"-R"}, {"-J", "--norock"}} {
			b := made(f, map[string]string{"meta-data": "i", "goldsmith/metadata.json": "{}"}, args...)
			f.Add(bytes.TrimRight(b[primaryAt*SectorSize:], "\x00"))
		}
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		v, err := Open(bytes.NewReader(slices.Concat(make([]byte, primaryAt*SectorSize), image, make([]byte, 4*SectorSize))))
		if err != nil {
			return
		}
		v.Label()
		for _, path := range []string{"meta-data", "goldsmith/metadata.json"} {
			if b, err := v.ReadFile(path, 1<<20); err == nil && len(b) > 1<<20 {
				t.Errorf("%s: %d bytes", path, len(b))
			}
		}
	})
}
