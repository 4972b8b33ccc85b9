// Package rootfs works on a root file system under construction: it keeps the
// base tree of an image as it was while hooks change a copy (an overlay), runs
// programs inside that copy, and makes sure that none of it is left behind.
//
// A process that builds runs in namespaces of its own ([Isolate]): its mounts
// are seen by nobody else and, with every process it started, they end with
// it, even when it is killed. Programs inside the tree run in a chroot with
// their own /proc, /dev and process numbers ([Chroot]).
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
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
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
// own: it starts itself once more with the same arguments, waits, and exits
// with that process's status. In the inner process it returns nil. Call it
// first in main. Without the rights for it, it returns an error in the outer
// process.
func Isolate() error {
	if Isolated() {
		return arrange()
	}
	if os.Geteuid() != 0 {
		return errors.New("only root can make mount namespaces")
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
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("namespaces: %w", err)
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

// arrange makes the inner process's mounts private and gives it a /proc that
// shows its own processes, and the umask that modes of a tree are made with.
func arrange() error {
	unix.Umask(0o022) // the caller's must not reach an image
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
