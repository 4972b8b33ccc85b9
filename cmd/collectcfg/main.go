// Collectcfg gathers a machine's metadata and runs a command when it changes.
// Called as os-collect-config it does as that program does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"goldsmith/internal/collectcfg"
	"goldsmith/internal/collectcfg/oslo"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// version is set when the program is linked.
var version = "dev"

// original is the program that this one replaces, in the version that it does
// as.
const (
	original        = "os-collect-config"
	originalVersion = "12.0.0"
)

// The program sleeps nearly always: a heap that is collected often costs less
// than one that stays large. The limit, in bytes, is a soft one.
const (
	gcPercent   = 25
	memoryLimit = 10 << 20
)

func main() {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	a := &app{name: filepath.Base(os.Args[0]), hangUp: hangUp}
	status := a.main(ctx, os.Args[1:], command.IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if a.reread {
		status = a.again()
	}
	os.Exit(status)
}

// app is one run of the program.
type app struct {
	name   string // the name it was called by
	hangUp <-chan os.Signal
	reread bool // start again, with the settings as they are now
}

// again replaces this process by a new one, which reads the settings anew. It
// returns only when that is not possible.
func (a *app) again() int {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		// Until the new program listens, a SIGHUP would end it; and it reads
		// the settings after that anyhow.
		signal.Ignore(syscall.SIGHUP)
		err = syscall.Exec(path, os.Args, os.Environ())
	}
	command.Print(os.Stderr, a.name, fmt.Errorf("start again: %w", err))
	return command.StatusFailed
}

// program explains itself, and completes command lines.
func (a *app) program() *command.Program {
	return &command.Program{Name: a.name, Version: version, Root: &command.Command{
		Args:  "[SOURCE...]",
		Short: "gather metadata and run a command when it changes",
		Long: "Each document of a source is kept as NAME.json below the cache directory. When one differs from the one with\n" +
			"which the command last succeeded, and once after every boot, the command is run by the shell with\n" +
			"OS_CONFIG_FILES naming the files; a command that fails is run again. Without a command, or with --print,\n" +
			"everything is printed as JSON. Settings come from ~/" + collectcfg.ConfigName + " or, without that, from\n" +
			"/etc/" + collectcfg.ConfigName + ", and from the command line; of two the later wins. With --one-time the exit\n" +
			"status is the command's. SIGHUP: read the settings again. The sources:\n\n" + collectcfg.SourceHelp(),
		Example: "collectcfg --one-time --command refreshcfg nocloud",
		Words:   collectcfg.SourceNames(),
		Values:  map[string][]string{"repair": collectcfg.RepairModes},
		Flags:   a.declare,
		Run:     func(context.Context, command.IO, []string) error { return nil },
	}}
}

// declare declares the flags for the help text and for completion.
func (a *app) declare(fs *flag.FlagSet) {
	for _, o := range collectcfg.Options(a.name != original) {
		switch {
		case o.Words || o.Help == "":
		case o.Kind == oslo.Bool:
			fs.Bool(o.Flag(), false, o.Help)
		default:
			fs.String(o.Flag(), strings.Join(o.Default, " "), o.Help)
		}
		if o.Short != "" && o.Help != "" {
			fs.String(o.Short, "", "short for --"+o.Flag())
		}
	}
	fs.String("config-file", "", "read settings from `file`; may be repeated")
	fs.String("config-dir", "", "read settings from the files *.conf of a `directory`")
	fs.Bool("version", false, "print the version and exit")
}

// main does the work and says what went wrong; it returns the exit status.
func (a *app) main(ctx context.Context, args []string, io command.IO) int {
	if len(args) > 0 && args[0] == "completion" && a.name != original {
		if len(args) == 2 {
			return a.program().Run(ctx, args, io)
		}
		command.Print(io.Stderr, a.name, command.Usage("completion needs a shell", "bash, zsh or fish"))
		return command.StatusUsage
	}
	out := &command.Output{W: io.Stdout}
	err := a.run(ctx, io, out, args)
	if errors.Is(err, oslo.ErrVersion) {
		a.printVersion(out)
		err = nil
	}
	if err == nil {
		err = out.Err()
	}
	switch {
	case err == nil:
		return command.StatusOK
	case errors.Is(err, oslo.ErrHelp):
		return a.program().Run(ctx, []string{"--help"}, io)
	case errors.Is(err, collectcfg.ErrReread):
		a.reread = true
		return command.StatusOK
	case ctx.Err() != nil:
		fmt.Fprintf(io.Stderr, "%s: interrupted\n", a.name)
		return command.StatusInterrupted
	}
	command.Print(io.Stderr, a.name, err)
	if e, ok := errors.AsType[*collectcfg.CommandError](err); ok {
		return e.Status()
	}
	if _, usage := errors.AsType[*oslo.UsageError](err); a.name == original && !usage {
		return command.StatusFailed
	}
	return command.Status(err)
}

func (a *app) printVersion(out *command.Output) {
	if a.name == original {
		fmt.Fprintln(out, originalVersion)
		return
	}
	fmt.Fprintf(out, "%s %s\n", a.name, version)
}

// run does the work. Results go to out; the command that is run has io's.
func (a *app) run(ctx context.Context, io command.IO, out *command.Output, args []string) error {
	c, err := collectcfg.Load(args, a.name == original)
	if err != nil {
		return err
	}
	if c.Bool("print_cachedir") {
		fmt.Fprintln(out, c.Cache)
		return nil
	}
	logs, err := c.Log(io.Stderr)
	if err != nil {
		return err
	}
	defer logs.Close()
	r, err := a.runner(c, command.IO{Stdin: io.Stdin, Stdout: io.Stdout, Stderr: logs})
	if err != nil {
		return err
	}
	prints := c.Command == "" || c.Print
	if !prints && !c.Original {
		release, err := r.Cache.Lock()
		if err != nil {
			return err
		}
		defer release()
	}
	if !c.OneTime && c.Splay > 0 {
		if err := a.splay(ctx, c.Splay); err != nil {
			return err
		}
	}
	switch {
	case prints:
		all, err := r.Print(ctx)
		if err == nil {
			fmt.Fprintln(out, metadata.Indented(all))
		}
		return err
	case c.OneTime:
		_, err := r.Once(ctx)
		if e, ok := errors.AsType[*collectcfg.CommandError](err); ok {
			return command.Hint(e, "its messages are above; it is run again next time")
		}
		return err
	case a.name == original:
		return r.Poll(ctx)
	}
	return r.Run(ctx)
}

// splay waits for up to so long, so that machines that start together do not
// ask together.
func (a *app) splay(ctx context.Context, most time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(most)):
		return nil
	}
}

func (a *app) runner(c *collectcfg.Config, io command.IO) (*collectcfg.Runner, error) {
	cache := c.NewCache()
	sources, err := c.Sources(cache)
	if err != nil {
		return nil, err
	}
	r := &collectcfg.Runner{
		Cache: cache, Sources: sources, Command: c.Command, Force: c.Force, Original: c.Original,
		Min: c.Min, Max: max(c.Min, c.Max), Converged: c.Converged, Reread: c.Changed(), HangUp: a.hangUp,
		Stdout: io.Stdout, Log: io.Stderr,
		Say: func(format string, args ...any) { fmt.Fprintf(io.Stderr, a.name+": "+format+"\n", args...) },
	}
	if c.Original {
		return r, nil
	}
	// The original runs its command after a reboot only if something changed.
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	r.Boot = strings.TrimSpace(string(id))
	if c.Repair != "" {
		program, _ := c.Text("repair_command")
		r.Repair = &collectcfg.Repair{Command: program, Restore: c.Repair == "restore"}
	}
	return r, nil
}
