// Package rootfs works on a root file system under construction: it keeps the
// base tree of an image as it was while hooks change a copy (an overlay), runs
// programs inside that copy, and makes sure that none of it is left behind.
//
// A process that builds runs in namespaces of its own ([Isolate]): its mounts
// are seen by nobody else and, with every process it started, they end with
// it, even when it is killed. An ordinary user's process is also in a user
// namespace, where it is root and has the ids that an image's files belong to.
// Programs inside the tree run in a chroot with their own /proc, /dev and
// process numbers ([Chroot]).
//
// It refuses to be a container runtime: the network is the host's and a hook
// is trusted as much as whoever wrote the image definition.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// isolated marks the inner process of Isolate in its environment.
const isolated = "GOLDSMITH_ISOLATED"

// inner is found out once, since the mark is taken out of the environment for
// the programs that this one starts. The mark alone proves nothing, anybody
// can set it; the inner process is also the first of its namespace.
var inner = sync.OnceValue(func() bool {
	_, marked := os.LookupEnv(isolated)
	if marked {
		_ = os.Unsetenv(isolated)
	}
	return marked && os.Getpid() == 1
})

// self is how the program names itself when it starts a copy of itself.
const self = "/proc/self/exe"

// Isolated tells whether this process runs in the namespaces of Isolate.
func Isolated() bool { return inner() }

// Isolate moves the program into mount, process and IPC namespaces of its
// own, and where it is not root into a user namespace: it starts itself once
// more with the same arguments, waits, and exits with that process's status.
// In the inner process it returns nil. Call it on the main goroutine, before
// anything is done that should not be done twice, and [Init] first in main.
// Without the rights for it, it returns an error that says what to enable.
// With [WithoutNetwork], the namespaces have no network but a loopback
// interface of their own.
func Isolate(more ...Namespace) error {
	if Isolated() {
		if slices.Contains(more, WithoutNetwork) {
			if err := raiseLoopback(); err != nil {
				return err
			}
		}
		return arrange()
	}
	// The parent-death signal follows the thread, not the process.
	runtime.LockOSThread()
	cmd := exec.Command(self)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	for _, n := range more {
		cmd.SysProcAttr.Cloneflags |= uintptr(n)
	}
	start := cmd.Start
	if os.Geteuid() != 0 {
		ids, err := findIDs()
		if err != nil {
			return err
		}
		start = func() error { return startMapped(cmd, ids) }
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := start(); err != nil {
		return whyNot("/proc/sys", isSuperuser(), fmt.Errorf("namespaces: %w", err))
	}
	go func() {
		// The inner process sees an interrupt from the terminal by itself; a
		// second one does no harm.
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var ee *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &ee) && ee.ExitCode() >= 0:
		os.Exit(ee.ExitCode())
	case errors.As(err, &ee):
		fmt.Fprintf(os.Stderr, "ended by %s\n", ee.Sys().(syscall.WaitStatus).Signal())
		os.Exit(1)
	}
	return err
}

// Namespace is one more that [Isolate] makes.
type Namespace uintptr

// WithoutNetwork is a network namespace that leads nowhere.
const WithoutNetwork Namespace = unix.CLONE_NEWNET

// raiseLoopback brings up the interface lo: programs talk to themselves over it
// (netdevice(7)).
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// arrange makes the inner process's mounts private and gives it a /proc that
// shows its own processes, and the umask that modes of a tree are made with.
func arrange() error {
	unix.Umask(0o022) // the caller's must not reach an image
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return whyNot("/proc/sys", isSuperuser(), fmt.Errorf("make mounts private: %w", err))
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		err = fmt.Errorf("mount /proc: %w", err)
		if inUserNamespace() {
			// The kernel shows no more of /proc than was seen before, mount_namespaces(7).
			return command.Missing(err, "something lies over parts of /proc, as in a container: "+
				"start that with --security-opt systempaths=unconfined (docker) or unmask=ALL (podman)")
		}
		return err
	}
	if !inUserNamespace() {
		return nil
	}
	return errors.Join(hideHome(home), replaceSudo())
}

// home is the home directory that hooks are told, as root's.
const home = "/root"

// hideHome lays an empty directory over one that its user, though root of a
// namespace, may not look into.
func hideHome(dir string) error {
	if err := unix.Access(dir, unix.R_OK|unix.X_OK); err != unix.EACCES {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}
