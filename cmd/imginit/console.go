package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// console tells people how the boot goes: on /dev/console and in the kernel's
// log, from where the journal gets it.
type console struct {
	out io.Writer
	log *os.File // /dev/kmsg; nil until open
}

const ratelimit = "/proc/sys/kernel/printk_devkmsg"

// open starts logging to the kernel. It needs /dev and /proc.
func (c *console) open() {
	// The kernel drops all but ten lines in five seconds unless told not to.
	_ = os.WriteFile(ratelimit, []byte("on\n"), 0)
	c.log, _ = os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
}

func (c *console) close() {
	if c.log != nil {
		_ = c.log.Close()
		c.log = nil
		_ = os.WriteFile(ratelimit, []byte("ratelimit\n"), 0)
	}
}

// say reports progress.
func (c *console) say(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	fmt.Fprintf(c.out, "imginit: %6.2f %s\n", uptime(), msg)
	c.kernel(6, msg)
}

// fail reports why the machine does not boot.
func (c *console) fail(err error) { c.shout(fmt.Sprintf("BOOT FAILED: %v", err)) }

// shout reports at a level that reaches every console even when the kernel is
// told to be quiet.
func (c *console) shout(text string) {
	for _, l := range strings.Split(text, "\n") {
		if c.log == nil {
			fmt.Fprintf(c.out, "imginit: %6.2f %s\n", uptime(), l)
		}
		c.kernel(2, l)
	}
}

func (c *console) kernel(level int, msg string) {
	if c.log != nil {
		fmt.Fprintf(c.log, "<%d>imginit: %s\n", level, msg)
	}
}

// uptime is the time since the kernel started, in seconds.
func uptime() float64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return float64(t.Sec) + float64(t.Nsec)/1e9
}
