package tests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

// An ordinary user builds the bytes that root builds: of Debian packages, with
// the file capability that ping has, and through the machine that makes disks.
func TestRootless(t *testing.T) {
	need(t, true)
	testenv.Need(t, "newuidmap", "setpriv", "unshare", "qemu-system-x86_64")
	for _, tt := range []struct{ name, definition, output string }{
		{"debian", `{name: t, release: bookworm, elements: [debian], packages: [iputils-ping], outputs: [erofs, tar]}`,
			"erofs tar"},
		{"disk", `{name: t, release: bookworm, elements: [fake-os, fake-disk], outputs: [raw, tar],
environment: {DIB_IMAGE_SIZE: "0.2", DIB_JOURNAL_SIZE: "8"}}`, "tar"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := userDir(t)
			if err := os.WriteFile(filepath.Join(dir, "image.yaml"), []byte(tt.definition), 0o644); err != nil {
				t.Fatal(err)
			}
			build := []string{"bin/imgbuild", "build", "image.yaml"}
			in(t, dir, append(build, "-o", "root", "--cache", "roots")...)
			// What root downloaded need not be downloaded again.
			in(t, dir, "sh", "-c", `mkdir user mine && cp -r roots/downloads mine && chown -R 12345:12345 user mine`)
			in(t, dir, append([]string{"sh", "as-user.sh"}, append(build, "-o", "user", "--cache", "mine")...)...)
			for o := range strings.FieldsSeq(tt.output) {
				in(t, dir, "cmp", "root/t."+o, "user/t."+o)
			}
			if tt.name == "debian" {
				tar := in(t, dir, "tar", "--xattrs", "--xattrs-include=*", "-tvvf", "user/t.tar")
				if !strings.Contains(tar, "security.capability") {
					t.Error("no file has a capability: this test does not see what it should")
				}
			}
			if left := in(t, dir, "sh", "-c", "ls -A mine/work; find user mine -user 0"); left != "" {
				t.Errorf("left, or root's: %s", left)
			}
		})
	}
}

// userDir is a directory with the programs and elements that an ordinary user
// may look into.
func userDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{"../bin", "../elements", "../templates", "testdata/dib",
		"../cmd/imgbuild/testdata/as-user.sh"} {
		if out, err := exec.Command("cp", "-a", from, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	in(t, dir, "chmod", "-R", "go+rX", ".")
	return dir
}

// in runs a program in a directory and returns its standard output.
func in(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "ELEMENTS_PATH="+filepath.Join(dir, "dib"))
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	err := cmd.Run()
	t.Logf("%s\n%s", strings.Join(args, " "), &messages)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, &out)
	}
	return out.String()
}
