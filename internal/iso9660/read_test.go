package iso9660

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
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

// volumes are what follows byte 32768 of images that xorriso made, with Rock
// Ridge and Joliet, and with Joliet only; without the zeros at the end.
func volumes(t testing.TB) [][]byte {
	t.Helper()
	var all [][]byte
	for _, name := range []string{"both", "joliet"} {
		f, err := os.Open("testdata/" + name + ".gz")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, slices.Concat(make([]byte, primaryAt*SectorSize), b, make([]byte, SectorSize)))
	}
	return all
}

// FuzzRead changes bytes of a volume: patches are three bytes that say where,
// and one that says what.
func FuzzRead(f *testing.F) {
	bases := volumes(f)
	f.Add(byte(0), []byte{})
	f.Add(byte(1), []byte{0, 0, 190, 1})
	f.Fuzz(func(t *testing.T, which byte, patches []byte) {
		image := slices.Clone(bases[int(which)%len(bases)])
		for ; len(patches) >= 4; patches = patches[4:] {
			at := int(patches[0])<<16 | int(patches[1])<<8 | int(patches[2])
			image[primaryAt*SectorSize+at%(len(image)-primaryAt*SectorSize)] = patches[3]
		}
		v, err := Open(bytes.NewReader(image))
		if err != nil {
			return
		}
		v.Label()
		for _, path := range []string{"meta-data", "goldsmith/metadata.json", "link", strings.Repeat("long", 55), "none/x"} {
			if b, err := v.ReadFile(path, 1<<20); err == nil && len(b) > 1<<20 {
				t.Errorf("%s: %d bytes", path, len(b))
			}
		}
	})
}
