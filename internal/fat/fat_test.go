package fat

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

var day = time.Date(2026, 3, 4, 5, 6, 8, 0, time.UTC)

// memory is a volume in memory that grows.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := off + int64(len(p)); need > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, need-int64(len(m.b)))...)
	}
	return copy(m.b[off:], p), nil
}

// write makes an image file and checks it with fsck.fat.
func write(t testing.TB, tr *tree.Tree, o Options) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	writeTo(t, img, tr, o)
	return img
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

func writeTo(t fataler, img string, tr *tree.Tree, o Options) {
	t.Helper()
	f, err := os.Create(img)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer f.Close()
	n, err := Write(f, tr, o)
	if err != nil {
		t.Fatalf("Write: %v", err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != n {
		t.Fatalf("image is %d bytes, Write said %d (%v)", fi.Size(), n, err)
	}
	fsck(t, img)
}

// fsck wants two lines: the version and the summary.
func fsck(t fataler, img string) {
	t.Helper()
	var b bytes.Buffer
	err := command.Exec{Args: []string{"fsck.fat", "-n", "-v", img}, Stdout: &b}.Run(context.Background())
	if err != nil {
		t.Fatalf("fsck.fat: %v\n%s", err, b.String())
	}
	out, err := command.Exec{Args: []string{"fsck.fat", "-n", img}}.Output(context.Background())
	if lines := strings.Count(string(out), "\n"); err != nil || lines != 2 {
		t.Fatalf("fsck.fat complains: %v\n%s", err, out)
	}
}

func mtools(t fataler, args ...string) string {
	t.Helper()
	out, err := command.Exec{Args: args, Env: append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8")}.Output(context.Background())
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

func sample() *tree.Tree {
	t := tree.New()
	t.AddFile("EFI/BOOT/BOOTX64.EFI", 0o644, bytes.Repeat([]byte("efi program "), 4000)).ModTime = day
	t.AddFile("EFI/BOOT/grub.cfg", 0o644, []byte("set timeout=0\n"))
	t.AddFile("loader/entries/debian-6.1.0-18-amd64+3.conf", 0o644, []byte("title Debian\n"))
	t.AddFile("loader/entries/debian-6.1.0-18-cloud-amd64.conf", 0o644, []byte("title Debian cloud\n"))
	t.AddFile("empty", 0o644, nil)
	t.AddFile("META-DATA", 0o644, []byte("{}"))
	t.AddFile("Übergröße für alle.txt", 0o644, []byte("long"))
	t.AddFile(strings.Repeat("n", 255), 0o644, []byte("x"))
	t.AddParents("a/b/c/d/file")
	for i := range 300 {
		t.AddFile(fmt.Sprintf("many/a file with number %03d.txt", i), 0o644, []byte{byte(i)})
	}
	return t
}

func TestTypes(t *testing.T) {
	testenv.Need(t, "fsck.fat")
	testenv.Need(t, "mcopy")
	for _, c := range []struct {
		name string
		o    Options
		kind string
		size int64 // 0: not checked
	}{
		{"smallest", Options{}, "12-bit", 0},
		{"smallest 16", Options{Type: 16}, "16-bit", 0},
		{"smallest 32", Options{Type: 32}, "32-bit", 0},
		{"1 MiB", Options{Size: 1 << 20}, "12-bit", 1 << 20},
		{"12 of 3 MiB", Options{Type: 12, Size: 3 << 20}, "12-bit", 3 << 20},
		{"odd size", Options{Size: 5<<20 + 700}, "16-bit", 5<<20 + 512},
		{"16 of 400 MiB", Options{Type: 16, Size: 400 << 20}, "16-bit", 400 << 20},
		{"esp", Options{Size: 33 << 20, Label: "esp"}, "32-bit", 33 << 20},
		{"esp, 260 MiB", Options{Size: 260 << 20, Label: "ESP"}, "32-bit", 260 << 20},
		{"esp, over 260 MiB", Options{Size: 261 << 20, Label: "ESP"}, "32-bit", 261 << 20},
		{"esp, 4 GiB", Options{Size: 4 << 30, Label: "ESP"}, "32-bit", 4 << 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.VolumeID, c.o.Time = 0x1234abcd, day
			img := write(t, sample(), c.o)
			if fi, _ := os.Stat(img); c.size != 0 && fi.Size() != c.size {
				t.Errorf("size = %d; want %d", fi.Size(), c.size)
			}
			info := mtools(t, "minfo", "-i", img, "::")
			if bits := strings.TrimSuffix(c.kind, "-bit"); !strings.Contains(info, "disk type=\"FAT"+bits) {
				t.Errorf("minfo does not say FAT%s:\n%s", bits, info)
			}
			if !strings.Contains(info, "serial number: 1234ABCD") {
				t.Errorf("minfo does not show the serial number:\n%s", info)
			}
			dir := t.TempDir()
			mtools(t, "mcopy", "-i", img, "-s", "-Q", "::/*", dir)
			compare(t, sample(), dir)
		})
	}
}

// compare checks that dir holds what tr does.
func compare(t fataler, tr *tree.Tree, dir string) {
	t.Helper()
	got, err := tree.FromDir(dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, e := range tr.All() {
		g := got.Lookup(e.Path)
		if g == nil || g.IsDir() != e.IsDir() {
			t.Fatalf("%q is not there", e.Path)
		}
		if e.IsDir() {
			continue
		}
		want, _ := e.ReadFile()
		if have, err := g.ReadFile(); err != nil || !bytes.Equal(have, want) {
			t.Fatalf("%q: content differs (%v)", e.Path, err)
		}
	}
	if got.Len() != tr.Len() {
		t.Fatalf("%d entries; want %d", got.Len(), tr.Len())
	}
}

func TestLabelAndTimes(t *testing.T) {
	testenv.Need(t, "fsck.fat")
	testenv.Need(t, "mcopy")
	for _, kind := range []int{12, 16, 32} {
		img := write(t, sample(), Options{Type: kind, Label: "cidata", Time: day.AddDate(-1, 0, 0)})
		if got := mtools(t, "mlabel", "-s", "-i", img, "::"); !strings.Contains(got, "CIDATA") {
			t.Errorf("FAT%d: label: %q", kind, got)
		}
		got := mtools(t, "mdir", "-i", img, "::/EFI/BOOT")
		for _, want := range []string{"BOOTX64  EFI     48000 2026-03-04   5:06", "GRUB     CFG        14 2025-03-04   5:06  grub.cfg"} {
			if !strings.Contains(got, want) {
				t.Errorf("FAT%d: mdir shows no %q:\n%s", kind, want, got)
			}
		}
	}
}

func TestSameBytes(t *testing.T) {
	var first, second memory
	for _, m := range []*memory{&first, &second} {
		if _, err := Write(m, sample(), Options{Type: 32, Label: "ESP", VolumeID: 7}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.b, second.b) {
		t.Error("the same tree gave different bytes")
	}
}

func TestErrors(t *testing.T) {
	file := func(names ...string) *tree.Tree {
		tr := tree.New()
		for _, n := range names {
			tr.AddFile(n, 0o644, []byte("x"))
		}
		return tr
	}
	link := tree.New()
	link.Add(&tree.Entry{Path: "l", Mode: tree.ModeSymlink, Target: "x"})
	fifo := tree.New()
	fifo.Add(&tree.Entry{Path: "p", Mode: tree.ModeFIFO})
	huge := tree.New()
	huge.Add(&tree.Entry{Path: "h", Mode: tree.ModeRegular, Size: 1 << 32})
	big := tree.New()
	big.AddFile("b", 0o644, make([]byte, 1<<20))
	for _, c := range []struct {
		name string
		t    *tree.Tree
		o    Options
		want string
	}{
		{"colon", file("a:b"), Options{}, "a:b: a name on FAT cannot hold ':'"},
		{"dot", file("a."), Options{}, "a.: a name on FAT cannot begin with a space"},
		{"case", file("d/Same", "d/same"), Options{}, "d/same: FAT cannot tell it from d/Same"},
		{"long", file(strings.Repeat("x", 256)), Options{}, "longer than 255"},
		{"not UTF-8", file("a\xff"), Options{}, "must be UTF-8"},
		{"link", link, Options{}, "l: FAT cannot hold a symbolic link"},
		{"fifo", fifo, Options{}, "p: FAT holds files and directories only"},
		{"huge", huge, Options{}, "h: 4294967296 bytes are more"},
		{"label", file("a"), Options{Label: "much too long"}, "at most 11"},
		{"label bytes", file("a"), Options{Label: "a*b"}, "cannot hold '*'"},
		{"full", big, Options{Size: 512 << 10}, "FAT12 volume of 524288 bytes: the content needs 1048576 bytes, 50"},
		{"full 32", big, Options{Size: 40 << 20, Type: 12}, ""},
		{"type", file("a"), Options{Type: 13}, "fat type 13"},
		{"32 too small", file("a"), Options{Type: 32, Size: 20 << 20}, "FAT32 volume of 20971520 bytes: this type cannot"},
		{"16 too large", file("a"), Options{Type: 16, Size: 8 << 30}, "FAT16 volume of 8589934592 bytes: this type cannot"},
		{"negative", file("a"), Options{Size: -1}, "not between"},
		{"tiny", file("a"), Options{Size: 1024}, "the content needs 512 bytes, 0 are available"},
	} {
		_, err := Write(&memory{}, c.t, c.o)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v; want %q", c.name, err, c.want)
		}
	}
}

func TestShortNames(t *testing.T) {
	tr := tree.New()
	names := []string{"README", "readme.txt", "a.b.c", ".profile", "two words.txt", "longer than eight.jpeg",
		"longer than nine.jpeg", "LONGER~1.JPE", "ÄÖ", "...x", "a+b"}
	for _, n := range names {
		tr.AddFile(n, 0o644, nil)
	}
	root, err := newNodes(tr)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"README": "README     ", "readme.txt": "README  TXT", "a.b.c": "AB~1    C  ", ".profile": "PROFIL~1   ",
		"two words.txt": "TWOWOR~1TXT", "longer than eight.jpeg": "LONGER~2JPE", "longer than nine.jpeg": "LONGER~3JPE",
		"LONGER~1.JPE": "LONGER~1JPE", "ÄÖ": "__~1       ", "...x": "X~1        ", "a+b": "A_B~1      ",
	}
	for _, n := range root.children {
		if string(n.short[:]) != want[n.name] {
			t.Errorf("short name of %q = %q; want %q", n.name, n.short, want[n.name])
		}
		if short := n.long == nil; short != (n.name == "README" || n.name == "LONGER~1.JPE") {
			t.Errorf("%q: no long name: %v", n.name, short)
		}
	}
}

func TestManyAlike(t *testing.T) {
	tr := tree.New()
	for i := range 12000 {
		tr.AddFile(fmt.Sprintf("the same beginning %d.conf", i), 0o644, nil)
	}
	start := time.Now()
	root, err := newNodes(tr)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[11]byte]bool{}
	for _, n := range root.children {
		if seen[n.short] {
			t.Fatalf("%q is there twice", n.short)
		}
		seen[n.short] = true
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
}

// TestReadBack writes random trees and reads them with mtools.
func TestReadBack(t *testing.T) {
	testenv.Need(t, "fsck.fat")
	testenv.Need(t, "mcopy")
	base := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.StringMatching(`[a-zA-Z0-9_.+é~-]{0,30}[a-zA-Z0-9é]`)
		tr := tree.New()
		used := map[string]string{}
		for range rapid.IntRange(0, 12).Draw(r, "files") {
			p := name.Draw(r, "name")
			for range rapid.IntRange(0, 2).Draw(r, "depth") {
				p += "/" + name.Draw(r, "name")
			}
			if !free(used, p) {
				continue
			}
			data := make([]byte, rapid.IntRange(0, 20000).Draw(r, "size"))
			for i := range data {
				data[i] = byte(i*7 + len(p))
			}
			tr.AddFile(p, 0o644, data)
		}
		o := Options{Type: rapid.SampledFrom([]int{0, 12, 16, 32}).Draw(r, "type"), Label: rapid.SampledFrom([]string{"", "X Y", "ESP"}).Draw(r, "label")}
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			r.Fatalf("%v", err)
		}
		defer os.RemoveAll(dir)
		img := filepath.Join(dir, "img")
		writeTo(r, img, tr, o)
		out := filepath.Join(dir, "out")
		if err := os.Mkdir(out, 0o755); err != nil {
			r.Fatalf("%v", err)
		}
		if tr.Len() > 1 {
			mtools(r, "mcopy", "-i", img, "-s", "-Q", "::/*", out)
		}
		compare(r, tr, out)
	})
}

// free tells whether a path can be added next to the paths in used, which is
// by upper-case path, and marks it and its directories as taken.
func free(used map[string]string, p string) bool {
	if used[strings.ToUpper(p)] != "" {
		return false
	}
	mark := map[string]string{strings.ToUpper(p): p}
	for d := filepath.Dir(p); d != "."; d = filepath.Dir(d) {
		up := strings.ToUpper(d)
		if have := used[up]; have != "" && have != d+"/" {
			return false
		}
		mark[up] = d + "/"
	}
	maps.Copy(used, mark)
	return true
}

func BenchmarkWrite(b *testing.B) {
	tr := tree.New()
	data := bytes.Repeat([]byte("0123456789abcdef"), 4<<20/16)
	for i := range 16 {
		tr.AddFile(fmt.Sprintf("kernel %d", i), 0o644, data)
	}
	img := filepath.Join(b.TempDir(), "img")
	b.SetBytes(16 * int64(len(data)))
	for b.Loop() {
		f, err := os.Create(img)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Write(f, tr, Options{Size: 200 << 20}); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// Offset says where Write puts a file.
func TestOffset(t *testing.T) {
	for _, o := range []Options{{Type: 12}, {Type: 16, Label: "X"}, {Type: 32, Size: 40 << 20}, {Size: 300 << 20, Type: 32}} {
		var m memory
		if _, err := Write(&m, sample(), o); err != nil {
			t.Fatal(err)
		}
		for path, size := range map[string]int{"EFI/BOOT/BOOTX64.EFI": 48000, "META-DATA": 2} {
			at, err := Offset(sample(), o, path)
			want, _ := sample().Lookup(path).ReadFile()
			if err != nil || len(want) != size || !bytes.Equal(m.b[at:at+int64(size)], want) {
				t.Errorf("%+v: %s is not at %d; %v", o, path, at, err)
			}
		}
	}
	for _, path := range []string{"empty", "EFI", "nowhere"} {
		if at, err := Offset(sample(), Options{}, path); err == nil {
			t.Errorf("%s: at %d", path, at)
		}
	}
}
