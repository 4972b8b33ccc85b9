package iso9660

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/testenv"
)

func sample() Volume {
	return Volume{
		Label: "DEMO_1", Size: 2 << 20, Time: time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC), Boot: "ESP.IMG",
		Files: []File{{"ROOT.EROFS", 1 << 20, 5000}, {"ESP.IMG", HeadSize, 70000}},
	}
}

// write makes an image whose files hold their own names over and over.
func write(t *testing.T, v Volume) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(v.Size); err != nil {
		t.Fatal(err)
	}
	for _, file := range v.Files {
		if _, err := f.WriteAt(content(file), file.Start); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteHead(f, v); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func content(f File) []byte { return bytes.Repeat([]byte(f.Name), int(f.Size))[:f.Size] }

// xorriso finds the volume, its boot image and its files.
func TestXorrisoAgrees(t *testing.T) {
	testenv.Need(t, "xorriso")
	v := sample()
	image := write(t, v)
	dir := t.TempDir()
	out, err := exec.Command("xorriso", "-abort_on", "WARNING", "-indev", image, "-report_el_torito", "plain", "-lsl", "/", "--",
		"-osirrox", "on", "-extract", "/", filepath.Join(dir, "files")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"Volume id    : 'DEMO_1'", "El Torito boot img :   1  UEFI  y   none", "'ROOT.EROFS'", "'ESP.IMG'", "'BOOT.CAT'"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	for _, f := range v.Files {
		if got, _ := os.ReadFile(filepath.Join(dir, "files", f.Name)); !bytes.Equal(got, content(f)) {
			t.Errorf("%s: %d bytes, not its content", f.Name, len(got))
		}
	}
}

// Firmware adds up the catalog's first entry, which must give zero; xorriso
// does not.
func TestCatalog(t *testing.T) {
	v := sample()
	b := v.catalog()
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	if sum != 0 {
		t.Errorf("the sum is %#x", sum)
	}
	v.Files[1].Size = 40 << 20
	if n := binary.LittleEndian.Uint16(v.catalog()[38:]); n != 0 {
		t.Errorf("a size that the field cannot hold is %d", n)
	}
}

func TestSameBytes(t *testing.T) {
	a, _ := os.ReadFile(write(t, sample()))
	b, _ := os.ReadFile(write(t, sample()))
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Error("two writes differ")
	}
}

func TestRefusals(t *testing.T) {
	for name, change := range map[string]func(*Volume){
		"label":        func(v *Volume) { v.Label = "demo" },
		"size":         func(v *Volume) { v.Size++ },
		"year":         func(v *Volume) { v.Time = time.Time{} },
		"no boot file": func(v *Volume) { v.Boot = "X.IMG" },
		"file name":    func(v *Volume) { v.Files[0].Name = "root.img" },
		"name twice":   func(v *Volume) { v.Files[0].Name = "ESP.IMG" },
		"overlap head": func(v *Volume) { v.Files[0].Start = 2048 },
		"beyond end":   func(v *Volume) { v.Files[0].Size = 2 << 20 },
		"alignment":    func(v *Volume) { v.Files[0].Start += 512 },
		"large file":   func(v *Volume) { v.Size, v.Files[0].Size = 8<<30, 4<<30 },
	} {
		v := sample()
		change(&v)
		if err := WriteHead(nil, v); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestLabel(t *testing.T) {
	for in, want := range map[string]string{"demo-1.2": "DEMO_1_2", "ä": "_", strings.Repeat("x", 40): strings.Repeat("X", 32)} {
		if got := Label(in); got != want {
			t.Errorf("Label(%q) = %q; want %q", in, got, want)
		}
	}
}
