package command

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// LendTerminal arranges that the program started with sys has our terminal to
// itself: it is the foreground job, and may set the terminal to raw. The
// returned function takes the terminal back as it was. Without a terminal on
// standard input nothing is done.
func LendTerminal(sys *syscall.SysProcAttr) (restore func()) {
	fd := int(os.Stdin.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return func() {}
	}
	ours, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || ours != unix.Getpgrp() { // we are a background job
		return func() {}
	}
	sys.Foreground, sys.Ctty = true, fd
	return func() {
		// Until it has the terminal back, this process is a background job:
		// taking it would stop us.
		signal.Ignore(syscall.SIGTTOU)
		if ours != 0 { // it is 0 where our group is of another process namespace
			_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, ours)
		}
		_ = term.Restore(fd, state)
		signal.Reset(syscall.SIGTTOU)
	}
}
