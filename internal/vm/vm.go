// Package vm runs a part of a program in a small virtual machine of its own,
// for what only a kernel with real block devices can do: making file systems
// and volume groups, mounting them, installing a boot loader. The build host
// needs no loop device, no device mapper and no module for it.
//
// The machine has the host's whole file system at the same paths, shared over
// 9P, and disks that are files of the host. The program in it is the same
// binary: the host side calls [Run], and in the machine [Init] brings the
// network up, loads the kernel's modules and starts the program with the
// arguments that Run was given. The kernel is the image's own or the host's
// ([FindKernel]).
//
// It refuses to be a sandbox: the machine's root user may change what the
// host's may, as the hooks of a build always could. The machine ends with the
// process that started it, even when that is killed.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/initramfs"
	"goldsmith/internal/tree"
	"goldsmith/testbed"
)

// Config describes one machine. Kernel, Scratch and Args must be given.
type Config struct {
	Kernel *Kernel
	// Scratch is an existing directory for the initramfs, the console's log
	// and the status; the caller removes it.
	Scratch string
	// Args are what runs in the machine: the program's own arguments, without
	// its name. It starts in Dir with the environment Env.
	Args []string
	Dir  string   // empty means /
	Env  []string // NAME=value; nil means the caller's
	// Disks are raw files: /dev/vda, /dev/vdb, … in this order.
	Disks []Disk
	// MemoryMiB is the machine's memory; 0 means 2048.
	MemoryMiB int
	// Terminal lends the program the terminal of standard input. Without it,
	// the program must not read standard input: there is no end of it.
	Terminal bool
	// Log receives what the program prints.
	Log io.Writer
}

// Disk is a file that the machine has as a disk.
type Disk struct {
	Path       string
	ReadOnly   bool
	SectorSize int // bytes; 0 means 512
}

const program = "qemu-system-x86_64"

// Programs must be on the host.
var Programs = []string{program}

// startLimit is how long a machine may take until its program starts: some
// ten seconds under emulation on an idle host.
const startLimit = 5 * time.Minute

// Run starts the machine, waits for the program in it and returns how that
// ended: nil, or a [command.ExitError]. On a cancelled context the machine is
// stopped. A machine that ends without the program's status is an error with
// the last lines of its console.
func Run(ctx context.Context, c Config) error {
	j := job{Args: c.Args, Dir: c.Dir, Env: c.Env, Status: filepath.Join(c.Scratch, "vm-status")}
	if j.Env == nil {
		j.Env = os.Environ()
	}
	j.Env = slices.Clone(j.Env)
	for i, e := range j.Env {
		name, value, _ := strings.Cut(e, "=")
		j.Env[i] = name + "=" + Reachable(name, value)
	}
	var err error
	if j.Host, err = os.Hostname(); err != nil {
		return err
	}
	initrd := filepath.Join(c.Scratch, "vm-initrd")
	if err := c.writeInitrd(initrd, j); err != nil {
		return err
	}
	defer os.Remove(initrd)
	console := filepath.Join(c.Scratch, "vm-console.log")
	started := make(chan struct{})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(startLimit, func() {
		select {
		case <-started:
		default:
			cancel(fmt.Errorf("the virtual machine did not start within %s%s", startLimit, consoleTail(console)))
		}
	})
	defer limit.Stop()
	out := &output{w: c.Log, started: started}
	x := command.Exec{
		Args: c.qemu(testbed.Accelerator(ctx), initrd, console), Sys: &syscall.SysProcAttr{},
		Stdout: out, Grace: time.Second, Remedy: "Debian packages it as qemu-system-x86",
	}
	if c.Terminal {
		x.Stdin = os.Stdin
		defer command.LendTerminal(x.Sys)()
	}
	if err = x.Run(ctx); err != nil {
		return err
	}
	text, err := os.ReadFile(j.Status)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the virtual machine ended without a word%s", consoleTail(console))
	}
	if err != nil {
		return err
	}
	status, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("the virtual machine said: %s", strings.TrimSpace(string(text)))
	}
	if status != 0 {
		return &command.ExitError{Args: c.Args, Status: status}
	}
	return nil
}

// consoleTail is the end of the kernel's console, for an error.
func consoleTail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(text), "\r", "")), "\n")
	lines = lines[max(0, len(lines)-8):]
	return ":\n    " + strings.Join(lines, "\n    ")
}

// hostAddress is the host as the machine's user network shows it, QEMU's
// default (qemu(1), -netdev user).
const hostAddress = "10.0.2.2"

// Reachable is the value of an environment variable as a program in the machine
// needs it: a proxy on the host's loopback has another address there.
func Reachable(name, value string) string {
	if l := strings.ToLower(name); !strings.HasSuffix(l, "_proxy") || l == "no_proxy" {
		return value
	}
	u, err := url.Parse(value)
	if err != nil || !slices.Contains([]string{"127.0.0.1", "localhost", "::1"}, u.Hostname()) {
		return value
	}
	u.Host = net.JoinHostPort(hostAddress, u.Port())
	return u.String()
}

// qemu is the machine's command line.
func (c Config) qemu(accel, initrd, console string) []string {
	cpu := "max"
	if accel == testbed.KVM {
		cpu = "host"
	} else {
		accel += ",thread=multi"
	}
	memory := c.MemoryMiB
	if memory == 0 {
		memory = 2048
	}
	args := []string{
		program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", accel, "-cpu", cpu, "-smp", "2", "-m", strconv.Itoa(memory),
		"-kernel", c.Kernel.Image, "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 loglevel=4 " + mark,
		"-device", "virtio-rng-pci",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-fsdev", "local,id=host,path=/,security_model=passthrough,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
		"-serial", "file:" + console,
		"-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out",
	}
	for i, d := range c.Disks {
		// A host's disk that is full is an error in the machine, which QEMU would
		// otherwise stop without a word.
		drive := fmt.Sprintf("if=none,id=disk%d,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap,"+
			"werror=report,rerror=report,file=%s", i, strings.ReplaceAll(d.Path, ",", ",,"))
		if d.ReadOnly {
			drive += ",readonly=on"
		}
		device := fmt.Sprintf("virtio-blk-pci,drive=disk%d", i)
		if d.SectorSize != 0 {
			device += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.SectorSize, d.SectorSize)
		}
		args = append(args, "-drive", drive, "-device", device)
	}
	return args
}

// executable is the program that runs in the machine: this one. It must be
// static, since the machine's first root has no libraries.
var executable = os.Executable

// writeInitrd writes the machine's first root: this program as /init, the
// kernel's modules, and the job.
func (c Config) writeInitrd(path string, j job) error {
	t := tree.New()
	self, err := executable()
	if err != nil {
		return err
	}
	if _, err := t.AddFrom("init", 0o755, self); err != nil {
		return err
	}
	for _, m := range c.Kernel.modules {
		t.AddFile("modules/"+m.Name+".ko", 0o644, m.Data)
		j.Modules = append(j.Modules, m.Name)
	}
	text, err := j.marshal()
	if err != nil {
		return err
	}
	t.AddFile(jobFile, 0o600, text)
	for _, dir := range []string{"dev", "proc", "sys", "host"} {
		t.Add(&tree.Entry{Path: dir, Mode: tree.ModeDir | 0o755})
	}
	// The job holds the caller's environment.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = initramfs.Archive(f, t, time.Unix(0, 0))
	return errors.Join(err, f.Close())
}

// output passes on what the program prints. A first line of our own says that
// it runs.
type output struct {
	w       io.Writer
	started chan struct{}
	head    []byte
	begun   bool
}

func (o *output) Write(p []byte) (int, error) {
	n := len(p)
	if !o.begun {
		o.head = append(o.head, p...)
		_, rest, found := bytes.Cut(o.head, []byte(hello+"\n"))
		if !found {
			return n, nil
		}
		o.begun = true
		close(o.started)
		p = rest
	}
	if o.w != nil && len(p) > 0 {
		if _, err := o.w.Write(p); err != nil {
			return 0, err
		}
	}
	return n, nil
}
