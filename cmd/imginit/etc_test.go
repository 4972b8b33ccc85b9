package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// layer lists a directory: names, with a word for what is no file or directory.
func layer(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir && (!d.IsDir() || isEmpty(path)) {
			name, _ := filepath.Rel(dir, path)
			list = append(list, name+map[bool]string{true: " (gone)"}[d.Type()&fs.ModeDevice != 0])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func isEmpty(dir string) bool {
	list, err := os.ReadDir(dir)
	return err == nil && len(list) == 0
}

func put(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFreshEtc(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	keep := []string{"/etc/machine-id", "/etc/ssh/ssh_host_*", "/etc/kept", "/etc/gone", "/etc/link/x", "/etc/none",
		"/etc/kept/sub", "/etc/own/x"}
	dir := filepath.Join(t.TempDir(), "etc")
	image := t.TempDir() // which has no directory ssh, but one called own
	for name, mode := range map[string]fs.FileMode{".": 0o755, "own": 0o751 | fs.ModeSetgid} {
		if err := os.MkdirAll(filepath.Join(image, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(image, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	fresh := func() {
		t.Helper()
		if err := freshEtc(dir, image, keep); err != nil {
			t.Fatal(err)
		}
	}
	fresh()
	upper := filepath.Join(dir, "upper")
	if got := layer(t, upper); got != "" {
		t.Errorf("the first layer has %s", got)
	}
	for _, name := range []string{"machine-id", "ssh/ssh_host_rsa_key", "ssh/sshd_config", "kept/a", "kept/sub/b",
		"edited", "real/x", "own/x"} {
		put(t, filepath.Join(upper, name))
	}
	if err := os.Chmod(filepath.Join(upper, "ssh"), 0o711); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"gone", "lost"} {
		if err := unix.Mknod(filepath.Join(upper, gone), unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("real", filepath.Join(upper, "link")); err != nil {
		t.Fatal(err)
	}
	before := layer(t, upper)
	fresh()
	if got, want := layer(t, upper), "gone (gone), kept/a, kept/sub/b, machine-id, own/x, ssh/ssh_host_rsa_key"; got != want {
		t.Errorf("kept %s; want %s", got, want)
	}
	if got := layer(t, filepath.Join(dir, "previous")); got != before {
		t.Errorf("previous %s; want %s", got, before)
	}
	if st, err := os.Stat(filepath.Join(upper, "ssh")); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("ssh: %v, %v", st, err)
	}
	if st, err := os.Stat(filepath.Join(upper, "own")); err != nil || st.Mode() != fs.ModeDir|fs.ModeSetgid|0o751 {
		t.Errorf("own: %v, %v: not as in the image", st, err)
	}
	// Power cuts: between the two renames, and before the first.
	if err := os.Rename(upper, filepath.Join(dir, "next")); err != nil {
		t.Fatal(err)
	}
	want := layer(t, filepath.Join(dir, "next"))
	fresh()
	if got := layer(t, upper); got != want {
		t.Errorf("after a power cut: %s; want %s", got, want)
	}
	put(t, filepath.Join(dir, "next/half"))
	put(t, filepath.Join(dir, ".new/half"))
	fresh()
	if got := layer(t, upper); got != want {
		t.Errorf("after an earlier one: %s; want %s", got, want)
	}
	for _, name := range []string{"next", ".new"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is left", name)
		}
	}
}
