// Collectcfg gathers a machine's metadata and runs a command when it changes.
// Called as os-collect-config it takes that program's flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goldsmith/internal/collectcfg"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// version is set when the program is linked.
var version = "dev"

func main() { os.Exit(program(filepath.Base(os.Args[0])).Main(os.Args[1:])) }

// app is the program with its flags.
type app struct {
	name       string // the name it was called by
	fs         *flag.FlagSet
	configFile string
	flags      collectcfg.Config // of these, those that were given
	min, max   float64
	local      list
	printCache bool
	version    bool
}

func program(name string) *command.Program {
	a := &app{name: name}
	p := &command.Program{Name: name, Version: version, Root: &command.Command{
		Args:  "[SOURCE...]",
		Short: "gather metadata and run a command when it changes",
		Long: "Sources are nocloud, a seed device labelled CIDATA, and local, a directory of JSON files. Each document is\n" +
			"kept as NAME.json below the cache directory. When one differs from the one with which the command last\n" +
			"succeeded, and once after every boot, the command is run by the shell with OS_CONFIG_FILES naming the files;\n" +
			"a command that fails is run again at the next poll. Without a command, or with --print, everything is printed as JSON. Settings come\n" +
			"from " + collectcfg.DefaultConfig + "; the command line overrides them. With --one-time the exit status is the command's.",
		Example: "collectcfg --one-time --command refreshcfg nocloud",
		Flags:   a.declare,
		Run:     a.run,
	}}
	if name == original {
		p.Status = func(err error) int {
			if e, ok := errors.AsType[*collectcfg.CommandError](err); ok {
				return e.Status()
			}
			return command.OriginalStatus(err, 1)
		}
	}
	return p
}

// original is the program that this one replaces.
const original = "os-collect-config"

func (a *app) declare(fs *flag.FlagSet) {
	*a = app{name: a.name, fs: fs} // help declares the flags once more
	f := &a.flags
	fs.StringVar(&a.configFile, "config-file", "", "read settings from `file`")
	fs.StringVar(&f.Command, "command", "", "`command` to run on change")
	fs.StringVar(&f.Command, "c", "", "short for --command")
	fs.StringVar(&f.Cache, "cachedir", collectcfg.DefaultCache, "`directory` to keep documents in")
	fs.BoolVar(&f.OneTime, "one-time", false, "end after the first collection")
	fs.BoolVar(&f.Force, "force", false, "run the command without a change too; implies --one-time")
	fs.BoolVar(&f.Print, "print", false, "print what was collected and exit")
	fs.BoolVar(&a.printCache, "print-cachedir", false, "print the cache directory and exit")
	fs.Float64Var(&a.min, "min-polling-interval", 1, "first pause between polls, in `seconds`")
	fs.Float64Var(&a.max, "polling-interval", 30, "longest pause between polls, in `seconds`")
	fs.Float64Var(&a.max, "i", 30, "short for --polling-interval")
	fs.Var(&a.local, "local-path", "`directory` of the local source; may be repeated")
	fs.StringVar(&f.Seed, "nocloud-seed", "", "read the seed from a `directory` instead of a device")
	fs.BoolVar(&a.version, "version", false, "print the version and exit")
}

// config is the configuration file with the flags over it.
func (a *app) config(words []string) (collectcfg.Config, error) {
	c := collectcfg.Defaults()
	var err error
	if a.configFile == "" {
		err = c.ReadDefault()
	} else if err = c.Read(a.configFile); errors.Is(err, fs.ErrNotExist) {
		err = command.BadInput(err, "see --config-file")
	}
	given := map[string]func(){
		"command":              func() { c.Command = a.flags.Command },
		"c":                    func() { c.Command = a.flags.Command },
		"cachedir":             func() { c.Cache = a.flags.Cache },
		"one-time":             func() { c.OneTime = a.flags.OneTime },
		"force":                func() { c.Force = a.flags.Force },
		"print":                func() { c.Print = a.flags.Print },
		"min-polling-interval": func() { c.Min = time.Duration(a.min * float64(time.Second)) },
		"polling-interval":     func() { c.Max = time.Duration(a.max * float64(time.Second)) },
		"i":                    func() { c.Max = time.Duration(a.max * float64(time.Second)) },
		"local-path":           func() { c.LocalDirs = a.local },
		"nocloud-seed":         func() { c.Seed = a.flags.Seed },
	}
	a.fs.Visit(func(f *flag.Flag) {
		if take, ok := given[f.Name]; ok {
			take()
		}
	})
	if len(words) > 0 {
		c.Collectors = words
	}
	if err == nil && (c.Min <= 0 || c.Max <= 0) {
		err = command.Usage("a polling interval is a positive number of seconds", "such as --polling-interval 30")
	}
	return c, err
}

func (a *app) run(ctx context.Context, io command.IO, words []string) error {
	c, err := a.config(words)
	if err != nil {
		return err
	}
	if a.printCache {
		fmt.Fprintln(io.Stdout, c.Cache)
		return nil
	}
	sources, err := c.Sources()
	if err != nil {
		return err
	}
	r := collectcfg.Runner{
		Cache: &collectcfg.Cache{Dir: c.Cache}, Sources: sources, Command: c.Command, Force: c.Force,
		Min: c.Min, Max: max(c.Min, c.Max), Stdout: io.Stdout, Log: io.Stderr,
		Say: func(format string, args ...any) { fmt.Fprintf(io.Stderr, a.name+": "+format+"\n", args...) },
	}
	if a.name != original {
		// The original runs its command after a reboot only if something changed.
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return err
		}
		r.Boot = strings.TrimSpace(string(id))
	}
	if c.Command == "" || c.Print {
		all, err := r.Print(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintln(io.Stdout, metadata.Indented(all))
		return nil
	}
	if !c.OneTime && !c.Force {
		return r.Poll(ctx)
	}
	_, err = r.Once(ctx)
	if e, ok := errors.AsType[*collectcfg.CommandError](err); ok {
		return &command.Error{Status: e.Status(), Err: e, Hint: "its messages are above; it is run again next time"}
	}
	return err
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }
