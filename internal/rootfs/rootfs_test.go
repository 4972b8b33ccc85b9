package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// The tests run in the namespaces that a build runs in.
func TestMain(m *testing.M) {
	Init()
	if os.Getenv("ROOTFS_TEST_TELL") != "" {
		in := Isolated()
		_, marked := os.LookupEnv(isolated)
		fmt.Printf("isolated %t, marked %t\n", in, marked)
		os.Exit(0)
	}
	if os.Geteuid() == 0 {
		if err := Isolate(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// base makes a tree that shell scripts can run in.
func base(t *testing.T) string {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFile(t, "/bin/busybox")
	root := t.TempDir()
	for _, d := range []string{"bin", "etc"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "ls", "cat", "sleep", "touch", "hostname", "stat", "dd", "chmod", "grep", "wc"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestChroot(t *testing.T) {
	root := base(t)
	hooks := t.TempDir()
	if err := os.WriteFile(filepath.Join(hooks, "hello"), []byte("from a hook\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	c := Chroot{Root: root, Hooks: hooks}
	for _, tt := range []struct{ script, want string }{
		{"[ $(ls /proc | grep -c '^[0-9]') -le 6 ] && echo few", "few"}, // nobody else's processes
		{"sh -c 'kill -TERM $$'; echo $?", "143"},
		{"cat " + HooksDir + "/hello", "from a hook"},
		{"touch " + HooksDir + "/x 2>/dev/null || echo refused", "refused"},
		{"touch /sys/x 2>&1 | grep -o 'Read-only file system'", "Read-only file system"},
		{"ls /sys/fs/cgroup", ""}, // what is mounted there on the host is not
		{"chmod 666 /dev/null 2>&1 | grep -o 'Read-only file system'", "Read-only file system"},
		{"ls /dev", "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"},
		{"echo x >/dev/null && dd if=/dev/zero bs=1 count=3 2>/dev/null | wc -c", "3"},
		{"hostname changed && hostname", "changed"},
		{"pwd", "/"},
		{"echo $GREETING", "hi"},
	} {
		out, err := chrootOutput(t, c, tt.script)
		if got := strings.Join(strings.Fields(out), " "); got != tt.want || err != nil {
			t.Errorf("%s = %q, %v; want %q", tt.script, got, err, tt.want)
		}
	}
	// A program may end itself by a signal, which the first process of a
	// namespace could not.
	for script, want := range map[string]int{"kill -TERM $$; echo goes on": 143, "kill -9 $$; echo goes on": 137, "exit 3": 3} {
		out, err := chrootOutput(t, c, script)
		x, ok := errors.AsType[*command.ExitError](err)
		if !ok || x.Status != want || out != "" {
			t.Errorf("%s: %v, output %q; want status %d", script, err, out, want)
		}
	}
	if now, _ := os.Hostname(); now != host {
		t.Errorf("a hook renamed the host to %s", now)
	}
	// Nothing stays mounted in the tree.
	if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(root)) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}

func chrootOutput(t *testing.T, c Chroot, script string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := c.Exec(t.Context(), command.Exec{
		Args: []string{"/bin/busybox", "sh", "-c", script}, Env: []string{"PATH=/bin", "GREETING=hi"}, Stdout: &out,
	})
	return out.String(), err
}

func TestChrootFailures(t *testing.T) {
	root := base(t)
	c := Chroot{Root: root}
	_, err := chrootOutput(t, c, "echo why >&2; exit 7")
	ee, ok := errors.AsType[*command.ExitError](err)
	if !ok || ee.Status != 7 || ee.Args[0] != "/bin/busybox" || strings.Join(ee.Tail, "") != "why" {
		t.Errorf("exit 7: %v", err)
	}
	err = c.Exec(t.Context(), command.Exec{Args: []string{"/bin/nothere"}})
	if err == nil || !strings.Contains(err.Error(), "/bin/nothere: not in the image") {
		t.Errorf("a missing program: %v", err)
	}
	// A tree must not lead a mount to somewhere else.
	if err := os.Remove(filepath.Join(root, "proc")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "proc")); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(t.Context(), command.Exec{Args: []string{"/bin/sh"}}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("/proc as a link: %v", err)
	}
	outside := t.TempDir()
	if _, err := mountPoint(root, "proc/x"); err == nil {
		t.Error("a mount point below a link was taken")
	}
	if err := os.Symlink(outside, filepath.Join(root, "tmp")); err != nil {
		t.Fatal(err)
	}
	if _, err := mountPoint(root, HooksDir); err == nil {
		t.Errorf("%s was taken where /tmp is a link", HooksDir)
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("made outside the tree: %v", left)
	}
}

// What a hook leaves running ends with the hook.
func TestBackgroundProcessesEnd(t *testing.T) {
	c := Chroot{Root: base(t)}
	if _, err := chrootOutput(t, c, "sleep 76543 >/dev/null 2>&1 & echo started"); err != nil {
		t.Fatal(err)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, _ := os.ReadFile(p); bytes.Contains(b, []byte("76543")) {
			t.Errorf("%s still runs", p)
		}
	}
}

// Several directories lie on each other, whatever their paths hold, and what
// was changed can lie below the next overlay.
func TestOverlay(t *testing.T) {
	lower, second := base(t), filepath.Join(t.TempDir(), "a,b:c \\d")
	if err := os.MkdirAll(filepath.Join(second, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(second, "etc/second"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	top := filepath.Join(t.TempDir(), "x,y:z")
	mnt, scratch := filepath.Join(top, "mnt"), filepath.Join(top, "scratch")
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Overlay(mnt, []string{lower, second}, scratch); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(mnt); err != nil {
			t.Errorf("Unmount: %v", err)
		}
	})
	if _, err := os.Stat(filepath.Join(mnt, "etc/second")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(mnt, "etc/new"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(mnt, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(lower, "etc/new")); err == nil {
		t.Error("the base was written to")
	}
	if _, err := os.Lstat(filepath.Join(lower, "bin/sh")); err != nil {
		t.Error("the base lost a file")
	}
	if err := EndOverlay(mnt, scratch); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(scratch); len(left) != 1 || err != nil {
		t.Errorf("left in the scratch directory: %v, %v; want the changes", left, err)
	}
	if err := Overlay(mnt, []string{lower, second, filepath.Join(scratch, OverlayChanges)}, filepath.Join(top, "next")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mnt, "etc/new")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(mnt, "bin/sh")); err == nil {
		t.Error("a file that was removed is there again")
	}
}

// Unmount takes away what anybody mounted below a directory, also where one
// mount hides another, and leaves what lies beside it.
func TestUnmount(t *testing.T) {
	testenv.NeedRoot(t)
	top := t.TempDir()
	dir, beside := filepath.Join(top, "work [x] y"), filepath.Join(top, "work [x] yz")
	precious := t.TempDir()
	file := filepath.Join(precious, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	bind := func(at string) {
		t.Helper()
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(precious, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	bind(beside)
	t.Cleanup(func() { _ = unix.Unmount(beside, unix.MNT_DETACH) })
	bind(filepath.Join(dir, "base/root/var/cache/apt\\#\n"))
	bind(filepath.Join(dir, "mnt/sub"))
	bind(filepath.Join(dir, "mnt")) // hides mnt/sub
	bind(filepath.Join(dir, "mnt"))
	if err := Unmount(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := mountPoints(dir); len(left) > 0 || err != nil {
		t.Errorf("still mounted: %q, %v", left, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	for _, p := range []string{file, filepath.Join(beside, "file")} {
		if _, err := os.Stat(p); err != nil {
			t.Errorf("a file outside is gone: %v", err)
		}
	}
	if err := Unmount(dir); err != nil {
		t.Errorf("Unmount of what is not there: %v", err)
	}
}

// A mark in the environment is not believed, and not handed on.
func TestMarkAlone(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ROOTFS_TEST_TELL=1", isolated+"=1")
	out, err := cmd.CombinedOutput()
	if got, want := string(out), "isolated false, marked false\n"; got != want || err != nil {
		t.Errorf("a process with the mark says %q, %v; want %q", got, err, want)
	}
	if _, ok := os.LookupEnv(isolated); ok {
		t.Error("the mark is still in this process's environment")
	}
	if os.Geteuid() == 0 && !Isolated() {
		t.Error("this process is in namespaces and does not know")
	}
}
