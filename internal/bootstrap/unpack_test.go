package bootstrap

import (
	"archive/tar"
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

	"golang.org/x/sys/unix"

	"goldsmith/internal/apt"
	"goldsmith/internal/deb"
	"goldsmith/internal/rootfs"
	"goldsmith/internal/testenv"
)

// The tests unpack hostile packages as root: they run where nothing but the
// directory of temporary files can be written, however wrong the code may be.
func TestMain(m *testing.M) {
	rootfs.Init()
	if os.Geteuid() == 0 {
		err := rootfs.Isolate()
		tmp := os.TempDir()
		for _, f := range []func() error{
			func() error { return unix.Mount(tmp, tmp, "", unix.MS_BIND, "") },
			func() error { return unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "") },
		} {
			if err == nil {
				err = f()
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func TestHostIsSafe(t *testing.T) {
	testenv.NeedRoot(t)
	if err := os.WriteFile("/goldsmith-test", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Fatalf("the host's files can be written: %v", err)
	}
}

func TestSkips(t *testing.T) {
	filters := []Filter{
		{false, "/usr/share/man/*"}, {false, "/usr/share/doc/*"}, {true, "/usr/share/doc/*/copyright"}, {false, "/etc/?.bak"},
	}
	for path, want := range map[string]bool{
		"/usr/share/man/man1/x.1.gz": true, "/usr/share/man": false, "/usr/share/doc/p/README": true,
		"/usr/share/doc/p/copyright": false, "/usr/share/doc/a/b/copyright": false, "/etc/a.bak": true, "/etc/ab.bak": false,
	} {
		if got := skips(filters, path, false); got != want {
			t.Errorf("%s is skipped: %t; want %t", path, got, want)
		}
	}
	for path, want := range map[string]bool{"/usr/share/doc/p": false, "/usr/share/man/man1": true} {
		if got := skips(filters, path, true); got != want {
			t.Errorf("directory %s is skipped: %t; want %t", path, got, want)
		}
	}
}

// entry is one of a package's files; a name that ends in a slash is a
// directory's, a target makes a link.
type entry struct {
	name, text, link string
	mode             int64
	hard             bool
}

// pack makes a package of control fields and files.
func pack(t *testing.T, control string, scripts map[string]string, entries []entry) []byte {
	t.Helper()
	var c, d bytes.Buffer
	cw, dw := tar.NewWriter(&c), tar.NewWriter(&d)
	put := func(w *tar.Writer, h *tar.Header, text string) {
		h.Size, h.Format = int64(len(text)), tar.FormatGNU
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	scripts["control"] = control + "Maintainer: M <m@example.org>\nDescription: d\n"
	for name, text := range scripts {
		put(cw, &tar.Header{Name: "./" + name, Mode: 0o755, Typeflag: tar.TypeReg}, text)
	}
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Typeflag: tar.TypeReg, Uname: "root", Gname: "root"}
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case e.hard:
			h.Typeflag, h.Linkname = tar.TypeLink, e.link
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		put(dw, h, e.text)
	}
	_, _ = cw.Close(), dw.Close()
	out := []byte("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", c.Bytes()}, {"data.tar", d.Bytes()}} {
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		out = append(out, m.data...)
		if len(m.data)%2 == 1 {
			out = append(out, '\n')
		}
	}
	return out
}

// files is a package with nothing but files.
func files(t *testing.T, name, fields string, entries ...entry) []byte {
	return pack(t, "Package: "+name+"\nVersion: 1\nArchitecture: all\n"+fields, map[string]string{}, entries)
}

// unpackAll unpacks packages, without any script, into a new tree.
func unpackAll(t *testing.T, o Options, workers int, debs ...[]byte) (string, error) {
	t.Helper()
	testenv.NeedRoot(t)
	cache, root := t.TempDir(), t.TempDir()
	plan := &apt.Plan{Suite: "s", Arch: "amd64"}
	for i, b := range debs {
		plan.Packages = append(plan.Packages, keep(t, cache, i, b))
	}
	tr, err := openTree(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	o.Meter = &Meter{}
	s := &system{plan: plan, options: o, tree: tr, root: root, workers: workers, owners: newOwners()}
	defer s.closePackages()
	if err := s.open(cache); err != nil {
		return root, err
	}
	if err := s.prepare(t.Context()); err != nil {
		return root, err
	}
	return root, s.unpack(t.Context(), s.packages)
}

// keep puts a package into a cache.
func keep(t *testing.T, cache string, i int, b []byte) apt.Package {
	t.Helper()
	_, name, _ := strings.Cut(string(b), "Package: ")
	name, _, _ = strings.Cut(name, "\n")
	k := apt.Package{Name: name, Version: "1", Arch: "all", SHA256: fmt.Sprintf("%064d", i), Auto: name == "worker"}
	if err := os.MkdirAll(filepath.Dir(k.File(cache)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.File(cache), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return k
}

func newTestPackage(name string) *pkg {
	return &pkg{
		Package: apt.Package{Name: name, Version: "1", Arch: "all"},
		control: &deb.Control{Files: map[string][]byte{}},
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestUnpack(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	a := pack(t, "Package: a\nVersion: 1\nArchitecture: all\nMulti-Arch: foreign\n", map[string]string{
		"conffiles": "/etc/a.conf\n", "triggers": "interest-noawait /usr/lib/x\ninterest named\nactivate other\n",
		"postinst": "#!/bin/sh\n",
	}, []entry{
		{name: "./", mode: 0o755}, {name: "./etc/", mode: 0o755}, {name: "./etc/a.conf", text: "conf", mode: 0o640},
		{name: "./bin/", mode: 0o755}, {name: "./bin/su", text: "su", mode: 0o4755},
		{name: "./bin/su2", link: "./bin/su", hard: true},
		{name: "./var/", mode: 0o755}, {name: "./var/mail/", mode: 0o2775}, {name: "./lib64/", mode: 0o755},
		{name: "./usr/", mode: 0o755}, {name: "./usr/share/", mode: 0o755}, {name: "./usr/share/man/", mode: 0o755},
		{name: "./usr/share/man/x", text: "man", mode: 0o644}, {name: "./deep/in/there", text: "x", mode: 0o600},
	})
	root, err := unpackAll(t, Options{Filters: []Filter{{false, "/usr/share/man/*"}}}, 2, a)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		if err != nil || strings.HasPrefix(rel, "var/lib") || rel == "." {
			return err
		}
		fi, err := d.Info()
		got = append(got, fmt.Sprintf("%s %s", rel, fi.Mode()))
		return err
	})
	want := []string{
		"bin Lrwxrwxrwx", "deep drwxr-xr-x", "deep/in drwxr-xr-x", "deep/in/there -rw-------",
		"etc drwxr-xr-x", "etc/a.conf.dpkg-new -rw-r-----", "lib Lrwxrwxrwx", "lib64 Lrwxrwxrwx", "sbin Lrwxrwxrwx",
		"usr drwxr-xr-x", "usr/bin drwxr-xr-x", "usr/bin/su urwxr-xr-x", "usr/bin/su2 urwxr-xr-x", "usr/lib drwxr-xr-x",
		"usr/lib64 drwxr-xr-x", "usr/sbin drwxr-xr-x", "usr/share drwxr-xr-x", "usr/share/man drwxr-xr-x",
		"var drwxr-xr-x", "var/mail dgrwxrwxr-x",
	}
	if !slices.Equal(got, want) || err != nil {
		t.Errorf("the tree is %q, %v;\nwant %q", got, err, want)
	}
	admin := filepath.Join(root, "var/lib/dpkg")
	for file, want := range map[string]string{
		"triggers/File": "/usr/lib/x a/noawait\n", "triggers/named": "a\n", "info/format": "1\n",
		// What is not unpacked has no sum.
		"info/a.md5sums": "0b180078d994cb2b5ed89d7ce8e7eea2  bin/su\n9dd4e461268c8034f5c8564e155c67a6  deep/in/there\n",
	} {
		if got := content(t, filepath.Join(admin, file)); got != want {
			t.Errorf("%s is %q; want %q", file, got, want)
		}
	}
	// The real dpkg understands it.
	testenv.Need(t, "dpkg-query")
	out, err := exec.Command("dpkg-query", "--admindir="+admin, "-W",
		"-f", "${Package} ${Status} ${Multi-Arch} ${Conffiles}\n").CombinedOutput()
	if string(out) != "a install ok unpacked foreign  /etc/a.conf newconffile\n" || err != nil {
		t.Errorf("dpkg-query says %q, %v", out, err)
	}
	out, err = exec.Command("dpkg-query", "--admindir="+admin, "-L", "a").CombinedOutput()
	if !strings.HasPrefix(string(out), "/.\n/etc\n/etc/a.conf\n/bin\n/bin/su\n/bin/su2\n") || err != nil {
		t.Errorf("dpkg-query -L says %q, %v", out, err)
	}
}

// No package writes outside of the tree.
func TestUnpackHostile(t *testing.T) {
	outside := t.TempDir()
	for name, tt := range map[string]struct {
		debs   [][]byte
		err    string // part of the error; empty means that it works
		inside string // file that must be in the tree then
	}{
		"absolute link": {[][]byte{
			files(t, "a", "", entry{name: "." + outside + "/", mode: 0o755}, entry{name: "./x", link: outside}),
			files(t, "b", "", entry{name: "./x/f", text: "x", mode: 0o644}),
		}, "", filepath.Join(outside, "f")},
		"climbing link": {[][]byte{
			files(t, "a", "", entry{name: "." + outside + "/", mode: 0o755},
				entry{name: "./x", link: strings.Repeat("../", 20) + outside[1:]}),
			files(t, "b", "", entry{name: "./x/f", text: "x", mode: 0o644}),
		}, "", filepath.Join(outside, "f")},
		"climbing name": {[][]byte{files(t, "a", "", entry{name: "../../f", text: "x"})}, "climbs", ""},
		"climbing hard link": {[][]byte{files(t, "a", "", entry{name: "./f", link: "../../etc/passwd", hard: true})},
			"climbs", ""},
		"link to nowhere": {[][]byte{files(t, "a", "", entry{name: "./x", link: outside},
			entry{name: "./x/f", text: "x"})}, "open directory /x", ""},
		"hard link through a link": {[][]byte{files(t, "a", "", entry{name: "./etc/", mode: 0o755},
			entry{name: "./x", link: "/etc"},
			entry{name: "./f", link: "./x/passwd", hard: true})}, "hard link to /x/passwd", ""},
		"file through a link to a file": {[][]byte{files(t, "a", "", entry{name: "./x", link: outside + "/g"},
			entry{name: "./x", text: "x", mode: 0o644})}, "", "x"},
		"loop": {[][]byte{files(t, "a", "", entry{name: "./x", link: "x"}, entry{name: "./x/f", text: "x"})},
			"package a", ""},
		"file in the place of a directory": {[][]byte{files(t, "a", "", entry{name: "./x/f", text: "x"},
			entry{name: "./x", text: "x"})}, "package a: /x", ""},
		"newline": {[][]byte{files(t, "a", "", entry{name: "./x\ny", text: "x"})}, "file name", ""},
		"other package": {[][]byte{pack(t, "Package: a\nVersion: 2\nArchitecture: all\n", map[string]string{}, nil)},
			`package a: the file has Version "2", the plan "1"`, ""},
	} {
		root, err := unpackAll(t, Options{}, 1, tt.debs...)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v; want %q", name, err, tt.err)
		}
		if tt.inside != "" && content(t, filepath.Join(root, tt.inside)) != "x" {
			t.Errorf("%s: %s is not in the tree", name, tt.inside)
		}
		if left, _ := os.ReadDir(outside); len(left) > 0 {
			t.Fatalf("%s: written outside: %v", name, left)
		}
	}
}

// Two packages have the same file only when one says that it replaces it.
func TestUnpackSameFile(t *testing.T) {
	b := files(t, "b", "", entry{name: "./lib/f", text: "of b", mode: 0o644})
	a := files(t, "a", "", entry{name: "./usr/lib/f", text: "of a", mode: 0o644})
	_, err := unpackAll(t, Options{}, 2, a, b)
	if err == nil || !strings.Contains(err.Error(), "lib/f is also in package ") {
		t.Errorf("both have the file: %v", err)
	}
	a = files(t, "a", "Replaces: b (<< 2)\n", entry{name: "./lib/f", text: "of a", mode: 0o644})
	root, err := unpackAll(t, Options{}, 2, a, b)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, filepath.Join(root, "usr/lib/f")); got != "of a" {
		t.Errorf("the file is %q; want that of the package that replaces", got)
	}
	for name, want := range map[string]string{"a": "/.\n/lib/f\n", "b": "/.\n"} {
		if got := content(t, filepath.Join(root, "var/lib/dpkg/info", name+".list")); got != want {
			t.Errorf("the list of %s is %q; want %q", name, got, want)
		}
	}
}

// A link and a directory of the same path are one or the other in the plan's
// order, not in that of what happens at the same time.
func TestUnpackOrder(t *testing.T) {
	a := files(t, "a", "", entry{name: "./y/", mode: 0o755}, entry{name: "./x", link: "y"})
	b := files(t, "b", "", entry{name: "./x/", mode: 0o755}, entry{name: "./x/f", text: "x", mode: 0o644})
	for range 10 {
		if _, err := unpackAll(t, Options{}, 2, a, b); !errors.Is(err, errOrder) {
			t.Fatalf("at the same time: %v", err)
		}
	}
	root, err := unpackAll(t, Options{}, 1, a, b)
	if err != nil || content(t, filepath.Join(root, "y/f")) != "x" {
		t.Errorf("one after the other: %v", err)
	}
}
