package imagebuild

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/tree"
)

func TestNormalise(t *testing.T) {
	epoch := time.Unix(1e9, 0)
	tr := tree.New()
	for p, perm := range map[string]uint32{
		"etc/ssh/ssh_host_rsa_key": 0o600, "etc/ssh/ssh_host_rsa_key.pub": 0o644, "etc/ssh/sshd_config": 0o644,
		"etc/hostname": 0o644, "etc/hosts": 0o644, "etc/passwd": 0o644, "etc/passwd-": 0o644, "etc/.pwd.lock": 0o600,
		"var/log/dpkg.log": 0o644, "var/log/apt/history.log": 0o644, "tmp/left": 0o644, "tmp/dir/left": 0o644, "run/x": 0o644,
		"var/cache/apt/pkgcache.bin": 0o644, "var/cache/apt/archives/x.deb": 0o644, "var/lib/dpkg/status-old": 0o644,
		"var/lib/apt/lists/x": 0o644, "var/lib/systemd/random-seed": 0o600, "usr/run/kept": 0o644, "root/.bash_history": 0o600,
	} {
		tr.AddFile(p, perm, []byte(p)).ModTime = epoch.Add(time.Hour)
	}
	tr.AddFile("etc/machine-id", 0o600, []byte("0123456789abcdef"))
	tr.Add(&tree.Entry{Path: "var/log/current", Mode: tree.ModeSymlink | 0o777, Target: "x"})
	tr.Add(&tree.Entry{Path: "dev", Mode: tree.ModeDir | 0o755, ModTime: epoch.Add(-time.Hour)})
	if err := normalise(tr, epoch); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range tr.All() {
		got = append(got, e.Path)
		if !e.ModTime.Equal(epoch) {
			t.Errorf("%s is of %v", e.Path, e.ModTime)
		}
	}
	want := []string{
		".", "dev", "etc", "etc/hosts", "etc/machine-id", "etc/passwd", "etc/ssh", "etc/ssh/sshd_config", "root", "run", "tmp",
		"usr", "usr/run", "usr/run/kept", "var", "var/cache", "var/cache/apt", "var/cache/apt/archives",
		"var/lib", "var/lib/apt", "var/lib/apt/lists", "var/lib/dpkg", "var/lib/systemd", "var/log", "var/log/apt", "var/log/current",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("tree (-want +got):\n%s", d)
	}
	if id := tr.Lookup("etc/machine-id"); id.Size != 0 || id.Mode != tree.ModeRegular|0o444 {
		t.Errorf("machine-id: %+v", id)
	}
}

// A machine-id that is a hard link leaves the others of its group alone.
func TestNormaliseHardLinks(t *testing.T) {
	dir := t.TempDir()
	hooksTree(t, dir, map[string]string{"etc/machine-id": "secret", "usr/.x": "", "tmp/a": "kept"})
	for from, to := range map[string]string{"etc/machine-id": "usr/keep", "tmp/a": "usr/also"} {
		if err := os.Link(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := normalise(tr, time.Now()); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{"etc/machine-id": "", "usr/keep": "secret", "usr/also": "kept"} {
		e := tr.Lookup(p)
		b, err := e.ReadFile()
		if string(b) != want || err != nil || e.LinkTo != "" {
			t.Errorf("%s = %q, %v, link to %q; want %q", p, b, err, e.LinkTo, want)
		}
	}
}

func TestNormaliseWithoutEtc(t *testing.T) {
	tr := tree.New()
	if err := normalise(tr, time.Now()); err != nil || tr.Len() != 1 {
		t.Errorf("an empty tree: %d entries, %v", tr.Len(), err)
	}
	tr.Add(&tree.Entry{Path: "etc", Mode: tree.ModeSymlink | 0o777, Target: "usr/etc"})
	if err := normalise(tr, time.Now()); err == nil {
		t.Error("a file was put below a symbolic link")
	}
}

func TestLendResolvConf(t *testing.T) {
	host := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(host, []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		image  string // the image's own: a text, "" for none, or "->target"
		hook   func(conf string) error
		during string
		after  string
	}{
		{"own", "own", nil, "host", "own"},
		{"none", "", nil, "host", ""},
		{"link", "->../run/stub", nil, "host", "->../run/stub"},
		{"hook makes a link", "own", func(conf string) error {
			return os.Symlink("../run/stub", conf)
		}, "host", "->../run/stub"},
		{"hook removes it", "own", func(string) error { return nil }, "host", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tree := t.TempDir()
			conf := filepath.Join(tree, resolvConf)
			if tt.image != "" {
				put(t, conf, tt.image)
			}
			_, err := lendResolvConf(tree, host)
			if err != nil {
				t.Fatal(err)
			}
			if got := look(t, conf); got != tt.during {
				t.Errorf("while hooks run it is %q; want %q", got, tt.during)
			}
			if tt.hook != nil {
				if err := os.Remove(conf); err != nil {
					t.Fatal(err)
				}
				if err := tt.hook(conf); err != nil {
					t.Fatal(err)
				}
			}
			if err := restoreResolvConf(tree); err != nil {
				t.Fatal(err)
			}
			if got := look(t, conf); got != tt.after {
				t.Errorf("afterwards it is %q; want %q", got, tt.after)
			}
			if got := look(t, conf+".ORIG"); got != "" {
				t.Errorf("resolv.conf.ORIG is left: %q", got)
			}
		})
	}
}

// A tree's etc that leads out of it must not lead to the host's file.
func TestLendResolvConfStaysInside(t *testing.T) {
	host, tree := t.TempDir(), t.TempDir()
	conf := filepath.Join(host, "resolv.conf")
	put(t, conf, "host")
	if err := os.Symlink(host, filepath.Join(tree, "etc")); err != nil {
		t.Fatal(err)
	}
	if _, err := lendResolvConf(tree, conf); err == nil {
		t.Error("no error")
	}
	if got := look(t, conf); got != "host" || look(t, conf+".ORIG") != "" {
		t.Errorf("the host's file is now %q", got)
	}
}

// put makes a file, or a link where the text begins with "->".
func put(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if len(text) > 2 && text[:2] == "->" && err == nil {
		err = os.Symlink(text[2:], path)
	} else if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// look is the reverse; it is empty when nothing is there.
func look(t *testing.T, path string) string {
	t.Helper()
	if target, err := os.Readlink(path); err == nil {
		return "->" + target
	}
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	return string(b)
}
