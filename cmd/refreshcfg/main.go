// Refreshcfg runs the configuration hooks of a machine and reports how they
// ended. Called as os-refresh-config or dib-run-parts it is that program.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/refreshcfg"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	switch name {
	case original:
		os.Exit(runOriginal(name, args))
	case runParts:
		os.Exit(runRunParts(name, args))
	}
	os.Exit(program(name).Main(args))
}

// app is the program with its flags.
type app struct {
	name                   string // the name it was called by
	lock, list, level      string
	timeout                int
	state, output          string
	base, phases, noSignal bool
	version, noop          bool
}

func program(name string) *command.Program {
	a := &app{name: name}
	return &command.Program{Name: name, Version: version, Commands: []*command.Command{checkCommand(), deploymentsCommand(), planCommand()}, Root: &command.Command{
		Short: "run the configuration hooks of this machine",
		Long: "The phases pre-configure, configure, post-configure and migration run in this order; each is a directory\n" +
			"PHASE.d of hooks below " + refreshcfg.DefaultBase + " (or $OS_REFRESH_CONFIG_BASE_DIR). The first hook that fails\n" +
			"ends the run with status 1, after error.d has run. If the metadata has the keys completion-signal and\n" +
			"completion-token, the outcome is sent there, with the token as bearer token and instance-id as name; Heat's own\n" +
			"handles are told of success. --timeout ends what still runs.\n\n" +
			"A hook may say in a line '## goldsmith: {...}' when it has to run, what it waits for, and how long it may take\n" +
			"(docs/hooks.md).",
		Example: "refreshcfg --timeout 600",
		Flags:   a.flags,
		Run:     a.run,
	}}
}

func (a *app) flags(fs *flag.FlagSet) {
	*a = app{name: a.name} // help declares the flags once more
	fs.BoolVar(&a.base, "print-base", false, "print the directory of the phases and exit")
	fs.BoolVar(&a.phases, "print-phases", false, "print the names of the phases and exit")
	fs.StringVar(&a.lock, "lockfile", refreshcfg.DefaultLock, "`file` that keeps a second run away")
	fs.IntVar(&a.timeout, "timeout", 0, "end the run after so many `seconds`")
	fs.StringVar(&a.list, "os-config-files", "", "JSON `file` that lists the metadata files; empty means "+applycfg.DefaultList)
	fs.BoolVar(&a.noSignal, "no-signal", false, "do not report how it ended")
	fs.StringVar(&a.level, "log-level", "INFO", "ERROR, WARN, CRITICAL, INFO or DEBUG; the `level` below which nothing is logged")
	fs.BoolVar(&a.version, "version", false, "print the version and exit")
	fs.BoolVar(&a.noop, "noop", false, "say what would run and why, run nothing")
	fs.StringVar(&a.state, "state", refreshcfg.DefaultState, "`directory` for what is remembered between runs")
	fs.StringVar(&a.output, "output", "/", "`directory` that applycfg writes below: where a run fails, files that it keeps (--rollback-on-failure) are given back")
}

// baseDir is the directory of the phases.
func baseDir() string {
	if base := os.Getenv("OS_REFRESH_CONFIG_BASE_DIR"); base != "" {
		return base
	}
	return refreshcfg.DefaultBase
}

func (a *app) run(ctx context.Context, io command.IO, words []string) error {
	switch {
	case len(words) > 0 && words[0] == "completion":
		return command.Usage("completion needs a shell", "bash, zsh or fish")
	case len(words) > 0:
		return command.Usage(fmt.Sprintf("unexpected argument %q", words[0]), "see '"+a.name+" --help'")
	case a.timeout < 0:
		return command.Usage("--timeout is negative", "give seconds, such as --timeout 600")
	case !strings.Contains(" ERROR WARN CRITICAL INFO DEBUG ", " "+a.level+" "):
		return command.Usage(fmt.Sprintf("no such log level: %q", a.level), "one of ERROR, WARN, CRITICAL, INFO, DEBUG")
	case a.base:
		fmt.Fprintln(io.Stdout, baseDir())
		return nil
	case a.phases:
		fmt.Fprintln(io.Stdout, strings.Join(refreshcfg.Phases, "\t"))
		return nil
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(io.Stderr, "%s: %s\n", a.name, command.Plain(fmt.Sprintf(format, args...)))
	}
	quiet := a.level != "INFO" && a.level != "DEBUG"
	c := refreshcfg.Config{
		Base: baseDir(), Lock: a.lock, Timeout: time.Duration(a.timeout) * time.Second,
		Stdout: io.Stdout, Log: io.Stderr,
		State: a.state, Noop: a.noop,
		Say: func(format string, args ...any) {
			if !quiet {
				say(format, args...)
			}
		},
	}
	sources := applycfg.FromEnvironment(nil, a.list)
	c.Image, c.Metadata = refreshcfg.Running(), sources.LoadContext
	files := applycfg.Output{Dir: a.output}
	c.Good = files.MarkGood
	c.Rollback = func(ctx context.Context) (int, error) {
		changes, err := files.Rollback(ctx)
		return len(slices.DeleteFunc(changes, func(c applycfg.Change) bool { return c.Action == applycfg.Unchanged })), err
	}
	r := refreshcfg.Reporter{Base: c.Base, State: a.state}
	told := !a.noSignal && !a.noop
	if told && r.Resend(ctx, sources.Salvage()) {
		c.Say("reported the end of the run before this one")
	}
	err := refreshcfg.Run(ctx, c)
	if command.Status(err) == command.StatusBusy || !told || ctx.Err() != nil {
		return err
	}
	return report(ctx, r, sources.Salvage(), err, c.Say)
}

// report tells how the run ended. What does not arrive fails a run that
// succeeded: whoever deployed the machine still waits for it.
func report(ctx context.Context, r refreshcfg.Reporter, doc *metadata.Object, failed error, say func(string, ...any)) error {
	told, err := r.Report(ctx, doc, failed)
	switch {
	case err != nil && failed != nil:
		say("%v", err)
	case err != nil:
		return command.Hint(err, "is the host reachable from this machine, and does it expect this token?")
	case told:
		say("reported %s", map[bool]string{true: "SUCCESS", false: "FAILURE"}[failed == nil])
	}
	return failed
}
