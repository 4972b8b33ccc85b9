package baseimage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"goldsmith/internal/tarball"
	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

var sampleTime = time.Unix(1_600_000_000, 0).UTC()

// sampleTree is a small root.
func sampleTree() *tree.Tree {
	t := tree.New()
	t.AddFile("usr/lib/os-release", 0o644, []byte("ID=test\n"))
	t.AddFile("usr/bin/ping", 0o4755, bytes.Repeat([]byte("ping"), 3000)).Xattrs = map[string]string{
		"security.capability": "\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.note": "hi"}
	t.AddFile("srv/mine", 0o600, nil).UID = 1000
	t.Add(&tree.Entry{Path: "bin", Mode: tree.ModeSymlink | 0o777, Target: "usr/bin"})
	t.Add(&tree.Entry{Path: "etc", Mode: tree.ModeDir | 0o755})
	t.Add(&tree.Entry{Path: "etc/os-release", Mode: tree.ModeSymlink | 0o777, Target: "../usr/lib/os-release"})
	t.Add(&tree.Entry{Path: "tmp", Mode: tree.ModeDir | 0o1777})
	t.Add(&tree.Entry{Path: "null", Mode: tree.ModeChar | 0o666, Major: 1, Minor: 3})
	t.Add(&tree.Entry{Path: "usr/bin/ping6", Mode: tree.ModeRegular | 0o4755, LinkTo: "usr/bin/ping"})
	for _, e := range t.All() {
		e.ModTime = sampleTime
	}
	return t
}

// listing describes a tree by path.
func listing(t *testing.T, tr *tree.Tree) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, e := range tr.All() {
		if e.LinkTo != "" {
			out[e.Path] = "link to " + e.LinkTo
			continue
		}
		s := fmt.Sprintf("%o %d:%d %d %q %d,%d %q", e.Mode, e.UID, e.GID, e.ModTime.UnixNano(), e.Target, e.Major, e.Minor, e.Xattrs)
		if e.Kind() == tree.ModeRegular {
			b, err := e.ReadFile()
			if err != nil {
				t.Fatal(err)
			}
			s += fmt.Sprintf(" %.20q %d", b, len(b))
		}
		out[e.Path] = s
	}
	return out
}

func dirListing(t *testing.T, dir string) map[string]string {
	t.Helper()
	tr, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return listing(t, tr)
}

// archive writes a tree as a tar archive.
func archive(t *testing.T, tr *tree.Tree) string {
	t.Helper()
	var b bytes.Buffer
	if err := tarball.Write(t.Context(), &b, tr); err != nil {
		t.Fatal(err)
	}
	return save(t, "root.tar", b.Bytes())
}

func save(t *testing.T, name string, b []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	testenv.Need(t, args[0])
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// extract extracts into a new directory beside which nothing may be left.
func extract(t *testing.T, image string, o Options) (map[string]string, error) {
	t.Helper()
	testenv.NeedRoot(t)
	parent := t.TempDir()
	dir := filepath.Join(parent, "root")
	err := Extract(t.Context(), image, dir, o)
	entries, _ := os.ReadDir(parent)
	if err != nil {
		if len(entries) != 0 {
			t.Errorf("%s: after %v, left: %v", image, err, entries)
		}
		return nil, err
	}
	if len(entries) != 1 {
		t.Errorf("%s: left beside the directory: %v", image, entries)
	}
	return dirListing(t, dir), nil
}

func check(t *testing.T, what, image string, o Options, want map[string]string) {
	t.Helper()
	got, err := extract(t, image, o)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestArchives(t *testing.T) {
	testenv.NeedRoot(t)
	plain := archive(t, sampleTree())
	want := listing(t, sampleTree())
	check(t, "tar", plain, Options{}, want)
	check(t, "URL", "file://"+plain, Options{}, want)
	for _, c := range [][]string{{"gzip", "-k"}, {"zstd", "-q"}, {"xz", "-k"}, {"bzip2", "-k"}} {
		testenv.Need(t, c[0])
		run(t, append(c, plain)...)
	}
	for _, ending := range []string{"gz", "zst", "xz", "bz2"} {
		check(t, ending, plain+"."+ending, Options{}, want)
	}
}

// makeFS makes an ext4 of the sample; its root's time is mke2fs's own.
func makeFS(t *testing.T, kind string) (string, map[string]string) {
	t.Helper()
	testenv.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "root")
	if err := Extract(t.Context(), archive(t, sampleTree()), dir, Options{}); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "fs")
	run(t, "mke2fs", "-q", "-F", "-t", kind, "-d", dir, image, "8M")
	want := listing(t, sampleTree())
	got, err := extract(t, image, Options{}) // without a partition table
	if err != nil {
		t.Fatal(err)
	}
	want["."] = got["."]
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s without a partition table (-want +got):\n%s", kind, diff)
	}
	return image, want
}

// assemble puts file systems into a disk, at multiples of a MiB.
func assemble(t *testing.T, size int64, at map[int64]string) string {
	t.Helper()
	disk := save(t, "disk.raw", nil)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size << 20); err != nil {
		t.Fatal(err)
	}
	for mib, fs := range at {
		b, err := os.ReadFile(fs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, mib<<20); err != nil {
			t.Fatal(err)
		}
	}
	return disk
}

// In whatever form a disk is stored, its root is found and read.
func TestDisks(t *testing.T) {
	fs, want := makeFS(t, "ext4")
	other := filepath.Join(t.TempDir(), "other")
	run(t, "mke2fs", "-q", "-F", "-t", "ext2", other, "12M")
	raw := assemble(t, 40, map[int64]string{1: fs, 20: other})
	run(t, "sgdisk", "-n", "2:1M:+8M", "-n", "1:20M:+12M", raw)
	check(t, "GPT", raw, Options{}, want)
	check(t, "named partition", raw, Options{Partition: 2}, want)
	if _, err := extract(t, raw, Options{Partition: 3}); err == nil || !strings.Contains(err.Error(), "no partition 3") {
		t.Errorf("partition 3: %v", err)
	}
	for _, o := range []string{"compat=0.10", "compat=1.1,compression_type=zstd", "cluster_size=4k"} {
		image := filepath.Join(t.TempDir(), "disk.qcow2")
		run(t, "qemu-img", "convert", "-c", "-O", "qcow2", "-o", o, raw, image)
		check(t, o, image, Options{}, want)
	}
	run(t, "xz", "-k", "-0", raw)
	check(t, "raw.xz", raw+".xz", Options{}, want)
	large := assemble(t, 40, map[int64]string{1: fs, 20: other})
	run(t, "sgdisk", "-n", "1:1M:+8M", "-n", "2:20M:+12M", "-t", "2:4f68bce3-e8cd-4db1-96e7-fbcaf984b709", large)
	if got, err := extract(t, large, Options{}); err != nil || len(got) != 1 { // the empty one is said to be the root
		t.Errorf("a root by its type: %v, %v", got, err)
	}
}

// fstabDisk makes a disk whose root mounts another of its partitions.
func fstabDisk(t *testing.T) string {
	t.Helper()
	root, boot := tree.New(), tree.New()
	root.AddFile("usr/lib/os-release", 0o644, []byte("ID=test\n"))
	root.AddFile("etc/fstab", 0o644, []byte("# comment\nLABEL=root / ext4 defaults 0 1\nUUID=01234567-89ab-cdef-0123-456789abcdef /boot ext4 defaults 0 2\n"+
		"LABEL=nowhere /nowhere ext4 x\nLABEL=efi /boot/efi vfat x\nproc /proc proc\nLABEL=root\n"+
		"LABEL=root /boot2 ext4 x\nUUID=01234567-89ab-cdef-0123-456789abcdef /boot3 ext4 x\n"))
	root.Add(&tree.Entry{Path: "boot", Mode: tree.ModeDir | 0o755})
	boot.AddFile("vmlinuz", 0o600, []byte("kernel"))
	boot.Add(&tree.Entry{Path: "vmlinuz.old", Mode: tree.ModeRegular, LinkTo: "vmlinuz"})
	boot.Add(&tree.Entry{Path: "grub", Mode: tree.ModeDir | 0o700})
	var images []string
	for i, tr := range []*tree.Tree{root, boot} {
		dir, image := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "fs")
		if err := Extract(t.Context(), archive(t, tr), dir, Options{}); err != nil {
			t.Fatal(err)
		}
		id := []string{"-L", "root", "-U", "01234567-89ab-cdef-0123-456789abcdef"}[2*i : 2*i+2]
		run(t, append(append([]string{"mke2fs", "-q", "-F", "-t", "ext4", "-d", dir}, id...), image, "8M")...)
		images = append(images, image)
	}
	disk := assemble(t, 20, map[int64]string{1: images[0], 10: images[1]})
	run(t, "sgdisk", "-n", "1:1M:+8M", "-n", "16:10M:+8M", disk)
	return disk
}

// What the root's fstab mounts is there, too, unless a partition was named.
func TestFstab(t *testing.T) {
	testenv.NeedRoot(t)
	disk := fstabDisk(t)
	for partition, want := range map[int]string{0: "boot boot/grub boot/vmlinuz boot/vmlinuz.old", 1: "boot"} {
		got, err := extract(t, disk, Options{Partition: partition})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range slices.Sorted(maps.Keys(got)) {
			if strings.HasPrefix(p, "boot") {
				names = append(names, p)
			}
		}
		if strings.Join(names, " ") != want || partition == 0 && got["boot/vmlinuz.old"] != "link to boot/vmlinuz" {
			t.Errorf("partition %d: %q; want %s", partition, names, want)
		}
	}
}

// Wherever a disk was cut off, all of its files are there, or none.
func TestCutDisk(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "qemu-img")
	image := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "convert", "-O", "qcow2", "-o", "cluster_size=4k", fstabDisk(t), image)
	fs, _ := makeFS(t, "ext4")
	for whole, step := range map[string]int{image: 4096, fs: 256 << 10} {
		want, err := extract(t, whole, Options{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(whole)
		if err != nil {
			t.Fatal(err)
		}
		for n := len(b) - step; n > 0; n -= step {
			got, err := extract(t, save(t, "cut", b[:n]), Options{})
			if err == nil && !maps.Equal(got, want) {
				t.Errorf("%s, %d bytes of %d: only %d files of %d", filepath.Base(whole), n, len(b), len(got), len(want))
			}
		}
	}
}

// entryAt writes an entry of a DOS partition table.
func entryAt(t *testing.T, disk string, sector int64, n int, kind byte, start, count uint32) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e := make([]byte, 16)
	e[4] = kind
	for i := range 4 {
		e[8+i], e[12+i] = byte(start>>(8*i)), byte(count>>(8*i))
	}
	for off, b := range map[int64][]byte{446 + int64(n)*16: e, 510: {0x55, 0xaa}} {
		if _, err := f.WriteAt(b, sector*512+off); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDOSPartitions(t *testing.T) {
	fs, want := makeFS(t, "ext3")
	const mib = 2048 // sectors
	primary := assemble(t, 16, map[int64]string{2: fs})
	entryAt(t, primary, 0, 1, 0x83, 2*mib, 8*mib)
	check(t, "primary", primary, Options{Partition: 2}, want)
	logical := assemble(t, 32, map[int64]string{20: fs})
	entryAt(t, logical, 0, 0, 0x83, mib, mib)
	entryAt(t, logical, 0, 3, 0x0f, 4*mib, 28*mib)
	entryAt(t, logical, 4*mib, 0, 0x82, 100, 200)
	entryAt(t, logical, 4*mib, 1, 0x05, 10*mib, 18*mib)
	entryAt(t, logical, 14*mib, 0, 0x83, 6*mib, 8*mib)
	check(t, "logical", logical, Options{}, want)
	check(t, "logical by number", logical, Options{Partition: 6}, want)
	entryAt(t, logical, 14*mib, 1, 0x05, 0, mib)
	if _, err := extract(t, logical, Options{}); err == nil || !strings.Contains(err.Error(), "circle") {
		t.Errorf("a chain to its beginning: %v", err)
	}
	entryAt(t, primary, 0, 1, 0x83, 2*mib, 80*mib)
	if _, err := extract(t, primary, Options{}); err == nil || !strings.Contains(err.Error(), "outside of the disk") {
		t.Errorf("a partition beyond the end: %v", err)
	}
}

// What cannot be read is named.
func TestOtherFilesystems(t *testing.T) {
	for name, c := range map[string]struct {
		at    int
		magic string
	}{"xfs": {0, "XFSB"}, "btrfs": {64<<10 + 64, "_BHRfS_M"}, "LVM": {512, "LABELONE"}, "nothing known": {0, "?"}} {
		b := make([]byte, 2<<20)
		copy(b[c.at:], c.magic)
		if _, err := extract(t, save(t, "disk", b), Options{}); err == nil || !strings.Contains(err.Error(), "the disk holds "+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file is taken when all that is known of it is true, and only then.
func TestVerify(t *testing.T) {
	testenv.NeedRoot(t)
	image := archive(t, sampleTree())
	b, _ := os.ReadFile(image)
	s256, s512 := sha256.Sum256(b), sha512.Sum512(b)
	hex256, hex512, wrong := hex.EncodeToString(s256[:]), hex.EncodeToString(s512[:]), strings.Repeat("ab", 32)
	sums := func(lines ...string) Options {
		return Options{Sums: save(t, "SUMS", []byte("# made by hand\n"+strings.Join(lines, "\n")+"\n"))}
	}
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"right":           {Options{SHA256: strings.ToUpper(hex256)}, ""},
		"wrong":           {Options{SHA256: wrong}, "its checksum is " + hex256},
		"no checksum":     {Options{SHA256: "abc"}, "not a SHA-256"},
		"list":            {sums(wrong+"  other", hex256+"  ./root.tar"), ""},
		"binary":          {sums(hex512 + " *root.tar"), ""},
		"BSD":             {sums("SHA512 (root.tar) = " + hex512), ""},
		"both":            {sums(hex256+"  root.tar", hex512+"  root.tar"), ""},
		"wrong in list":   {sums(wrong + "  root.tar"), "its checksum is"},
		"one of them":     {sums(wrong+"  root.tar", hex256+"  root.tar"), "its checksum is"},
		"not in list":     {sums(hex256 + "  other.tar"), "no SHA-256 or SHA-512 of root.tar"},
		"no list":         {Options{Sums: "/nowhere"}, "/nowhere"},
		"without keyring": {Options{Signature: "x"}, "belong together"},
	} {
		_, err := extract(t, image, c.o)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

func TestSignature(t *testing.T) {
	testenv.Need(t, "gpg", "gpgv")
	testenv.NeedRoot(t)
	image := archive(t, sampleTree())
	b, _ := os.ReadFile(image)
	sums := save(t, "SHA256SUMS", fmt.Appendf(nil, "%x  root.tar\n", sha256.Sum256(b)))
	keyring := func() string {
		home, err := os.MkdirTemp("", "gpg") // short: its socket's path has a limit
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
			_ = os.RemoveAll(home)
		})
		gpg := []string{"gpg", "--homedir", home, "--batch", "--yes", "--passphrase", ""}
		run(t, append(gpg, "--quick-generate-key", "test", "ed25519", "sign", "never")...)
		run(t, append(gpg, "--detach-sign", "-o", sums+".gpg", sums)...)
		run(t, append(gpg, "--detach-sign", "-o", image+".gpg", image)...)
		run(t, append(gpg, "--export", "-o", home+"/keyring.gpg")...)
		run(t, append(gpg, "--export", "--armor", "-o", home+"/keyring.asc")...)
		return home + "/keyring.gpg"
	}
	stranger := keyring()
	keys := keyring()
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"list":          {Options{Sums: sums, Signature: sums + ".gpg", Keyring: keys}, ""},
		"image":         {Options{Signature: image + ".gpg", Keyring: keys}, ""},
		"other file":    {Options{Signature: sums + ".gpg", Keyring: keys}, "no good signature"},
		"stranger":      {Options{Sums: sums, Signature: sums + ".gpg", Keyring: stranger}, "no good signature"},
		"no signature":  {Options{Sums: sums, Signature: sums + ".asc", Keyring: keys}, "no good signature"},
		"text keyring":  {Options{Sums: sums, Signature: sums + ".gpg", Keyring: strings.TrimSuffix(keys, "gpg") + "asc"}, "text form"},
		"empty keyring": {Options{Sums: sums, Signature: sums + ".gpg", Keyring: os.DevNull}, "no good signature"},
	} {
		_, err := extract(t, image, c.o)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// What was downloaded is used again, and all there is without a network.
func TestDownload(t *testing.T) {
	b, _ := os.ReadFile(archive(t, sampleTree()))
	var sent atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/root.tar" {
			http.NotFound(w, r)
			return
		}
		if r.Header.Get("If-Modified-Since") == "" {
			sent.Add(1)
		}
		http.ServeContent(w, r, "root.tar", sampleTime, bytes.NewReader(b))
	}))
	want := listing(t, sampleTree())
	cache := t.TempDir()
	url := server.URL + "/root.tar"
	if _, err := extract(t, url, Options{Cache: cache, Offline: true}); err == nil || !strings.Contains(err.Error(), "not in the cache") {
		t.Errorf("offline before the first time: %v", err)
	}
	check(t, "first time", url, Options{Cache: cache, SHA256: fmt.Sprintf("%x", sha256.Sum256(b))}, want)
	check(t, "second time", url, Options{Cache: cache}, want)
	if sent.Load() != 1 {
		t.Errorf("sent %d times", sent.Load())
	}
	if _, err := extract(t, server.URL+"/other", Options{Cache: cache}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("not there: %v", err)
	}
	server.Close()
	check(t, "offline", url, Options{Cache: cache, Offline: true}, want)
}

// Nothing in an archive leads out of the directory.
func TestHostileArchives(t *testing.T) {
	testenv.NeedRoot(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
	}
	for name, c := range map[string]struct {
		headers []tar.Header
		want    string // a path that is there, or of the error
	}{
		"dots":             {[]tar.Header{file("../../x")}, "x"},
		"absolute":         {[]tar.Header{file("/etc/x")}, "etc/x"},
		"through a link":   {[]tar.Header{link("out", outside), file("out/precious")}, outside[1:] + "/precious"},
		"up a link":        {[]tar.Header{link("a/up", "../../../../../../.."), file("a/up/x")}, "x"},
		"link to a link":   {[]tar.Header{link("one", "two"), link("two", "/real"), file("one/x")}, "real/x"},
		"below a link":     {[]tar.Header{link("a/b/one", "/real"), file("a/b/one/x")}, "real/x"},
		"over a link":      {[]tar.Header{link("x", precious), file("x")}, "x"},
		"circle":           {[]tar.Header{link("x", "y"), link("y", "x"), file("x/z")}, "error: too many levels"},
		"hard link out":    {[]tar.Header{link("out", outside), {Typeflag: tar.TypeLink, Name: "x", Linkname: "out/precious"}}, "error: no such file"},
		"hard link dots":   {[]tar.Header{{Typeflag: tar.TypeLink, Name: "x", Linkname: "../../../../../../../../.." + precious}}, "error: no such file"},
		"directory time":   {[]tar.Header{{Typeflag: tar.TypeDir, Name: "a/b", Mode: 0o755}, link("a", outside)}, "a"},
		"hidden elsewhere": {[]tar.Header{link("out", outside), file("out/.wh.precious")}, "out"},
		"hidden dots":      {[]tar.Header{file(".wh..")}, "error: hides no name"},
		"opaque outside":   {[]tar.Header{link("out", outside), file("out/.wh..wh..opq")}, "out"},
		"file as parent":   {[]tar.Header{file("x"), file("x/y")}, "error: not a directory"},
		"unknown":          {[]tar.Header{{Typeflag: 'Q', Name: "x"}}, "error: unknown type"},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range c.headers {
			h.ModTime = sampleTime
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := extract(t, save(t, "x.tar", b.Bytes()), Options{})
		if want, isErr := strings.CutPrefix(c.want, "error: "); isErr {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %q", name, err, want)
			}
		} else if err != nil || got[c.want] == "" {
			t.Errorf("%s: %v; in the directory: %q", name, err, got)
		}
		if fi, err := os.Lstat(outside); err != nil || fi.ModTime().Equal(sampleTime) {
			t.Errorf("%s: the directory outside was changed", name)
		}
		if kept, _ := os.ReadFile(precious); string(kept) != "precious" {
			t.Fatalf("%s: wrote outside of the directory", name)
		}
	}
}

func TestDirectory(t *testing.T) {
	testenv.NeedRoot(t)
	image := archive(t, sampleTree())
	empty := t.TempDir()
	if err := Extract(t.Context(), image, empty, Options{}); err != nil {
		t.Errorf("an empty directory: %v", err)
	}
	if err := Extract(t.Context(), image, empty, Options{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a full directory: %v", err)
	}
	for _, image := range []string{"/nowhere", os.DevNull, t.TempDir(), save(t, "cut.tar", []byte("x")), "nowhere.qcow2"} {
		if _, err := extract(t, image, Options{}); err == nil {
			t.Errorf("%s was extracted", image)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Extract(ctx, image, filepath.Join(t.TempDir(), "root"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Wherever an archive was cut off, none of it is taken for the whole.
func TestCutArchive(t *testing.T) {
	testenv.NeedRoot(t)
	b, err := os.ReadFile(archive(t, sampleTree()))
	if err != nil {
		t.Fatal(err)
	}
	for n := len(b) - 1024; n > 0; n -= tarBlock { // two blocks are the end
		for _, cut := range []int{n, n - 100} {
			if _, err := extract(t, save(t, "cut.tar", b[:cut]), Options{}); err == nil {
				t.Errorf("%d bytes of %d were extracted", cut, len(b))
			}
		}
	}
	if _, err := extract(t, save(t, "short.tar", b[:len(b)-tarBlock]), Options{}); err != nil {
		t.Errorf("one block for an end: %v", err)
	}
}

// A file with holes keeps them.
func TestHoles(t *testing.T) {
	testenv.NeedRoot(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	const size = 20 << 20
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, io.LimitReader(zeros{}, size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "root")
	if err := Extract(t.Context(), save(t, "x.tar", b.Bytes()), dir, Options{}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "x"), &st); err != nil || st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes take %d (%v)", st.Size, st.Blocks*512, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
