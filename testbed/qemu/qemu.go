// Package qemu runs virtual machines with QEMU on this host. It needs neither
// root nor libvirtd, and leaves images as they are.
//
// [Run] is the whole life of a machine, from power on until it switches itself
// off, for a person at a terminal or a test that reads the console. [New] makes
// a [Machine] for package testbed, whose owner holds its power.
//
// A machine's process is bound to this one: it dies with it, even by SIGKILL.
// What QEMU and we tell each other goes through pairs of sockets without
// names, so that nothing of a machine is left but files in its directory.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Config says what to run. Image must be set.
type Config struct {
	Image       string
	ImageFormat string // "raw" or "qcow2"; "" means what the file's first bytes say
	// Write lets the machine change the image. Otherwise what it writes is
	// dropped at the end.
	Write bool
	// Record is a file that receives every write and flush of the machine to
	// the image, in order (internal/blocklog); "" means none. Write must be set.
	Record string
	// Seed is a raw disk that tells the machine who it is, read-only; "" means
	// none.
	Seed      string
	Firmware  testbed.Firmware // "" means UEFI; its variables are dropped at the end
	CPUs      int              // 0 means 2
	MemoryMiB int              // 0 means 1024
	// Accelerator is testbed.KVM or testbed.TCG; "" means what
	// testbed.Accelerator says.
	Accelerator string
	// SSHPort of 127.0.0.1 leads to port 22 of the machine; 0 means no port
	// does.
	SSHPort int
	// Network lets the machine reach what this host reaches. Without it the
	// machine has no network, or one where only SSHPort leads.
	Network bool
	// Console receives what the machine prints on its serial port. nil means
	// that standard input and output are the serial port, where Ctrl-a x ends
	// the machine and Ctrl-a h lists other keys.
	Console io.Writer
	// Log receives QEMU's own messages; nil means they are only kept for the
	// error.
	Log io.Writer
}

// Run starts the machine and waits until it is off. The machine is killed when
// ctx ends, and when the process dies. Without QEMU or its firmware the error
// is a command.Missing one.
func Run(ctx context.Context, c Config) error {
	c, err := c.withDefaults(ctx)
	if err != nil {
		return err
	}
	args, err := c.args()
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(program); err != nil {
		return command.Missing(fmt.Errorf("%s: not installed", program), "install qemu-system-x86")
	}
	x := command.Exec{Args: args, Stdout: c.Console, Log: c.Log, Sys: &syscall.SysProcAttr{}}
	if c.Console == nil {
		x.Stdin, x.Stdout = os.Stdin, os.Stdout
		restore := command.LendTerminal(x.Sys)
		defer restore()
	}
	if err := x.Run(ctx); err != nil {
		return fmt.Errorf("run %s: %w", c.Image, err)
	}
	return nil
}

func (c Config) withDefaults(ctx context.Context) (Config, error) {
	var err error
	for _, p := range []*string{&c.Image, &c.Seed} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return c, err
		}
		if _, err := os.Stat(*p); err != nil {
			return c, command.BadInput(err, "")
		}
	}
	switch {
	case c.Image == "":
		return c, errors.New("no image given")
	case c.Record != "" && !c.Write:
		return c, command.Usage("the machine's writes are recorded only where it may write", "add --write")
	case c.Record != "":
		if err := os.WriteFile(c.Record, nil, 0o600); err != nil {
			return c, err
		}
	}
	if c.ImageFormat == "" {
		if c.ImageFormat, err = format(c.Image); err != nil {
			return c, err
		}
	}
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 1024
	}
	if c.Accelerator == "" {
		c.Accelerator = testbed.Accelerator(ctx)
	}
	return c, ctx.Err()
}

// args is QEMU's command line.
func (c Config) args() ([]string, error) {
	code, vars, err := c.Firmware.Files()
	if err != nil {
		return nil, err
	}
	args := hardware{c.Accelerator, c.CPUs, c.MemoryMiB}.args()
	args = append(args, firmwareArgs(code, vars, ",snapshot=on")...)
	args = append(append(args, c.disk()...), "-device", "virtio-blk-pci,drive=disk,bootindex=1")
	if c.Seed != "" {
		args = append(args, "-drive", drive(c.Seed, "if=none,id=seed,format=raw,readonly=on"), "-device", "virtio-blk-pci,drive=seed")
	}
	if c.Network || c.SSHPort != 0 {
		args = append(args, "-netdev", c.netdev(), "-device", "virtio-net-pci,netdev=net,romfile=")
	}
	serial := "stdio"
	if c.Console == nil {
		serial = "mon:stdio"
	}
	return append(args, "-serial", serial), nil
}

// disk is the image as the block device "disk".
func (c Config) disk() []string {
	if c.Record != "" {
		file := func(name, path string) string {
			return "driver=file,node-name=" + name + ",filename=" + comma(path)
		}
		return []string{
			"-blockdev", file("image", c.Image),
			"-blockdev", "driver=" + c.ImageFormat + ",node-name=content,file=image",
			"-blockdev", file("log", c.Record),
			"-blockdev", "driver=blklogwrites,node-name=disk,file=content,log=log",
		}
	}
	disk := "if=none,id=disk,format=" + c.ImageFormat + ",discard=unmap"
	if !c.Write {
		disk += ",snapshot=on,cache=unsafe"
	}
	return []string{"-drive", drive(c.Image, disk)}
}

func (c Config) netdev() string {
	n := "user,id=net"
	if !c.Network {
		n += ",restrict=on"
	}
	if c.SSHPort != 0 {
		n += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:22", c.SSHPort)
	}
	return n
}
