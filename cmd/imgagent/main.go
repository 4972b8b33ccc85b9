// Command imgagent is /init of the deploy ramdisk: the first program of a
// machine that has no system yet. It loads drivers, brings up the network, asks
// the server that the kernel command line names what to do, and does it
// (internal/deploy/agent): inspect, deploy or clean. What it says goes to the
// console and, from its first line on, to the server. When it cannot go on, it
// says why and waits; it never restarts a machine but after a good deployment.
//
// Kernel arguments:
//
//	goldsmith.agent=URL      the server; an IPv6 address in brackets
//	goldsmith.token=TOKEN    what it knows this machine by
//	goldsmith.address=ADDRESS/LENGTH   in place of DHCP and IPv6 autoconfiguration
//	goldsmith.gateway=ADDRESS          with that
//	goldsmith.dns=ADDRESS,…            with that
//	BOOTIF=01-AA-BB-CC-DD-EE-FF        the network card to use, as PXELINUX and
//	                         iPXE say it; all of them without it
//	MODULE.OPTION=VALUE, modprobe.blacklist=MODULE,…   as for imginit
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/deploy"
	"goldsmith/internal/deploy/agent"
	"goldsmith/internal/earlyboot"
)

// stepsDir has the deploy steps that elements brought.
const stepsDir = "/usr/lib/goldsmith/deploy.d"

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "imgagent: runs as the first process of the deploy ramdisk only")
		os.Exit(2)
	}
	reporter := deploy.NewReporter(bootID(), uptime)
	say := func(format string, args ...any) {
		for line := range strings.Lines(fmt.Sprintf(format, args...)) {
			line = strings.TrimRight(line, "\n")
			fmt.Printf("imgagent: %7.2f %s\n", uptime(), line)
			reporter.Line(line)
		}
	}
	for {
		say("FAILED: %v", guarded(func() error { return run(say, reporter) }))
		say("waiting for somebody to restart this machine")
		time.Sleep(time.Hour)
	}
}

// guarded turns a panic into an error: the end of process 1 would be the
// kernel's.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}

// run returns only when it cannot go on.
func run(say func(string, ...any), reporter *deploy.Reporter) error {
	if err := earlyboot.MountKernel(); err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	args := earlyboot.ParseCmdline(string(text))
	plan, err := os.ReadFile(earlyboot.PlanFile)
	if err != nil {
		return err
	}
	p, err := earlyboot.ParsePlan(string(plan))
	if err != nil {
		return err
	}
	say("kernel %s", p.Kernel)
	devices, err := plug(earlyboot.NewLoader(p, args, say))
	if err != nil {
		return err
	}
	client, err := deploy.NewClient(args.Get(deploy.ArgServer), deploy.Token(args.Get(deploy.ArgToken)))
	if err != nil {
		return fmt.Errorf("kernel command line: %w", err)
	}
	client.Say = say
	ctx := context.Background()
	n, err := newNetwork(args, say)
	if err != nil {
		return err
	}
	if err := n.reach(ctx, client); err != nil {
		return err
	}
	go func() {
		err := guarded(func() error { return reporter.Run(ctx, client) })
		say("nothing more goes to the server: %v", err)
	}()
	devices.settle(say)
	say("agent ready")
	a := agent.New(agent.Config{
		Client: client, Reporter: reporter, Say: say, Sys: "/sys", Proc: "/proc", Dev: "/dev",
		Steps: stepsDir, Scratch: "/run", BootMAC: n.bootMAC, Restart: restart(say),
	})
	return a.Run(ctx)
}

// plugged loads the modules of devices, whenever they come up.
type plugged struct{ quiet chan time.Duration }

// plug begins with what every machine loads.
func plug(l *earlyboot.Loader) (*plugged, error) {
	if err := l.Always(); err != nil {
		return nil, err
	}
	l.Coldplug()
	p := &plugged{quiet: make(chan time.Duration)}
	go func() {
		last, known := time.Now(), disks()
		tick := time.NewTicker(250 * time.Millisecond)
		for {
			select {
			case <-tick.C:
				l.Coldplug()
				if now := disks(); now != known {
					last, known = time.Now(), now
				}
			case p.quiet <- time.Since(last):
			}
		}
	}()
	return p, nil
}

// disks are the names of all, as one text.
func disks() string {
	entries, _ := os.ReadDir("/sys/block")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// Disks are all there when none came for settleTime; settleLimit bounds the wait
// for that.
const (
	settleTime  = 2 * time.Second
	settleLimit = 60 * time.Second
)

func (p *plugged) settle(say func(string, ...any)) {
	for begun := time.Now(); <-p.quiet < settleTime; {
		if time.Since(begun) > settleLimit {
			say("disks still come and go after %s", settleLimit)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// restart ends a good deployment. It returns only when it cannot.
func restart(say func(string, ...any)) func(deploy.Finish) error {
	return func(f deploy.Finish) error {
		how := map[deploy.Finish]int{
			"": unix.LINUX_REBOOT_CMD_RESTART, deploy.Reboot: unix.LINUX_REBOOT_CMD_RESTART,
			deploy.Kexec: unix.LINUX_REBOOT_CMD_KEXEC, deploy.Off: unix.LINUX_REBOOT_CMD_POWER_OFF,
		}
		cmd, ok := how[f]
		if !ok {
			return fmt.Errorf("finish %q", f)
		}
		say("restart: %s", map[bool]string{true: "reboot", false: string(f)}[f == ""])
		unix.Sync()
		return errors.Join(unix.Reboot(cmd), errors.New("the kernel went on"))
	}
}

// bootID names this start of the machine. /proc is not mounted yet, and there
// may be no randomness.
func bootID() string {
	var now, up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &now)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	return fmt.Sprintf("%d.%d", now.Nano(), up.Nano())
}

// uptime is the time since the kernel started, in seconds.
func uptime() float64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return float64(t.Nano()) / 1e9
}
