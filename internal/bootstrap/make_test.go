package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"goldsmith/internal/apt"
	"goldsmith/internal/command"
	"goldsmith/internal/dpkg"
	"goldsmith/internal/testenv"
)

// fakeDpkg configures everything that is unpacked, or what it is told to.
const fakeDpkg = `#!/bin/sh
set -e
echo "dpkg $*" >>/log
for p in $(sed -n 's/^Package: //p' /var/lib/dpkg/status); do
    case " $* " in *" --pending "* | *" $p "*) ;; *) continue ;; esac
    grep -qx "$p" /done 2>/dev/null && continue
    script=/var/lib/dpkg/info/$p.postinst
    if [ -x "$script" ] && ! "$script" configure; then
        echo "dpkg: error processing package $p (--configure):"
        echo " installed $p package post-installation script subprocess returned error exit status 1"
        exit 1
    fi
    echo "$p" >>/done
done
for p in $(cat /done); do
    sed -i "/^Package: $p\$/,/^Status/s/ok unpacked/ok installed/" /var/lib/dpkg/status
done
`

// base is the essential package of a system that has just busybox.
func base(t *testing.T) []byte {
	t.Helper()
	testenv.NeedFile(t, "/bin/busybox")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	entries := []entry{
		{name: "./bin/busybox", text: string(busybox), mode: 0o755},
		{name: "./usr/bin/dpkg", text: fakeDpkg, mode: 0o755},
		{name: "./usr/sbin/update-initramfs", text: "#!/bin/sh\necho real $* >>/log\n", mode: 0o755},
		{name: "./etc/machine-id", text: "of the build\n", mode: 0o444},
	}
	for _, name := range []string{"sh", "mv", "rm", "sed", "grep", "cat", "mkdir"} {
		entries = append(entries, entry{name: "./bin/" + name, link: "busybox"})
	}
	return pack(t, "Package: base\nVersion: 1\nArchitecture: all\nEssential: yes\n", map[string]string{
		"preinst": "#!/bin/sh\n[ -e /bin/mv ] && echo \"base $*\" >>/log\n",
	}, entries)
}

// script is a package with a file, and scripts that note that they ran.
func script(t *testing.T, name, fields string, scripts map[string]string) []byte {
	t.Helper()
	for n, text := range scripts {
		scripts[n] = "#!/bin/sh\n" + text
	}
	return pack(t, "Package: "+name+"\nVersion: 1\nArchitecture: all\n"+fields, scripts,
		[]entry{{name: "./usr/share/" + name, text: name, mode: 0o644}})
}

func makeAll(t *testing.T, o Options, debs ...[]byte) (string, error) {
	t.Helper()
	testenv.NeedRoot(t)
	cache, root := t.TempDir(), filepath.Join(t.TempDir(), "root")
	plan := &apt.Plan{Suite: "s", Arch: "amd64", Sources: []string{"deb http://m s main"}}
	for i, b := range debs {
		plan.Packages = append(plan.Packages, keep(t, cache, i, b))
	}
	return root, Make(t.Context(), plan, cache, root, o)
}

func TestMake(t *testing.T) {
	root, err := makeAll(t, Options{}, base(t),
		script(t, "late", "Pre-Depends: worker\n", map[string]string{"preinst": "echo late $* >>/log\n"}),
		script(t, "tool", "", map[string]string{
			"preinst":  "[ -e /usr/share/tool ] || echo \"tool $* $DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_NAME\" >>/log\n",
			"postinst": "update-initramfs -u\nmkdir -p /run/x /run/lock/y\npolicy-rc.d || echo policy $? >>/log\n",
		}),
		script(t, "worker", "", map[string]string{"postinst": "echo worker $* >>/log\n"}))
	if err != nil {
		t.Fatal(err)
	}
	const opts = "--force-unsafe-io --force-confnew --log=/dev/null --configure"
	want := strings.Join([]string{
		"base install", "dpkg " + opts + " base", "tool install tool preinst", "dpkg " + opts + " worker", "worker configure",
		"late install", "dpkg " + opts + " --pending", "policy 101", "",
	}, "\n")
	if got := content(t, filepath.Join(root, "log")); got != want {
		t.Errorf("what ran:\n%swant:\n%s", got, want)
	}
	for file, want := range map[string]string{
		"etc/machine-id": "", "etc/apt/sources.list": "deb http://m s main\n",
		"var/lib/apt/extended_states": "Package: worker\nArchitecture: amd64\nAuto-Installed: 1\n\n",
		"usr/sbin/update-initramfs":   "#!/bin/sh\necho real $* >>/log\n",
	} {
		if got := content(t, filepath.Join(root, file)); got != want {
			t.Errorf("%s is %q; want %q", file, got, want)
		}
	}
	for _, file := range []string{
		"usr/sbin/policy-rc.d", "usr/sbin/update-initramfs" + aside, "run/x", "var/lib/dpkg/tmp.ci",
		"var/lib/dpkg/goldsmith.ci",
	} {
		if _, err := os.Lstat(filepath.Join(root, file)); err == nil {
			t.Errorf("%s is left", file)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "run/lock/y")); err != nil {
		t.Error(err)
	}
	root, err = makeAll(t, Options{Initramfs: true}, base(t))
	if got := content(t, filepath.Join(root, "log")); err != nil || !strings.HasSuffix(got, "\nreal -c -k all\n") {
		t.Errorf("with an initramfs: %v\n%s", err, got)
	}
}

func TestMakeFailures(t *testing.T) {
	for want, p := range map[string][]byte{
		"preinst: package bad: its preinst ended with status 3": script(t, "bad", "", map[string]string{
			"preinst": "echo why\nexit 3\n"}),
		"configuration: package bad (--configure):": script(t, "bad", "", map[string]string{
			"postinst": "echo why\nexit 1\n"}),
	} {
		_, err := makeAll(t, Options{}, base(t), p)
		if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "why") {
			t.Errorf("%v; want %s", err, want)
		}
	}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := Make(t.Context(), &apt.Plan{}, t.TempDir(), root, Options{})
	if err == nil || !strings.Contains(err.Error(), "is not empty") || command.Status(err) != command.StatusUsage {
		t.Errorf("a tree that is not empty: %v", err)
	}
}

// The filter is on one thread and on what it starts, and nowhere else.
func TestWithoutSync(t *testing.T) {
	testenv.NeedRoot(t)
	if err := withoutSync(func() error { return unix.Fsync(-1) }); err != nil {
		t.Errorf("a sync was made: %v", err)
	}
	for range 20 {
		if err := unix.Fsync(-1); !errors.Is(err, unix.EBADF) {
			t.Fatalf("no sync was made on another thread: %v", err)
		}
	}
}

// A preinst waits for the configuration of what it may count on, and for
// nothing else.
func TestReady(t *testing.T) {
	rel := func(s string) []dpkg.Alternatives {
		r, err := dpkg.ParseRelations(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	add := func(s *system, name, before, needs string, unpacked, hasPostinst bool) *pkg {
		p := newTestPackage(name)
		p.before, p.needs, p.unpacked = rel(before), append(rel(before), rel(needs)...), unpacked
		if hasPostinst {
			p.control.Files["postinst"] = []byte("x")
		}
		s.packages = append(s.packages, p)
		return p
	}
	s := &system{}
	add(s, "inert", "", "", true, false)
	add(s, "busy", "", "inert", true, true)
	add(s, "over", "", "busy", true, false)
	add(s, "gone", "", "", false, false)
	for before, want := range map[string]bool{
		"": true, "inert": true, "busy": false, "over": false, "gone": false, "gone | inert": true,
	} {
		p := add(s, "p", before, "", false, false)
		if got := s.ready(p, map[*pkg]bool{}); got != want {
			t.Errorf("Pre-Depends: %s is ready: %t; want %t", before, got, want)
		}
		s.packages = s.packages[:len(s.packages)-1]
	}
	p := add(s, "p", "over", "", false, false)
	var got []string
	for _, q := range s.awaited([]*pkg{p}) {
		got = append(got, q.Name)
	}
	if !slices.Equal(got, []string{"inert", "busy", "over"}) {
		t.Errorf("awaited are %v", fmt.Sprint(got))
	}
}
