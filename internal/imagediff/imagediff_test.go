package imagediff

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/erofs"
	"goldsmith/internal/fat"
	"goldsmith/internal/filelist"
	"goldsmith/internal/qcow2"
	"goldsmith/internal/registry"
	"goldsmith/internal/tarball"
	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// system is a small system.
func system() *tree.Tree {
	t := tree.New()
	t.AddFile("var/lib/dpkg/status", 0o644, []byte(status("curl", "7.88", "wget", "1.21", "nano", "7.2")))
	t.AddFile("var/lib/dpkg/info/curl.list", 0o644, []byte("/usr/bin/curl\n"))
	t.AddFile("usr/bin/curl", 0o755, []byte("curl"))
	t.AddFile("usr/bin/ping", 0o755, []byte("ping")).Xattrs = map[string]string{"security.capability": caps(13)}
	t.AddFile("usr/bin/su", 0o4755, []byte("su"))
	t.AddFile("etc/motd", 0o644, []byte("hello"))
	t.AddFile("etc/os-release", 0o644, []byte("PRETTY_NAME=\"Debian 12\"\n"))
	t.AddFile("etc/big", 0o644, bytes.Repeat([]byte("x"), 9000))
	t.AddFile("boot/config-6.1.0-9-amd64", 0o644, []byte("CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n"))
	t.AddFile("usr/lib/systemd/system/ssh.service", 0o644, []byte("[Unit]"))
	t.AddFile("usr/lib/systemd/system/cron.service", 0o644, []byte("[Unit]"))
	link(t, "etc/systemd/system/multi-user.target.wants/ssh.service", "/lib/systemd/system/ssh.service")
	t.AddFile(manifestPath, 0o644, []byte(`{"name":"demo","version":"1","elements":["boot","redis"]}`))
	t.AddFile("usr/share/a", 0o644, []byte("linked"))
	t.Add(&tree.Entry{Path: "usr/share/b", Mode: tree.ModeRegular | 0o644, Size: 6, LinkTo: "usr/share/a"})
	t.Add(&tree.Entry{Path: "dev", Mode: tree.ModeDir | 0o755})
	t.Add(&tree.Entry{Path: "dev/null", Mode: tree.ModeChar | 0o666, Major: 1, Minor: 3})
	return t
}

const manifestPath = "usr/share/goldsmith/manifest.json"

func link(t *tree.Tree, p, target string) {
	t.AddParents(p)
	t.Add(&tree.Entry{Path: p, Mode: tree.ModeSymlink | 0o777, Target: target})
}

func status(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		b.WriteString("Package: " + pairs[i] + "\nStatus: install ok installed\n")
		b.WriteString("Architecture: amd64\nVersion: " + pairs[i+1] + "\n\n")
	}
	return b.String()
}

// caps is struct vfs_cap_data, revision 2.
func caps(n int) string {
	b := make([]byte, 20)
	binary.LittleEndian.PutUint32(b, 0x02000001)
	binary.LittleEndian.PutUint32(b[4+n/32*8:], 1<<(n%32))
	return string(b)
}

// changed is the system after all kinds of changes.
func changed() *tree.Tree {
	t := system()
	t.AddFile("var/lib/dpkg/status", 0o644, []byte(status("curl", "7.90", "less", "1", "nano", "7.1")))
	t.AddFile("usr/bin/curl", 0o755, []byte("newer"))
	t.AddFile("usr/bin/ping", 0o755, []byte("ping"))
	t.AddFile("usr/bin/x", 0o6755, nil).GID = 5
	t.AddFile("etc/motd", 0o600, []byte("hello"))
	t.AddFile("boot/config-6.1.0-10-amd64", 0o644, []byte("CONFIG_A=m\nCONFIG_B=m\nCONFIG_C=y\n"))
	t.Remove("etc/systemd/system/multi-user.target.wants/ssh.service")
	link(t, "etc/systemd/system/cron.service", "/dev/null")
	t.AddFile("usr/lib/systemd/system/new.timer", 0o644, []byte("[Unit]"))
	link(t, "etc/systemd/system/timers.target.wants/new.timer", "/lib/systemd/system/new.timer")
	t.AddFile(manifestPath, 0o644, []byte(`{"name":"demo","version":"2","elements":["boot","nginx"]}`))
	return t
}

func write(t *testing.T, name string, f func(f *os.File) error) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	out, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f(out), out.Close()); err != nil {
		t.Fatal(err)
	}
	return p
}

func asTar(t *testing.T, tr *tree.Tree) string {
	return write(t, "a.tar", func(f *os.File) error { return tarball.Write(context.Background(), f, tr) })
}

func asEROFS(t *testing.T, tr *tree.Tree) string {
	return write(t, "a.erofs", func(f *os.File) error {
		_, err := erofs.Write(f, tr, erofs.Options{})
		return err
	})
}

func readImage(t *testing.T, name string) *Image {
	t.Helper()
	s, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Read(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCompare(t *testing.T) {
	d := Compare(readImage(t, asTar(t, system())), readImage(t, asEROFS(t, changed())))
	if d.Same {
		t.Error("different images are the same")
	}
	if diff := cmp.Diff([]Field{{"version", "1", "2"}}, d.Fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Names{Added: []string{"nginx"}, Removed: []string{"redis"}}, d.Elements); diff != "" {
		t.Errorf("elements (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]PackageChange{
		{"curl", "amd64", "upgraded", "7.88", "7.90"}, {"less", "amd64", "added", "", "1"},
		{"nano", "amd64", "downgraded", "7.2", "7.1"}, {"wget", "amd64", "removed", "1.21", ""},
	}, d.Packages); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]UnitChange{
		{"cron.service", []string{"masked"}}, {"new.timer", []string{"added", "enabled"}},
		{"ssh.service", []string{"disabled"}},
	}, d.Units); diff != "" {
		t.Errorf("units (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]PowerChange{
		{Path: "/usr/bin/ping", A: "cap_net_raw"}, {Path: "/usr/bin/x", B: "set-uid 0, set-gid 5"},
	}, d.Powers); diff != "" {
		t.Errorf("privileged (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Field{{"CONFIG_A", "y", "m"}, {"CONFIG_C", "n", "y"}}, d.Kernel); diff != "" {
		t.Errorf("kernel configuration (-want +got):\n%s", diff)
	}
	got := map[string]string{}
	for _, f := range d.Files {
		got[f.Path] = strings.TrimSpace(f.Change + " " + strings.Join(f.What, " "))
		if f.Explained {
			got[f.Path] += " explained"
		}
	}
	if diff := cmp.Diff(map[string]string{
		"/boot/config-6.1.0-10-amd64":      "added",
		"/etc/motd":                        "changed mode",
		"/etc/systemd/system/cron.service": "added",
		"/etc/systemd/system/multi-user.target.wants/ssh.service": "removed",
		"/etc/systemd/system/timers.target.wants":                 "added",
		"/etc/systemd/system/timers.target.wants/new.timer":       "added",
		"/usr/bin/curl":                     "changed content explained",
		"/usr/bin/ping":                     "changed xattrs",
		"/usr/bin/x":                        "added",
		"/usr/lib/systemd/system/new.timer": "added",
		"/" + manifestPath:                  "changed content",
		"/var/lib/dpkg/status":              "changed content explained",
	}, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if len(d.Sizes) == 0 || d.Sizes[0].Path != "/boot" {
		t.Errorf("sizes: %v", d.Sizes)
	}
}

// The same files have no differences, whatever form they are in.
func TestFormats(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "mke2fs", "tar", "zstd", "qemu-img")
	plain := asTar(t, system())
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if err := (command.Exec{Args: args}).Run(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	run("tar", "--xattrs", "--xattrs-include=*", "-xpf", plain, "-C", root)
	ext := filepath.Join(dir, "disk.raw")
	run("mke2fs", "-q", "-t", "ext4", "-d", root, ext, "16M")
	run("qemu-img", "convert", "-O", "qcow2", ext, filepath.Join(dir, "disk.qcow2"))
	run("qemu-img", "convert", "-O", "vmdk", ext, filepath.Join(dir, "disk.vmdk"))
	run("zstd", "-q", ext, "-o", filepath.Join(dir, "disk.raw.zst"))
	run("zstd", "-q", plain, "-o", filepath.Join(dir, "a.tar.zst"))
	layout, err := registry.Open(filepath.Join(dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(ext)
	if err != nil {
		t.Fatal(err)
	}
	digest, _, err := layout.PutImage(t.Context(), ext, registry.Image{
		Name: "t", Version: "1", Arch: "amd64", Size: int64(len(raw)), SHA256: fmt.Sprintf("%x", sha256.Sum256(raw)),
	})
	if err := errors.Join(err, layout.Tag(digest, "one")); err != nil {
		t.Fatal(err)
	}
	want := readImage(t, asEROFS(t, system()))
	for _, name := range []string{plain, root, ext, "disk.qcow2", "disk.vmdk", "disk.raw.zst", "a.tar.zst", "oci:" + layout.Dir() + ":one"} {
		if !filepath.IsAbs(name) && !strings.HasPrefix(name, "oci:") {
			name = filepath.Join(dir, name)
		}
		if d := Compare(want, readImage(t, name)); !d.Same {
			t.Errorf("%s differs:\n%s", filepath.Base(name), cmp.Diff([]FileChange(nil), d.Files))
		}
	}
}

func TestSame(t *testing.T) {
	a, b := asTar(t, system()), asTar(t, system())
	c := asTar(t, changed())
	for _, test := range []struct {
		x, y string
		want bool
	}{{a, a, true}, {a, b, true}, {a, c, false}} {
		x, _ := Find(test.x)
		y, _ := Find(test.y)
		if got, err := Same(context.Background(), x, y); got != test.want || err != nil {
			t.Errorf("Same = %v, %v; want %v", got, err, test.want)
		}
	}
}

// Damaged EROFS images are errors, not panics, and end.
func TestDamaged(t *testing.T) {
	whole, err := os.ReadFile(asEROFS(t, system()))
	if err != nil {
		t.Fatal(err)
	}
	for i := 1024; i < min(len(whole), 12<<10); i += 29 {
		b := bytes.Clone(whole)
		b[i] ^= 0xff
		m := &Image{}
		_ = newCollector(context.Background(), m).erofs(io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))))
	}
}

func TestSink(t *testing.T) {
	c := newCollector(context.Background(), &Image{})
	e := &tree.Entry{Path: "a", Mode: tree.ModeRegular, Size: 2}
	for content, want := range map[string]string{"abc": "more content", "a": "unexpected EOF", "ab": ""} {
		err := c.add(e, func(w io.Writer) error {
			_, err := io.WriteString(w, content)
			return err
		})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("add of %q: %v; want %q", content, err, want)
		}
	}
	e.Size = maxContent + 1
	if err := c.add(e, nil); err == nil || !strings.Contains(err.Error(), "GiB") {
		t.Errorf("a huge file: %v", err)
	}
}

func TestUnits(t *testing.T) {
	file := func(p, sum string) filelist.File { return filelist.File{Path: p, Type: "file", Size: 1, SHA256: sum} }
	for name, test := range map[string]struct {
		a, b []filelist.File
		want []UnitChange
	}{
		"drop-in": {
			[]filelist.File{file("/lib/systemd/system/a.service", "1")},
			[]filelist.File{file("/lib/systemd/system/a.service", "1"), file("/etc/systemd/system/a.service.d/x.conf", "2")},
			[]UnitChange{{"a.service", []string{"changed"}}},
		},
		"alias": {
			nil, []filelist.File{{
				Path: "/etc/systemd/system/dbus.service", Type: "symlink", Target: "/lib/systemd/system/b.service"}},
			[]UnitChange{{"b.service", []string{"enabled"}}},
		},
		"unmasked": {
			[]filelist.File{{Path: "/etc/systemd/system/a.timer", Type: "symlink", Target: "/dev/null"}}, nil,
			[]UnitChange{{"a.timer", []string{"removed", "unmasked"}}},
		},
		"not a unit": {
			nil, []filelist.File{file("/etc/systemd/system/README", "1"), file("/etc/systemd/user/a.service", "1")}, nil,
		},
	} {
		if diff := cmp.Diff(test.want, units(&Image{Files: test.a}, &Image{Files: test.b})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// FAT16 and FAT32 volumes as our own writer makes them.
func TestFAT(t *testing.T) {
	tr := tree.New()
	content := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	tr.AddFile("EFI/Linux/demo_1.2+3.efi", 0o644, content)
	tr.AddFile("EFI/BOOT/BOOTX64.EFI", 0o644, []byte("boot"))
	for _, kind := range []int{16, 32} {
		size := int64(kind) << 21
		p := write(t, "esp", func(f *os.File) error {
			_, err := fat.Write(f, tr, fat.Options{Size: size, Type: kind})
			return err
		})
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		v, err := openFAT(io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))))
		if err != nil {
			t.Fatalf("FAT%d: %v", kind, err)
		}
		got, err := v.read("efi/linux/demo_1.2+3.efi", 1<<20)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("FAT%d: %d bytes, %v; want %d", kind, len(got), err, len(content))
		}
		list, err := v.list("efi/boot")
		if err != nil || len(list) != 1 || list[0].name != "bootx64.efi" || list[0].size != 4 {
			t.Errorf("FAT%d: list = %v, %v", kind, list, err)
		}
	}
}

func FuzzFAT(f *testing.F) {
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := io.MultiReader(bytes.NewReader(b), bytes.NewReader(make([]byte, 8<<20)))
		all, _ := io.ReadAll(io.LimitReader(r, 8<<20))
		c := newCollector(context.Background(), &Image{})
		c.kernelImages(io.NewSectionReader(bytes.NewReader(all), 0, int64(len(all))))
	})
}

func TestQcow2Magic(t *testing.T) {
	p := write(t, "bad.qcow2", func(f *os.File) error {
		_, err := f.WriteString(qcow2.Magic + strings.Repeat("\xff", 600))
		return err
	})
	s, _ := Find(p)
	if _, err := Read(context.Background(), s); command.Status(err) != command.StatusUsage {
		t.Errorf("a damaged image: %v", err)
	}
}
