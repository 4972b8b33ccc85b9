package libvirt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bedArg0 is argv[0] of the process that becomes the bed's first process.
const bedArg0 = "goldsmith-bed"

// File descriptors of the bed's first process beside standard input, which
// ends when our process does, and output, which is the bed's log.
const bedLockFD = 3

// Init must be the first call of main, or of TestMain, in every program that
// uses StartBed. It does nothing unless StartBed started this very process to
// become the first process of a bed; then it does not return.
func Init() {
	if len(os.Args) != 2 || os.Args[0] != bedArg0 {
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", bedArg0, runBed(os.Args[1]))
	os.Exit(1)
}

// private are the directories of libvirtd that the bed has to itself, by
// their name below the bed's directory.
var private = [...]struct{ name, path string }{
	{"etc", "/etc/libvirt"},
	{"run", "/run/libvirt"},
	{"lib", "/var/lib/libvirt"},
	{"cache", "/var/cache/libvirt"},
	{"log", "/var/log/libvirt"},
}

// runBed is process 1 of the bed's namespaces: it prepares them, runs libvirtd
// and reaps orphans. It returns only when something went wrong. When the
// process ends, the kernel kills everything in the bed.
func runBed(dir string) error {
	unix.CloseOnExec(bedLockFD) // held by this process, not by its children
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // our owner is gone or wants us gone
	}()
	if err := mountAll(dir); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	if err := writeConfig(dir); err != nil {
		return err
	}
	path, err := exec.LookPath("libvirtd")
	if err != nil {
		return err
	}
	daemon, err := syscall.ForkExec(path, []string{path, "-p", filepath.Join(dir, "libvirtd.pid")},
		&syscall.ProcAttr{Dir: "/", Env: os.Environ(), Files: []uintptr{openNull(), 1, 2}})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return reap(daemon)
}

func openNull() uintptr {
	fd, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 1
	}
	return uintptr(fd)
}

// mountAll gives the bed its own view: mounts that the host does not see, its
// own processes, its own network devices, its own libvirt directories.
func mountAll(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	for _, p := range private {
		own := filepath.Join(dir, p.name)
		if err := errors.Join(os.MkdirAll(own, 0o755), os.MkdirAll(p.path, 0o755)); err != nil {
			return err
		}
		if err := unix.Mount(own, p.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", p.path, err)
		}
	}
	for _, f := range [...]string{"passwd", "group"} {
		if err := addNames(dir, f); err != nil {
			return err
		}
	}
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, fs := range []string{"proc", "sysfs"} {
		at := map[string]string{"proc": "/proc", "sysfs": "/sys"}[fs]
		if err := unix.Mount(fs, at, fs, plain, ""); err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	return nil
}

// addNames shows libvirtd the user and group that it was built for, which the
// package that brings only the daemon does not make. libvirtd insists that
// they exist, although qemuConf names others.
func addNames(dir, file string) error {
	path := filepath.Join("/etc", file)
	have, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(have)
	for _, name := range [...]string{"libvirt-qemu", "qemu"} { // Debian, Fedora
		switch {
		case strings.HasPrefix(text, name+":") || strings.Contains(text, "\n"+name+":"):
		case file == "group":
			text += name + ":x:64055:\n"
		default:
			text += name + ":x:64055:64055::/nonexistent:/bin/false\n"
		}
	}
	own := filepath.Join(dir, file)
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	return nil
}

const qemuConf = `user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
`

const libvirtdConf = `unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
`

// writeConfig writes what libvirtd reads at its start. The directories that
// its packages would have brought are made too.
func writeConfig(dir string) error {
	for _, d := range []string{"images", "qemu", "dnsmasq", "network", "boot"} {
		if err := os.MkdirAll(filepath.Join(dir, "lib", d), 0o755); err != nil {
			return err
		}
	}
	conf := libvirtdConf + fmt.Sprintf("log_outputs = \"2:file:%s\"\n", filepath.Join(dir, "libvirtd.log"))
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "etc", "qemu.conf"), []byte(qemuConf), 0o600),
		os.WriteFile(filepath.Join(dir, "etc", "libvirtd.conf"), []byte(conf), 0o600))
}

// reap waits for all children, adopted ones too, until libvirtd ends.
func reap(daemon int) error {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid == daemon:
			return fmt.Errorf("libvirtd ended: exit status %d, signal %d", status.ExitStatus(), status.Signal())
		}
	}
}
