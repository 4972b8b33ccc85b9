package imagebuild

import (
	"bufio"
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// environOf is a build's environment, given as words NAME=value; EXT4 is short
// for such a root, EFI for an image with the element block-device-efi.
func environOf(words string) map[string]string {
	env := map[string]string{"DIB_ROOT_FSTYPE": "xfs", "IMAGE_ELEMENT": "base vm"}
	for _, w := range strings.Fields(words) {
		switch name, value, _ := strings.Cut(w, "="); w {
		case "EFI":
			env["IMAGE_ELEMENT"] = "base block-device-efi vm"
		case "EXT4":
			env["DIB_ROOT_FSTYPE"] = "ext4"
		default:
			env[name] = value
		}
	}
	return env
}

// The sizes in KiB were worked out by hand, as the original's script does.
func TestNeededSize(t *testing.T) {
	for _, c := range []struct {
		used int64
		env  string
		want int64
	}{
		{600_000, "", 1_000_000},     // 600000 / 0.6, which is 15625 * 64
		{600_001, "", 1_000_064},     // 1000001, rounded up
		{599_999, "", 1_000_000},     // 999998
		{1, "", 64},                  // 1
		{39, "", 128},                // 65
		{38, "", 64},                 // 63
		{600_000, "EXT4", 1_065_536}, // + 64 * 1024 = 16649 * 64
		{600_000, "EXT4 DIB_JOURNAL_SIZE=128", 1_131_072},          // + 128 * 1024 = 17673 * 64
		{600_000, "DIB_JOURNAL_SIZE=128", 1_000_000},               // of ext4 only
		{600_000, "EFI", 1_537_600},                                // + 525 * 1024 = 24025 * 64
		{600_000, "EFI EXT4", 1_603_136},                           // both = 25049 * 64
		{600_000, "DIB_IMAGE_EXTRA_SIZE=500", 1_112_000},           // 600000 + 500 * 1024 = 17375 * 64
		{600_000, "DIB_IMAGE_EXTRA_SIZE=0.5", 600_512},             // 600000 + 512 = 9383 * 64
		{600_000, "DIB_IMAGE_EXTRA_SIZE=0", 600_000},               // 9375 * 64
		{600_000, "DIB_IMAGE_EXTRA_SIZE=500 EXT4", 1_177_536},      // + 64 * 1024 = 18399 * 64
		{600_000, "DIB_IMAGE_EXTRA_SIZE=0.0001 EXT4", 665_536},     // 600000 + 0 + 65536 = 10399 * 64
		{600_000, "DIB_IMAGE_EXTRA_SIZE=1 EFI EXT4", 1_204_160},    // 600000 + 1024 + 65536 + 537600 = 18815 * 64
		{60_000_000_000, "DIB_IMAGE_EXTRA_SIZE=1", 60_000_001_024}, // 937500016 * 64: no overflow
	} {
		got, err := (&build{}).neededSize(c.used, environOf(c.env))
		if err != nil || got != c.want*1024 {
			t.Errorf("%d KiB, %s: %d KiB and %d bytes, %v; want %d KiB", c.used, c.env, got/1024, got%1024, err, c.want)
		}
	}
	for _, bad := range []string{"-1", "x", "NaN", "Inf", "-Inf", "1e30", "1,5"} {
		got, err := (&build{}).neededSize(600_000, map[string]string{"DIB_IMAGE_EXTRA_SIZE": bad})
		if command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), strconv.Quote(bad)) {
			t.Errorf("DIB_IMAGE_EXTRA_SIZE=%s: %d, %v", bad, got, err)
		}
	}
}

func TestPadded(t *testing.T) {
	for _, c := range []struct {
		kib   int64
		env   string
		asked bool
		want  int64 // KiB
	}{
		{6400, "", false, 6400}, {6401, "", false, 6464}, {6463, "", false, 6464},
		{6400, "EXT4", false, 71_936}, {6400, "EXT4", true, 6400}, // nobody's size has a journal on top
		{6400, "EFI", false, 544_000}, {6400, "EFI EXT4", true, 544_000}, // but room for the EFI partition
	} {
		if got := (&build{}).padded(c.kib, environOf(c.env), c.asked); got != c.want*1024 {
			t.Errorf("%d KiB, %s, asked for %v: %d KiB and %d bytes; want %d KiB",
				c.kib, c.env, c.asked, got/1024, got%1024, c.want)
		}
	}
}

func TestAskedSize(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		size, env string
		want      int64 // bytes
	}{
		{"", "", 0},
		{"3GiB", "DIB_IMAGE_SIZE=5 EFI", 3 * gib}, // the definition's is taken as it is
		{"", "DIB_IMAGE_SIZE=4", 4 * gib},
		{"", "DIB_IMAGE_SIZE=4 EXT4 DIB_JOURNAL_SIZE=512", 4 * gib},
		{"", "DIB_IMAGE_SIZE=2.5", 2_684_354_560},
		{"", "DIB_IMAGE_SIZE=0.1", 104_896 << 10}, // 104857.6 KiB, of which 1639 times 64
		{"", "DIB_IMAGE_SIZE=4 EFI", 4*gib + 525<<20},
	} {
		b := &build{def: &Definition{Size: c.size}}
		if got, err := b.askedSize(environOf(c.env)); err != nil || got != c.want {
			t.Errorf("%q, %s: %d, %v; want %d", c.size, c.env, got, err, c.want)
		}
	}
	for _, bad := range []string{"NaN", "Inf", "+Inf", "-Inf", "0", "-4", "4G", "1e30", "four", "4,5", "1048577"} {
		got, err := (&build{def: &Definition{}}).askedSize(map[string]string{"DIB_IMAGE_SIZE": bad})
		if command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), strconv.Quote(bad)) {
			t.Errorf("DIB_IMAGE_SIZE=%s: %d, %v", bad, got, err)
		}
	}
}

func TestJournal(t *testing.T) {
	for text, want := range map[string]int64{"": 64, "64": 64, "4": 4, "1024": 1024} {
		if got := journal(map[string]string{"DIB_JOURNAL_SIZE": text}); got != want {
			t.Errorf("%q: %d MiB; want %d", text, got, want)
		}
	}
	if got := journal(nil); got != 64 {
		t.Errorf("without a setting: %d MiB", got)
	}
}

// duTree is a tree with all that du counts in its own way.
func duTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	at := func(p string) string { return filepath.Join(root, p) }
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	do(os.MkdirAll(at("usr/share/empty"), 0o755))
	do(os.MkdirAll(at("var/lib"), 0o755))
	for name, size := range map[string]int{
		"usr/none": 0, "usr/one": 1, "usr/page": 4096, "usr/more": 4097, "usr/share/large": 3 << 20,
		"var/lib/linked": 700_000, "var/inside": 100_000,
	} {
		do(os.WriteFile(at(name), bytes.Repeat([]byte("x"), size), 0o644))
	}
	do(os.WriteFile(at("var/sparse"), []byte("x"), 0o644))
	do(os.Truncate(at("var/sparse"), 1<<40))
	do(os.Link(at("var/lib/linked"), at("var/lib/again")))
	do(os.Link(at("var/lib/linked"), at("usr/elsewhere")))
	do(os.Link(at("var/inside"), at("var/inside2")))
	do(os.Symlink("none", at("usr/link")))
	do(os.Symlink(strings.Repeat("long/", 200), at("usr/long-link")))
	do(os.Symlink("/", at("out")))
	do(unix.Mkfifo(at("var/pipe"), 0o600))
	for i := range 300 { // a directory of several blocks
		do(os.WriteFile(at("usr/share/empty/"+strings.Repeat("n", 100)+strconv.Itoa(i)), nil, 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return root
}

// du is what du(1) says of a tree, in KiB by path, and as the total.
func du(t *testing.T, root string) (kib map[string]int64, total int64) {
	t.Helper()
	testenv.Need(t, "du")
	cmd := exec.Command("du", "-a", "-c", "-x", "-k", ".")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	kib = map[string]int64{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		n, name, _ := strings.Cut(lines.Text(), "\t")
		if total, err = strconv.ParseInt(n, 10, 64); err != nil {
			t.Fatal(err)
		}
		kib[filepath.Clean(name)] = total
	}
	delete(kib, "total")
	return kib, total
}

// Of a tree, we and du say the same.
func TestDiskUsage(t *testing.T) {
	root := duTree(t)
	used, err := diskUsage(root)
	if err != nil {
		t.Fatal(err)
	}
	want, total := du(t, root)
	if used.kib["."] != total || total < 3000 || total > 100_000 {
		t.Errorf("%d KiB; du says %d", used.kib["."], total)
	}
	// Which of a file's names counts is up to the order of reading.
	got := maps.Clone(used.kib)
	for _, m := range []map[string]int64{got, want} {
		names := "var/lib/linked var/lib/again usr/elsewhere var/inside var/inside2 usr var var/lib"
		for p := range strings.FieldsSeq(names) {
			delete(m, p)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-du +ours):\n%s", diff)
	}
	if _, err := diskUsage(filepath.Join(root, "nowhere")); err == nil {
		t.Error("a tree that is not there has a size")
	}
}

// What is mounted in a tree is no part of it.
func TestDiskUsageOfMounts(t *testing.T) {
	testenv.NeedRoot(t)
	root := t.TempDir()
	at := filepath.Join(root, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=4m"); err != nil {
		testenv.Missing(t, "no tmpfs can be mounted: "+err.Error())
	}
	defer func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	err := errors.Join(os.WriteFile(filepath.Join(at, "file"), make([]byte, 1<<20), 0o644),
		os.WriteFile(filepath.Join(root, "file"), make([]byte, 5000), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	used, err := diskUsage(root)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := du(t, root)
	if diff := cmp.Diff(want, used.kib); diff != "" {
		t.Errorf("(-du +ours):\n%s", diff)
	}
}
