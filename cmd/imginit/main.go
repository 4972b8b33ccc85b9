// Command imginit is /init of an image's own initramfs. It finds the root
// partition that the kernel command line names, mounts it read-only through
// dm-verity, which panics when a block was changed, puts the state partition
// under /etc, /var and the other writable directories, and hands over to the
// image's init.
//
// A live system has no state partition: what it writes is kept in memory. Its
// root is a SquashFS in the partition that the kernel command line names, on a
// disk or a CD, or in the initramfs itself.
//
// Kernel arguments:
//
//	roothash=HASH        root hash of the root's dm-verity tree: 64 hexadecimal
//	                     digits. Its halves are the GUIDs of the partitions with
//	                     the root and with the tree, in a GUID partition table
//	root=PARTUUID=GUID   the first of these GUIDs again, for other readers of the
//	                     command line; of a live system, where its root is
//	init=PATH            what to hand over to; default /sbin/init
//	rootwait=SECONDS     how long to wait for the disk; default 60
//	panic=SECONDS        how long a failure stays on the screen before the
//	                     machine reboots; default 10
//	MODULE.OPTION=VALUE  options for modules that it loads
//	modprobe.blacklist=MODULE,…   modules that it does not load
//
// Any failure is reported on every console and ends in a reboot: with boot
// counting, the boot loader then takes the other version.
//
// The state partition is the one named "state" on the root's disk; it grows to
// the disk's end, and without an ext4 file system it gets one. It holds
// etc/upper (what differs from the image's /etc, an overlay), etc/work, and
// fs/PATH for each state directory, filled from the image the first time, and
// with what another image has more. With boot/factory-reset on it, it is
// emptied. A running system sees it at /run/goldsmith/state. How boots went is in
// boot/attempts.jsonl there (see [diary]); what was booted, in
// /run/goldsmith/boot.json (see [booted]).
package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/earlyboot"
)

const (
	sysroot   = "/sysroot"
	stateRoot = "/run/goldsmith/state"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "imginit: runs as the first process of an initramfs only")
		os.Exit(2)
	}
	c := &console{out: os.Stdout}
	args, d := cmdline{}, &diary{}
	err := guarded(func() error { return boot(c, &args, d) })
	c.fail(err)
	if err := guarded(func() error { return d.failed(err) }); err != nil {
		c.say("not noted on the state partition: %v", err)
	}
	delay := args.Seconds("panic", 10)
	c.say("reboot in %d s", int(delay/time.Second))
	time.Sleep(delay)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	// Not reached; an exit of process 1 panics the kernel, which reboots too.
}

// guarded turns a panic into an error, so that it is reported like any other.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}

// boot does everything up to the hand-over; it returns only to report a
// failure.
func boot(c *console, args *cmdline, d *diary) error {
	if err := earlyboot.MountKernel(); err != nil {
		return err
	}
	c.open()
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	*args = parseCmdline(string(text))
	text, err = os.ReadFile(earlyboot.PlanFile)
	if err != nil {
		return err
	}
	p, err := earlyboot.ParsePlan(string(text))
	if err != nil {
		return err
	}
	c.say("kernel %s", p.Kernel)
	mods := earlyboot.NewLoader(p, args.Cmdline, c.say)
	if p.Live == "" {
		err = mountInstalled(c, *args, mods, p, d)
	} else {
		err = mountLive(c, *args, mods, p)
	}
	if err != nil {
		return err
	}
	init := args.Get("init")
	if init == "" {
		init = "/sbin/init"
	}
	d.note(c, stageSwitch)
	c.say("hand over to %s", init)
	c.close()
	return switchRoot(init)
}

// mountInstalled mounts root and state of an installed system: partitions of
// one disk. The state partition comes first where it has a file system: when
// the root cannot even be read, there is a place to note that.
func mountInstalled(c *console, args cmdline, mods *earlyboot.Loader, p *earlyboot.Plan, d *diary) error {
	hash, err := args.rootHash()
	if err != nil {
		return err
	}
	f := &finder{sys: "/sys/block", dev: "/dev", guid: formatGUID(hash[:16]), tree: formatGUID(hash[16:]),
		assemble: newAssembler(c, mods)}
	disk, err := f.wait(c, mods, args.Seconds("rootwait", 60))
	if err != nil {
		if home := f.home(); home != nil && mods.Always() == nil {
			d.begin(home, hash) // where to note it
		}
		return err
	}
	repairTable(c, disk)
	growState(c, disk)
	if err := mods.Always(); err != nil {
		return err
	}
	d.begin(disk, hash)
	if err := noteBooted(disk, hash, "", args); err != nil {
		return err
	}
	d.begun(c)
	root, err := openVerity(disk.root, disk.tree, hash)
	if err != nil {
		return err
	}
	if err := mountRoot(root, "erofs"); err != nil {
		return err
	}
	done, err := mountState(c, disk)
	if err != nil {
		return err
	}
	if done.stage != "" {
		d.write(c, done.stage, done.text)
		if err := noteBooted(disk, hash, done.text, args); err != nil {
			return err
		}
	}
	d.note(c, stageState)
	return placeState(c, p.State, &hash)
}

// cmdline is the kernel command line.
type cmdline struct{ earlyboot.Cmdline }

func parseCmdline(s string) cmdline { return cmdline{earlyboot.ParseCmdline(s)} }

// rootHash returns roothash=, with which root= must agree when it is there.
func (c cmdline) rootHash() (hash rootHash, err error) {
	text := c.Get("roothash")
	if text == "" {
		return hash, errors.New("the kernel command line has no roothash=…")
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(hash) {
		return hash, fmt.Errorf("roothash=%s: want %d hexadecimal digits", text, 2*len(hash))
	}
	hash = rootHash(b)
	if c.Get("root") == "" {
		return hash, nil
	}
	guid, err := c.rootGUID()
	if err == nil && guid != formatGUID(hash[:16]) {
		err = fmt.Errorf("root=PARTUUID=%s and roothash=%s name different roots", guid, text)
	}
	return hash, err
}

// formatGUID renders 16 bytes in their order.
func formatGUID(b []byte) string {
	s := hex.EncodeToString(b)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

func (c cmdline) rootGUID() (string, error) {
	const prefix = "PARTUUID="
	root := c.Get("root")
	if root == "" {
		return "", errors.New("the kernel command line has no root=PARTUUID=…")
	}
	if len(root) != len(prefix)+36 || root[:len(prefix)] != prefix {
		return "", fmt.Errorf("root=%s: want PARTUUID= and a GUID", root)
	}
	guid := []byte(root[len(prefix):])
	for i, b := range guid {
		if 'A' <= b && b <= 'Z' {
			guid[i] = b + 'a' - 'A'
		}
	}
	return string(guid), nil
}
