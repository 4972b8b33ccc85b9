package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// HooksDir is where a program in the chroot finds the image's hooks tree,
// read-only; existing elements rely on the name.
const HooksDir = "/tmp/in_target.d"

// enter is the first argument of the helper process that becomes a program
// inside the chroot; the other one gives it this machine's devices.
const (
	enter        = "goldsmith-enter-chroot"
	enterDevices = "goldsmith-enter-chroot-devices"
)

// Init is the other half of [Chroot.Exec] and [Isolate]. A program that calls
// these calls it first in main: in their helper processes it does not return,
// nor where hooks call the program in the place of sudo.
func Init() {
	if len(os.Args) > 2 && os.Args[0] == self && os.Args[1] == enterMapped {
		fmt.Fprintln(os.Stderr, becomeRoot(os.Args[2:]))
		os.Exit(notInside)
	}
	if filepath.Base(os.Args[0]) == sudo {
		if err := runSudo(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "sudo:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	Isolated() // before anybody looks at the environment
	if len(os.Args) < 5 || os.Args[0] != self || os.Args[1] != enter && os.Args[1] != enterDevices {
		return
	}
	status, err := runInside(os.Args[2], os.Args[3], os.Args[1] == enterDevices, os.Args[4:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// Chroot runs programs inside a tree.
type Chroot struct {
	Root  string // the tree
	Hooks string // seen inside as HooksDir; empty means nothing is
	// Devices shows this machine's /dev inside instead of a small one of the
	// chroot's own: for a boot loader that is to be written to a disk.
	Devices bool
}

// Exec runs x inside the tree: x.Args[0] is looked up there and x.Dir is
// ignored, the program starts in "/", as user and group 0 and in no other
// group. It sees its own process numbers, a fresh /proc and /dev, a read-only
// /sys, and the host's network. Of x.Sys only the terminal is kept. Whatever it
// leaves running ends with it.
func (c Chroot) Exec(ctx context.Context, x command.Exec) error {
	args, how := x.Args, enter
	if c.Devices {
		how = enterDevices
	}
	x.Args = append([]string{self, how, c.Root, c.Hooks}, args...)
	x.Dir = "/"
	sys := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	if x.Sys != nil {
		sys.Foreground, sys.Ctty = x.Sys.Foreground, x.Sys.Ctty
	}
	x.Sys = sys
	err := x.Run(ctx)
	if ee, ok := errors.AsType[*command.ExitError](err); ok {
		ee.Args = args
	}
	return err
}

// notInside is the exit status of a program that could not be started, as a
// shell's.
const notInside = 127

// runInside enters the tree, runs the program and returns its exit status as a
// shell gives it.
func runInside(root, hooks string, devices bool, args []string) (int, error) {
	if err := enterTree(root, hooks, devices); err != nil {
		return notInside, err
	}
	// The caller's other groups must not decide what a hook does.
	if err := syscall.Setgroups([]int{0}); err != nil {
		return notInside, fmt.Errorf("groups: %w", err)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return notInside, fmt.Errorf("%s: not in the image", args[0])
	}
	// This process is the first of its namespace: the kernel would keep signals
	// from the program in its place that it does not handle, those it sends
	// itself among them. A signal to the group reaches the program directly;
	// here it is caught, not ignored, which the program would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	cmd := exec.Command(path)
	cmd.Args = args
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return notInside, fmt.Errorf("%s: %w", args[0], err)
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR || err == nil && pid != cmd.Process.Pid: // or an orphan
		case err != nil:
			return notInside, err
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		default:
			return ws.ExitStatus(), nil
		}
	}
}

func enterTree(root, hooks string, devices bool) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mountProc(root); err != nil {
		return err
	}
	if err := mountSys(root); err != nil {
		return err
	}
	dev := makeDev
	if devices {
		dev = shareDev
	}
	if err := dev(root); err != nil {
		return err
	}
	if hooks != "" {
		if err := bindReadOnly(hooks, root, HooksDir); err != nil {
			return err
		}
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("chroot %s: %w", root, err)
	}
	return os.Chdir("/")
}

// mountPoint makes sure that root/dir is a directory, and that neither it nor
// one of its parents is a link to somewhere else.
func mountPoint(root, dir string) (string, error) {
	p := root
	for name := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		p = filepath.Join(p, name)
		fi, err := os.Lstat(p)
		switch {
		case os.IsNotExist(err):
			err = os.Mkdir(p, 0o755)
		case err == nil && !fi.IsDir():
			err = fmt.Errorf("%s: not a directory", p)
		}
		if err != nil {
			return "", err
		}
	}
	return p, nil
}
