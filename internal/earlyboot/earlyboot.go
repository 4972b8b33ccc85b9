// Package earlyboot is what the first program of an initramfs does, whichever
// it is: it mounts what the kernel provides, reads the kernel's command line,
// and loads the modules that the devices ask for, as internal/initramfs's plan
// says. It is small: every initramfs carries it.
package earlyboot

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MountKernel mounts what the kernel provides: /proc, /sys, /dev and /run.
func MountKernel() error {
	for _, m := range []struct {
		fs, dir, options string
		flags            uintptr
	}{
		{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", "mode=755", unix.MS_NOSUID},
		{"tmpfs", "/run", "mode=755,size=20%", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_STRICTATIME},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// Cmdline is the kernel command line, word by word.
type Cmdline []string

// ParseCmdline splits at spaces outside of double quotes, as the kernel does.
func ParseCmdline(s string) Cmdline {
	var words Cmdline
	var word []byte
	quoted, any := false, false
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || !quoted && (s[i] == ' ' || s[i] == '\n' || s[i] == '\t'):
			if any {
				words = append(words, string(word))
			}
			word, any = nil, false
		case s[i] == '"':
			quoted, any = !quoted, true
		default:
			word, any = append(word, s[i]), true
		}
	}
	return words
}

// Get returns the value of the last NAME=VALUE, or "".
func (c Cmdline) Get(name string) string {
	for i := len(c) - 1; i >= 0; i-- {
		if len(c[i]) > len(name) && c[i][:len(name)] == name && c[i][len(name)] == '=' {
			return c[i][len(name)+1:]
		}
	}
	return ""
}

// Seconds returns a time argument; zero, negative and malformed ones give the
// default.
func (c Cmdline) Seconds(name string, def int) time.Duration {
	n, err := strconv.Atoi(c.Get(name))
	if err != nil || n <= 0 || n > 24*3600 {
		n = def
	}
	return time.Duration(n) * time.Second
}

// moduleOptions gathers NAME.OPTION=VALUE arguments, as modprobe does.
func (c Cmdline) moduleOptions(name string) string {
	var opts []string
	for _, w := range c {
		if mod, opt, ok := strings.Cut(w, "."); ok && strings.ReplaceAll(mod, "-", "_") == name {
			opts = append(opts, opt)
		}
	}
	return strings.Join(opts, " ")
}
