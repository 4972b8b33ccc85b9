package tests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/apt"
	"goldsmith/internal/testenv"
)

// The packages that "make deb" makes: the same bytes each time, nothing that
// lintian calls an error, and installed on a plain system every program runs,
// has a manual page, and the units are what systemd takes.
func TestDebianPackages(t *testing.T) {
	need(t, true)
	testenv.Need(t, "dpkg-deb", "chroot", "unshare", "lintian")
	dir := t.TempDir()
	debs := makeDebs(t, filepath.Join(dir, "one"))
	for i, other := range makeDebs(t, filepath.Join(dir, "two")) {
		a, err := os.ReadFile(debs[i])
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(other); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s is another when it is made again (%v)", filepath.Base(other), err)
		}
	}
	if out, err := exec.Command("lintian", append([]string{"--fail-on", "error", "--allow-root",
		"--suppress-tags", "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball"}, debs...)...).CombinedOutput(); err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	root := plainSystem(t, filepath.Join(dir, "root"))
	for _, d := range debs {
		if err := os.Link(d, filepath.Join(root, "tmp", filepath.Base(d))); err != nil {
			t.Fatal(err)
		}
	}
	inChroot(t, root, "dpkg -i /tmp/*.deb && dpkg --audit && getent passwd goldsmith")
	for _, p := range []string{"applycfg", "refreshcfg", "collectcfg", "imgupdate", "imgbuild", "imgpipe"} {
		if out := inChroot(t, root, p+" --help"); !strings.Contains(out, "Usage: "+p) {
			t.Errorf("%s --help says:\n%s", p, out)
		}
		page := inChroot(t, root, "man --warnings "+p+" 2>&1")
		if !strings.Contains(page, "EXIT STATUS") || strings.Contains(page, "warning") {
			t.Errorf("man %s:\n%.2000s", p, page)
		}
		inChroot(t, root, "lexgrog /usr/share/man/man1/"+p+".1.gz && bash -n /usr/share/bash-completion/completions/"+p)
	}
	inChroot(t, root, "/usr/lib/goldsmith/bin/disk-image-create --version")
	inChroot(t, root, "imgbuild elements | grep redis")
	inChroot(t, root, "cd /tmp && "+strings.Join([]string{"printf 'apiVersion: goldsmith/v1\\nname: t\\nstages: [{name: a, uses: smoke}]\\n' >p.yaml",
		"imgpipe check p.yaml"}, " && "))
	if out := inChroot(t, root, "systemd-analyze verify /lib/systemd/system/imgpipe.service /lib/systemd/system/imgpipe-worker.service 2>&1"); strings.Contains(out, "imgpipe") {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	inChroot(t, root, "dpkg -P goldsmith-imgpipe goldsmith-imgbuild goldsmith-machine && dpkg --audit && ! ls /usr/lib/goldsmith")
}

// makeDebs makes the packages without compression, in their order of
// installation.
func makeDebs(t *testing.T, dir string) []string {
	t.Helper()
	cmd := exec.Command("../packaging/build.sh", dir)
	cmd.Env = append(cmd.Environ(), "COMPRESS=none")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packaging/build.sh: %v\n%s", err, out)
	}
	var debs []string
	for _, name := range []string{"machine", "imgbuild", "imgpipe"} {
		found, _ := filepath.Glob(filepath.Join(dir, "goldsmith-"+name+"_*.deb"))
		if len(found) != 1 {
			t.Fatalf("packages of goldsmith-%s: %v", name, found)
		}
		debs = append(debs, found[0])
	}
	return debs
}

// plainSystem makes a Debian system with what the packages depend on.
func plainSystem(t *testing.T, root string) string {
	t.Helper()
	sources, err := apt.HostSources("/", "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"bootstrap", "--suite", "bookworm"}
	for _, s := range sources {
		args = append(args, "--mirror", s.String())
	}
	for _, p := range []string{"adduser", "ca-certificates", "debian-archive-keyring", "gpgv", "man-db", "openssh-client", "squashfs-tools",
		"systemd", "uidmap", "xz-utils"} {
		args = append(args, "--package", p)
	}
	if out, err := exec.Command("../bin/imgbuild", append(args, root)...).CombinedOutput(); err != nil {
		t.Fatalf("imgbuild bootstrap: %v\n%s", err, out)
	}
	return root
}

// inChroot runs a line of shell in a system and returns what it printed.
func inChroot(t *testing.T, root, line string) string {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t proc proc "$0/proc" && exec chroot "$0" sh -c "$1"`, root, line)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "MANPAGER=cat"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}
