package fat

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// made makes a volume with mkfs.vfat and mtools.
func made(t testing.TB, files map[string]string, args ...string) []byte {
	t.Helper()
	testenv.Need(t, "mkfs.vfat", "mcopy", "mmd")
	img := filepath.Join(t.TempDir(), "img")
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", name, args, err, out)
		}
	}
	run("mkfs.vfat", append(args, "-C", img, "40960")...)
	dirs := map[string]bool{}
	for _, path := range slices.Sorted(maps.Keys(files)) { // so that it is the same each time
		for i, c := range path {
			if c == '/' && !dirs[path[:i]] {
				dirs[path[:i]] = true
				run("mmd", "-i", img, "::"+path[:i])
			}
		}
		src := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(src, []byte(files[path]), 0o644); err != nil {
			t.Fatal(err)
		}
		run("mcopy", "-i", img, src, "::"+path)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadOthersVolumes(t *testing.T) {
	files := map[string]string{
		"meta-data": "instance-id: i\n", "USER.TXT": "u", "empty": "", "big": strings.Repeat("0123456789abcdef", 50_000),
		"openstack/latest/meta_data.json": "{}", "a name of more than thirteen letters.json": "long", "name with é.txt": "accent",
	}
	for i := range 300 { // the directory takes several clusters
		files[fmt.Sprintf("many/file number %d", i)] = fmt.Sprint(i)
	}
	for _, args := range [][]string{{"-F", "12"}, {"-F", "16"}, {"-F", "32", "-s", "1"}, {}} {
		v, err := Open(bytes.NewReader(made(t, files, append(args, "-n", "CIDATA")...)))
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		if v.Label() != "CIDATA" {
			t.Errorf("%v: label %q", args, v.Label())
		}
		for path, want := range files {
			got, err := v.ReadFile(path, 1<<20)
			if err != nil || string(got) != want {
				t.Errorf("%v: %s: %d bytes, %v; want %d", args, path, len(got), err, len(want))
			}
		}
		if got, err := v.ReadFile("META-DATA", 100); err != nil || string(got) != files["meta-data"] {
			t.Errorf("%v: in another case: %q, %v", args, got, err)
		}
		for _, path := range []string{"none", "openstack/none", "meta-data/x", "", "openstack/", "CIDATA"} {
			if _, err := v.ReadFile(path, 100); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v: %q: %v; want that it is not there", args, path, err)
			}
		}
		if _, err := v.ReadFile("openstack", 100); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%v: a directory: %v", args, err)
		}
		if _, err := v.ReadFile("big", 1000); err == nil || !strings.Contains(err.Error(), "larger than 1000 bytes") {
			t.Errorf("%v: a large file: %v", args, err)
		}
	}
	for name, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 4096)} {
		if _, err := Open(bytes.NewReader(b)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A chain of clusters that bites its tail ends all the same.
func TestReadLoop(t *testing.T) {
	b := made(t, map[string]string{"f": strings.Repeat("x", 100_000), "d/x": "y"}, "-F", "16")
	v, err := Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for i := v.fatStart + 4; i < v.fatStart+2000; i += 2 { // every cluster is followed by cluster 2
		b[i], b[i+1] = 2, 0
	}
	if got, err := v.ReadFile("f", 1<<20); err != nil || len(got) != 100_000 {
		t.Errorf("a looping file: %d bytes, %v", len(got), err)
	}
	if _, err := v.ReadFile("d/none", 1<<20); err == nil {
		t.Error("a file in a looping directory is there")
	}
}

// patched is a volume with some bytes changed, which is not copied for that.
type patched struct{ base, patches []byte }

func (p patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.base).ReadAt(b, off)
	for rest := p.patches; len(rest) >= 4; rest = rest[4:] {
		at := int64(rest[0])<<16 | int64(rest[1])<<8 | int64(rest[2])
		if at %= 1 << 20; at >= off && at < off+int64(n) {
			b[at-off] = rest[3]
		}
	}
	return n, err
}

// FuzzRead changes bytes of a volume: patches are three bytes that say where,
// and one that says what.
func FuzzRead(f *testing.F) {
	var bases [][]byte
	for _, kind := range []int{12, 16, 32} {
		dir := f.TempDir()
		for name, content := range map[string]string{"meta-data": "i", "goldsmith/metadata.json": "{}", "a long name/of a file": strings.Repeat("x", 3000)} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				f.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				f.Fatal(err)
			}
		}
		tr, err := tree.FromDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		var m memory
		if _, err := Write(&m, tr, Options{Label: "CIDATA", Type: kind}); err != nil {
			f.Fatal(err)
		}
		bases = append(bases, m.b)
	}
	f.Add(byte(0), []byte{})
	f.Add(byte(2), []byte{0, 0, 44, 3})
	f.Fuzz(func(t *testing.T, which byte, patches []byte) {
		v, err := Open(patched{bases[int(which)%len(bases)], patches})
		if err != nil {
			return
		}
		v.Label()
		for _, path := range []string{"meta-data", "goldsmith/metadata.json", "a long name/of a file", "none/x"} {
			if b, err := v.ReadFile(path, 1<<20); err == nil && len(b) > 1<<20 {
				t.Errorf("%s: %d bytes", path, len(b))
			}
		}
	})
}
