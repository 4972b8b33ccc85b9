package drift

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func lines(found []Drift) string {
	var list []string
	for _, d := range found {
		list = append(list, d.String())
	}
	return strings.Join(list, "\n")
}

func TestEtc(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: what was removed is a device")
	}
	image, upper := t.TempDir(), t.TempDir()
	for _, name := range []string{"same", "edited", "longer", "mode", "gone", "kept", "rendered", "dir/a", "dir/b",
		"opaque/x", "opaque/y", "type/z"} {
		put(t, filepath.Join(image, "etc", name), name)
	}
	must(t, os.Symlink("a", filepath.Join(image, "etc/link")), os.Symlink("a", filepath.Join(image, "etc/samelink")))
	e := Etc{Upper: upper, Image: image,
		Kept: []string{"/etc/kept", "/etc/machine-id", "/etc/ssh/ssh_host_*", "/etc/whole"}}
	must(t, os.Chmod(upper, 0o755))
	check := func(want string) {
		t.Helper()
		found, err := e.Check()
		if err != nil {
			t.Fatal(err)
		}
		if got := lines(found); got != strings.TrimSpace(want) {
			t.Errorf("found\n%s\nwant\n%s", got, want)
		}
	}
	check("")
	// What is no drift.
	for name, text := range map[string]string{
		"same": "same", "kept": "x", "machine-id": "1", "ssh/ssh_host_rsa_key": "k", "whole/of/it": "1", "rendered": "made", "sub/new": "made", "dir/a": "dir/a",
	} {
		put(t, filepath.Join(upper, name), text)
	}
	must(t, os.Symlink("a", filepath.Join(upper, "samelink")),
		unix.Mknod(filepath.Join(upper, "never"), unix.S_IFCHR, 0))
	e.Rendered = map[string]string{"/etc/rendered": "", "/etc/sub/new": "", "/etc/whole/of/it": "changed"}
	check("")
	// What is.
	for name, text := range map[string]string{
		"edited": "Edited", "longer": "longer.", "mode": "mode", "new": "", "dir/c": "", "opaque/y": "opaque/y", "type": "", "bad": "by hand",
	} {
		put(t, filepath.Join(upper, name), text)
	}
	must(t, os.Chmod(filepath.Join(upper, "mode"), 0o666), unix.Mknod(filepath.Join(upper, "gone"), unix.S_IFCHR, 0),
		os.Symlink("b", filepath.Join(upper, "link")), os.Mkdir(filepath.Join(upper, "empty"), 0o755),
		unix.Lsetxattr(filepath.Join(upper, "opaque"), "trusted.overlay.opaque", []byte("y"), 0))
	e.Rendered["/etc/bad"], e.Rendered["/etc/missing"] = "changed", "it is not there"
	must(t, os.Chmod(upper, 0o700))
	check(`
rendered /etc/bad: changed
rendered /etc/missing: it is not there
changed /etc: mode
added /etc/dir/c
changed /etc/edited: content
added /etc/empty: a directory
removed /etc/gone
changed /etc/link: content
changed /etc/longer: content
changed /etc/mode: mode
added /etc/new
removed /etc/opaque/x
changed /etc/type: another type of file`)
	e.Kept = []string{"/etc"}
	check("")
}

func TestMounts(t *testing.T) {
	image := t.TempDir()
	for _, dir := range []string{"etc", "var", "srv", "mnt", "my dir"} {
		must(t, os.Mkdir(filepath.Join(image, dir), 0o755))
	}
	put(t, filepath.Join(image, "usr/bin/x"), "")
	state := []string{"/var", "/srv", "/not-in-the-image"}
	const good = `22 1 254:0 / / ro,relatime - erofs /dev/mapper/root ro,user_xattr
23 22 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
24 22 0:21 / /run rw - tmpfs tmpfs rw
25 24 254:6 / /run/goldsmith/state rw,relatime - ext4 /dev/vda6 rw,errors=remount-ro
26 22 0:25 / /etc rw,relatime - overlay overlay rw,lowerdir=/sysroot/etc,upperdir=/run/goldsmith/state/etc/upper,workdir=/w
27 22 254:6 /fs/var /var rw,relatime - ext4 /dev/vda6 rw
28 22 254:6 /fs/srv /srv rw,relatime shared:1 - ext4 /dev/vda6 rw
29 27 0:30 / /var/lib/more rw - tmpfs tmpfs rw
30 22 0:31 / /mnt rw - tmpfs tmpfs rw
31 22 0:31 / /my\040dir rw - tmpfs tmpfs rw
`
	for _, c := range []struct{ from, to, want string }{
		{"", "", ""},
		{"254:0 / / ro,relatime - erofs /dev/mapper/root ro", "8:1 / / rw - ext4 /dev/sda1 rw",
			"mounted /: ext4 of /dev/sda1: want a read-only erofs"},
		{"/ / ro,relatime - erofs /dev/mapper/root ro,", "/ / rw - erofs /dev/mapper/root rw,",
			"mounted /: erofs of /dev/mapper/root: want a read-only erofs"},
		{"/ /mnt rw", "/ /usr/bin rw", "mounted /usr/bin: tmpfs of tmpfs hides what the image has"},
		{"/ /mnt rw", "/x /etc/passwd rw", "mounted /etc/passwd: tmpfs of tmpfs hides what the image has"},
		{"upperdir=/run/goldsmith/state/etc/upper", "upperdir=/tmp/x",
			"mounted /etc: overlay of overlay: want the overlay with the state partition's layer"},
		{"/ /mnt rw", "/ /var rw", "mounted /var: tmpfs of tmpfs hides the state partition's"},
		{"28 22 254:6 /fs/srv /srv rw,relatime shared:1 - ext4 /dev/vda6 rw\n", "",
			"mounted /srv: the state partition is not mounted there"},
	} {
		text := strings.Replace(good, c.from, c.to, 1)
		if c.from != "" && text == good {
			t.Fatalf("%q is not there", c.from)
		}
		found, err := Mounts(text, image, state)
		if got := lines(found); err != nil || got != c.want {
			t.Errorf("with %s: %q, %v; want %q", c.to, got, err, c.want)
		}
	}
	if _, err := Mounts("22 1 254:0 / /\n", image, state); err == nil {
		t.Error("a line that is cut short was taken")
	}
}

func TestVerity(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	good := Verity{"verity", "1 254:2 254:3 4096 4096 100 1 sha256 " + hash + " salt 1 panic_on_corruption", "V"}
	if found := good.Check(hash); len(found) > 0 {
		t.Errorf("found %s", lines(found))
	}
	for _, v := range []Verity{
		{},
		{"linear", good.Table, "V"},
		{"verity", strings.ReplaceAll(good.Table, "ab", "cd"), "V"},
		{"verity", good.Table, "C"},
		{"verity", strings.TrimSuffix(good.Table, " 1 panic_on_corruption"), "V"},
	} {
		if found := v.Check(hash); len(found) != 1 || found[0].Kind != Root {
			t.Errorf("%+v: found %s", v, lines(found))
		}
	}
	if got := CommandLineHash("quiet roothash=1 roothash=2 x.roothash=3\n"); got != "2" {
		t.Errorf("command line: %s", got)
	}
}

func TestParseStatus(t *testing.T) {
	b := make([]byte, 1024)
	binary.NativeEndian.PutUint32(b[16:], dmHeader)
	binary.NativeEndian.PutUint32(b[20:], 1)
	copy(b[dmHeader+24:], "verity")
	copy(b[dmHeader+dmSpec:], "V\x00")
	if target, text, err := parseStatus(b); target != "verity" || text != "V" || err != nil {
		t.Errorf("%q, %q, %v", target, text, err)
	}
	clear(b[20:24])
	if target, _, err := parseStatus(b); target != "" || err != nil {
		t.Errorf("no targets: %q, %v", target, err)
	}
}
