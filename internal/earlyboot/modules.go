package earlyboot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Loader loads kernel modules, each once.
type Loader struct {
	plan    *Plan
	args    Cmdline
	say     func(format string, args ...any)
	done    map[string]error // by module
	seen    map[string]bool  // modalias files already looked at
	insert  func(name, options string) error
	sys     string // /sys
	cpuinfo string // /proc/cpuinfo
}

// NewLoader loads what the plan and the command line say. What does not want to
// be loaded is told to say.
func NewLoader(p *Plan, args Cmdline, say func(format string, args ...any)) *Loader {
	l := &Loader{plan: p, args: args, say: say, done: map[string]error{}, seen: map[string]bool{},
		insert: insertModule, sys: "/sys", cpuinfo: "/proc/cpuinfo"}
	for _, list := range args {
		if names, ok := strings.CutPrefix(list, "modprobe.blacklist="); ok {
			for _, n := range strings.Split(names, ",") {
				l.done[strings.ReplaceAll(n, "-", "_")] = errors.New("on the blacklist")
			}
		}
	}
	return l
}

// Always loads what the plan wants loaded on every machine.
func (l *Loader) Always() error {
	for _, name := range l.plan.Load {
		if err := l.Load(name); err != nil {
			return err
		}
	}
	return nil
}

// Load loads a module and what it needs; what should come before it may fail.
func (l *Loader) Load(name string) error {
	if err, ok := l.done[name]; ok {
		return err
	}
	m := l.plan.Modules[name]
	if m == nil {
		return fmt.Errorf("module %s is not in the initramfs", name)
	}
	l.done[name] = nil // ends a circle, should there be one
	for _, dep := range m.Before {
		_ = l.Load(dep)
	}
	for _, dep := range m.Needs {
		if err := l.Load(dep); err != nil {
			l.done[name] = err
			return err
		}
	}
	if err := l.insert(name, l.args.moduleOptions(name)); err != nil {
		l.done[name] = fmt.Errorf("load module %s: %w", name, err)
	}
	return l.done[name]
}

func insertModule(name, options string) error {
	f, err := os.Open("/modules/" + name + ".ko")
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), options, 0)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// Coldplug loads the modules of all devices that came up since the last call.
// A module that does not want to be loaded is told about and left alone: the
// root may be on another device.
func (l *Loader) Coldplug() {
	for {
		files, _ := filepath.Glob(l.sys + "/bus/*/devices/*/modalias")
		if cpu := l.sys + "/devices/system/cpu/modalias"; !l.seen[cpu] && !l.emulated() {
			// dm-verity is several times faster with a processor's instructions
			// for SHA-256.
			files = append(files, cpu)
		}
		fresh := false
		for _, f := range files {
			if l.seen[f] {
				continue
			}
			l.seen[f], fresh = true, true
			text, err := os.ReadFile(f)
			if err != nil {
				continue // the device is gone, or has none
			}
			l.drive(strings.TrimSpace(string(text)))
		}
		if !fresh {
			return
		}
	}
}

// emulated says that the processor is QEMU's own: vector instructions are slower
// there than plain ones.
func (l *Loader) emulated() bool {
	info, _ := os.ReadFile(l.cpuinfo)
	first, _, _ := bytes.Cut(info, []byte("\n\n"))
	return bytes.Contains(first, []byte("QEMU TCG CPU"))
}

// drive loads every module that has an alias for a device.
func (l *Loader) drive(modalias string) {
	for _, a := range l.plan.Aliases {
		if _, tried := l.done[a.Module]; tried || !match(a.Pattern, modalias) {
			continue
		}
		if err := l.Load(a.Module); err != nil && !errors.Is(err, unix.ENODEV) {
			l.say("%v", err)
		}
	}
}
