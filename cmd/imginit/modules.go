package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loader loads kernel modules, each once.
type loader struct {
	plan    *plan
	args    cmdline
	console *console
	done    map[string]error // by module
	seen    map[string]bool  // modalias files already looked at
	insert  func(name, options string) error
	sys     string // /sys
	cpuinfo string // /proc/cpuinfo
}

func newLoader(p *plan, args cmdline, c *console) *loader {
	l := &loader{plan: p, args: args, console: c, done: map[string]error{}, seen: map[string]bool{},
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

// always loads what the plan wants loaded on every machine.
func (l *loader) always() error {
	for _, name := range l.plan.load {
		if err := l.load(name); err != nil {
			return err
		}
	}
	return nil
}

// load loads a module and what it needs; what should come before it may fail.
func (l *loader) load(name string) error {
	if err, ok := l.done[name]; ok {
		return err
	}
	m := l.plan.modules[name]
	if m == nil {
		return fmt.Errorf("module %s is not in the initramfs", name)
	}
	l.done[name] = nil // ends a circle, should there be one
	for _, dep := range m.before {
		_ = l.load(dep)
	}
	for _, dep := range m.needs {
		if err := l.load(dep); err != nil {
			l.done[name] = err
			return err
		}
	}
	if err := l.insert(name, l.args.moduleOptions(name)); err != nil {
		l.done[name] = fmt.Errorf("load module %s: %w", name, err)
	}
	return l.done[name]
}

// moduleOptions gathers NAME.OPTION=VALUE arguments, as modprobe does.
func (c cmdline) moduleOptions(name string) string {
	var opts []string
	for _, w := range c {
		if mod, opt, ok := strings.Cut(w, "."); ok && strings.ReplaceAll(mod, "-", "_") == name {
			opts = append(opts, opt)
		}
	}
	return strings.Join(opts, " ")
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

// coldplug loads the modules of all devices that came up since the last call.
// A module that does not want to be loaded is told about and left alone: the
// root may be on another device.
func (l *loader) coldplug() {
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
func (l *loader) emulated() bool {
	info, _ := os.ReadFile(l.cpuinfo)
	first, _, _ := bytes.Cut(info, []byte("\n\n"))
	return bytes.Contains(first, []byte("QEMU TCG CPU"))
}

// drive loads every module that has an alias for a device.
func (l *loader) drive(modalias string) {
	for _, a := range l.plan.aliases {
		if _, tried := l.done[a.module]; tried || !match(a.pattern, modalias) {
			continue
		}
		if err := l.load(a.module); err != nil && !errors.Is(err, unix.ENODEV) {
			l.console.say("%v", err)
		}
	}
}
