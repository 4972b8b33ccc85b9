package tests

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"goldsmith/internal/apt"
	"goldsmith/internal/testenv"
)

// setM is the set of packages that builders are compared with.
var setM = []string{"linux-image-cloud-amd64", "systemd-sysv", "udev"}

// unwanted is what neither unpacks, as dpkg's options.
var unwanted = []string{
	"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*",
}

// The tree that imgbuild bootstrap makes is mmdebstrap's but for what
// docs/performance.md lists with reasons, is the same each time, and needs no
// network the second time.
func TestBootstrapAsMmdebstrap(t *testing.T) {
	need(t, true)
	testenv.Need(t, "mmdebstrap", "chroot")
	dir := t.TempDir()
	sources, err := apt.HostSources("/", "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	theirs := []string{"--mode=root", "--format=directory", "--variant=minbase", "--include=" + strings.Join(setM, ","),
		`--aptopt=APT::Install-Recommends "false"`}
	ours := []string{"bootstrap", "--suite", "bookworm", "--cache", filepath.Join(dir, "cache"),
		"--save-plan", filepath.Join(dir, "plan.json"), filepath.Join(dir, "ours")}
	for _, o := range unwanted {
		theirs = append(theirs, "--dpkgopt="+o)
		ours = append(ours, "--"+o)
	}
	for _, p := range setM {
		ours = append(ours, "--package", p)
	}
	theirs = append(theirs, "bookworm", filepath.Join(dir, "theirs"))
	for _, s := range sources {
		theirs = append(theirs, s.String())
		ours = append(ours, "--mirror", s.String())
	}
	t.Logf("ours: %.1f CPU s", cpu(t, filepath.Join("../bin", "imgbuild"), ours...))
	t.Logf("mmdebstrap: %.1f CPU s", cpu(t, "mmdebstrap", theirs...))
	compareTrees(t, filepath.Join(dir, "theirs"), filepath.Join(dir, "ours"))

	again := []string{"bootstrap", "--plan", filepath.Join(dir, "plan.json"), "--offline",
		"--cache", filepath.Join(dir, "cache")}
	for _, o := range unwanted {
		again = append(again, "--"+o)
	}
	cpu(t, filepath.Join("../bin", "imgbuild"), append(again, filepath.Join(dir, "again"))...)
	for _, d := range differences(t, filepath.Join(dir, "ours"), filepath.Join(dir, "again")) {
		t.Errorf("the second tree differs: %s", d)
	}
	check := exec.Command("chroot", filepath.Join(dir, "ours"), "sh", "-c", "dpkg --audit && apt-get check")
	out, err := check.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("nreconfigured")) {
		t.Errorf("dpkg and apt are not content: %v\n%s", err, out)
	}
}

// cpu runs a program and returns the seconds of processors that it and all
// that it ran have used.
func cpu(t *testing.T, name string, args ...string) float64 {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// listed is a row of the list of differences.
type listed struct {
	kind    string
	pattern *regexp.Regexp
	used    bool
}

var row = regexp.MustCompile("^\\| `(/[^`]*)` \\| (only theirs|only ours|mode or owner|content) \\| .+ \\|$")

func compareTrees(t *testing.T, theirs, ours string) {
	t.Helper()
	text, err := os.ReadFile("../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	var list []*listed
	for line := range strings.Lines(string(text)) {
		if m := row.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			pattern := strings.ReplaceAll(regexp.QuoteMeta(m[1]), `\*`, ".*")
			list = append(list, &listed{kind: m[2], pattern: regexp.MustCompile("^" + pattern + "$")})
		}
	}
	for _, d := range differences(t, theirs, ours) {
		known := false
		for _, l := range list {
			if l.kind == d.kind && l.pattern.MatchString(d.path) {
				l.used, known = true, true
			}
		}
		if !known {
			t.Errorf("not on the list in docs/performance.md: %s", d)
		}
	}
	for _, l := range list {
		if !l.used {
			t.Errorf("on the list in docs/performance.md, and no difference: %s %s", l.kind, l.pattern)
		}
	}
}

// difference is what one path has, and how.
type difference struct{ path, kind, detail string }

func (d difference) String() string { return d.kind + " " + d.path + " " + d.detail }

func differences(t *testing.T, theirs, ours string) []difference {
	t.Helper()
	a, b := survey(t, theirs), survey(t, ours)
	var out []difference
	for path, x := range a {
		y, ok := b[path]
		switch {
		case !ok:
			out = append(out, difference{path, "only theirs", ""})
		case x.owner != y.owner:
			out = append(out, difference{path, "mode or owner", x.owner + ", ours " + y.owner})
		}
		if ok && x.content != y.content {
			out = append(out, difference{path, "content", ""})
		}
	}
	for path := range b {
		if _, ok := a[path]; !ok {
			out = append(out, difference{path, "only ours", ""})
		}
	}
	slices.SortFunc(out, func(x, y difference) int { return strings.Compare(x.path+x.kind, y.path+y.kind) })
	return out
}

type seen struct{ owner, content string }

func survey(t *testing.T, root string) map[string]seen {
	t.Helper()
	out := map[string]seen{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		s := seen{owner: fmt.Sprintf("%s %d:%d", fi.Mode(), st.Uid, st.Gid)}
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s.content = fmt.Sprintf("%x", sha256.Sum256(b))
		case fi.Mode()&fs.ModeSymlink != 0:
			if s.content, err = os.Readlink(p); err != nil {
				return err
			}
		}
		out["/"+strings.TrimPrefix(strings.TrimPrefix(p, root), "/")] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
