package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mark on the kernel's command line says that this is a machine of ours.
const mark = "goldsmith.vm"

// jobFile is what the machine is to do, in its first root.
const jobFile = "job.json"

// hello is the line that says that the machine is up.
const hello = "goldsmith-vm: up"

// hostDir is where the machine mounts the host's files before it makes them
// its root.
const hostDir = "/host"

// job is what the host tells the machine. It may hold secrets of the caller's
// environment: it lies in a file that only root can read.
type job struct {
	Args    []string
	Dir     string
	Env     []string
	Modules []string // in the order in which they are loaded
	Host    string   // the host's name, which sudo looks up
	Status  string   // the file for the program's exit status
}

func (j job) marshal() ([]byte, error) { return json.Marshal(j) }

// Init is the machine's half of [Run]. A program that calls Run calls Init
// first in main: in the machine, where it is process 1, it does not return.
func Init() {
	if os.Getpid() != 1 {
		return
	}
	if _, err := os.Stat("/proc/cmdline"); err == nil && !Inside() {
		return // a container's first process
	}
	if _, err := os.Stat("/" + jobFile); err != nil {
		return
	}
	if err := machine(); err != nil {
		fmt.Fprintln(os.Stderr, "goldsmith-vm:", err)
	}
	unix.Sync()
	// With -no-reboot, QEMU ends.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// Inside tells whether this is a machine of ours.
func Inside() bool {
	text, err := os.ReadFile("/proc/cmdline")
	return err == nil && slices.Contains(strings.Fields(string(text)), mark)
}

// machine brings the machine up, runs the program and notes how it ended.
func machine() error {
	unix.Umask(0o022)
	var j job
	text, err := os.ReadFile("/" + jobFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	if err := early(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(j.Host)); err != nil {
		return err
	}
	for _, m := range j.Modules {
		if err := insert("/modules/" + m + ".ko"); err != nil {
			return fmt.Errorf("load module %s: %w", m, err)
		}
	}
	if err := network(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := enterHost(); err != nil {
		return err
	}
	status, err := j.run()
	said := fmt.Sprint(status)
	if err != nil {
		said = err.Error()
	}
	return os.WriteFile(j.Status, []byte(said+"\n"), 0o600)
}

// early mounts what loading modules and opening consoles needs.
func early() error {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

func insert(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// enterHost makes the host's files the root, with this machine's own devices,
// processes and resolver.
func enterHost() error {
	const options = "trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=client"
	if err := unix.Mount("host", hostDir, "9p", 0, options); err != nil {
		return fmt.Errorf("mount the host's files: %w", err)
	}
	for _, m := range []struct {
		fs, dir, options string
		flags            uintptr
	}{
		{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", "", unix.MS_NOSUID},
		{"devpts", "/dev/pts", "mode=620,gid=5,ptmxmode=666", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "/run", "mode=755", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		if m.dir == "/dev/pts" || m.dir == "/dev/shm" {
			if err := os.MkdirAll(hostDir+m.dir, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.fs, hostDir+m.dir, m.fs, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := resolver(); err != nil {
		return err
	}
	if err := unix.Chroot(hostDir); err != nil {
		return err
	}
	return os.Chdir("/")
}

// resolver lays a resolv.conf of the user network's over the host's, which
// may name an address of the host's loopback.
func resolver() error {
	own := hostDir + "/run/resolv.conf"
	if err := os.WriteFile(own, []byte(ResolvConf), 0o644); err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(hostDir + "/etc/resolv.conf")
	if err != nil || !strings.HasPrefix(target, hostDir+"/etc/") {
		return nil // none, or a link into /run, which is the machine's own
	}
	return unix.Mount(own, target, "", unix.MS_BIND, "")
}

// run starts the program and waits for it. Other processes that end as
// children of process 1 are collected.
func (j job) run() (int, error) {
	out, err := os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	if err := raw(int(out.Fd())); err != nil {
		return 0, err
	}
	fmt.Fprintln(out, hello)
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"imgbuild"}, j.Args...)
	cmd.Dir, cmd.Env = j.Dir, j.Env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = out, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case pid != cmd.Process.Pid:
		case ws.Signaled():
			drain(out)
			return 128 + int(ws.Signal()), nil
		default:
			drain(out)
			return ws.ExitStatus(), nil
		}
	}
}

// drain waits until the serial line has sent what was written.
func drain(f *os.File) { _ = unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1) }

// raw keeps the serial line from changing what is written.
func raw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	t.Cflag = t.Cflag&^unix.CBAUD | unix.B115200
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// errNoInterface says that no network card came up.
var errNoInterface = errors.New("no interface came up")

// netLimit is how long the network card may take to appear.
const netLimit = 20 * time.Second
