package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Scripts for Terminal that offer what a machine's console offers: a root shell,
// and a login of root with the password "secret".
const (
	Autologin = `trap : INT; while :; do bash --norc -i +m; done`
	AskLogin  = `trap : INT
while :; do
	printf '\nbox login: '; read -r user || continue
	[ -n "$user" ] || continue
	stty -echo; printf 'Password: '; read -r password; stty echo; echo
	if [ "$user/$password" = root/secret ]; then bash --norc -i +m; else printf 'Login incorrect\n'; fi
done`
)

// Terminal runs a shell's script in a terminal of its own, and returns the
// terminal's other side. stop ends both, and may be called once.
func Terminal(script string) (master *os.File, stop func(), err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	// Fd has made it a blocking one; else Close would not end a Read.
	err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), unix.SetNonblock(fd, true))
	if err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	defer slave.Close()
	c := exec.Command("sh", "-c", script)
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	c.Env = append(os.Environ(), "PS1=root@box:~# ", "TERM=vt220")
	// Without a parent-death signal, which is the thread's: threads of a network
	// namespace end. When we do, the terminal hangs up.
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	return master, func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		_ = master.Close() // the shells in it are hung up
	}, nil
}
