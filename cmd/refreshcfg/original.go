package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"goldsmith/internal/argparse"
	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/metadata"
	"goldsmith/internal/refreshcfg"
)

// The programs that this one replaces.
const (
	original = "os-refresh-config"
	runParts = "dib-run-parts"
)

// runOriginal is os-refresh-config. A signal that ends it leaves what runs
// alone, as there.
func runOriginal(name string, args []string) int {
	// A reader that went away must not end a run in the middle: with a channel
	// for SIGPIPE, writing is an error instead, and hooks do not inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	base, deprecated := originalBase()
	if deprecated {
		fmt.Fprintf(os.Stderr, "WARNING:root:Base directory %s is deprecated. The recommended base directory is %s\n", base, refreshcfg.DefaultBase)
	}
	level := "INFO"
	o := refreshcfg.Original{Base: base, Lock: refreshcfg.OriginalLock, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	o.Log = func(l, message string) { logLine(os.Stderr, level, l, message) }
	var printBase, printPhases bool
	out := &command.Output{W: os.Stdout}
	err := argparse.Parse([]argparse.Option{
		{Names: []string{"-h", "--help"}, Take: func([]string) error {
			fmt.Fprint(out, originalUsage(name), originalHelp)
			return argparse.ErrStop
		}},
		{Names: []string{"--print-base"}, Take: func([]string) error { printBase = true; return nil }},
		{Names: []string{"--print-phases"}, Take: func([]string) error { printPhases = true; return nil }},
		{Names: []string{"--log-level"}, Nargs: 1, Take: func(v []string) error {
			if level = v[0]; !slices.Contains(levels, level) {
				return fmt.Errorf("argument --log-level: invalid choice: %s (choose from '%s')", argparse.Quote(level), strings.Join(levels, "', '"))
			}
			return nil
		}},
		{Names: []string{"--lockfile"}, Nargs: 1, Take: func(v []string) error { o.Lock = v[0]; return nil }},
		{Names: []string{"--timeout"}, Nargs: 1, Take: func(v []string) error {
			n, ok := metadata.Int(v[0])
			if !ok {
				return fmt.Errorf("argument --timeout: invalid int value: %s", argparse.Quote(v[0]))
			}
			// The original takes a negative one for a time that is never over.
			o.Timeout = time.Duration(max(n, 0)) * time.Second
			return nil
		}},
	}, args)
	switch {
	case errors.Is(err, argparse.ErrStop):
		return written(name, out)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s%s: error: %v\n", originalUsage(name), name, err)
		return 2
	case printBase:
		fmt.Fprintln(out, base)
		return written(name, out)
	case printPhases:
		fmt.Fprintln(out, strings.Join(refreshcfg.Phases, "\t"))
		return written(name, out)
	}
	return o.Run()
}

// written is the exit status for what was printed: 1 when it could not be.
func written(name string, out *command.Output) int {
	if err := out.Err(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// runRunParts is dib-run-parts.
func runRunParts(name string, args []string) int {
	p := hook.RunParts{Name: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	return p.Main(context.Background(), args)
}

func originalBase() (base string, deprecated bool) {
	if base, ok := os.LookupEnv("OS_REFRESH_CONFIG_BASE_DIR"); ok {
		return base, false
	}
	isDir := func(path string) bool {
		fi, err := os.Stat(path)
		return err == nil && fi.IsDir()
	}
	if isDir(refreshcfg.OldBase) && !isDir(refreshcfg.DefaultBase) {
		return refreshcfg.OldBase, true
	}
	return refreshcfg.DefaultBase, false
}

// levels are those of --log-level, as its help lists them.
var levels = []string{"ERROR", "WARN", "CRITICAL", "INFO", "DEBUG"}

// logLine prints a message of a level, unless it is below the least one.
func logLine(w io.Writer, least, level, message string) {
	rank := []string{"DEBUG", "INFO", "WARN", "ERROR", "CRITICAL"}
	if slices.Index(rank, level) < slices.Index(rank, least) {
		return
	}
	fmt.Fprintf(w, "[%s] (%s) [%s] %s\n", time.Now().Format("2006-01-02 15:04:05,000"), original, level, message)
}

func originalUsage(name string) string {
	return argparse.Usage(name, []string{
		"[-h]", "[--print-base]", "[--print-phases]", "[--log-level {ERROR,WARN,CRITICAL,INFO,DEBUG}]", "[--lockfile LOCKFILE]", "[--timeout TIMEOUT]",
	})
}

const originalHelp = `
Runs through all of the phases to ensure configuration is applied and enabled
on a machine. Will exit with an error if any phase has a problem. Scripts
should not depend on eachother having worked properly. Set
OS_REFRESH_CONFIG_BASE_DIR environment variable to override the default

options:
  -h, --help            show this help message and exit
  --print-base          Print base dir and exit
  --print-phases        Print phases (tab separated) and exit
  --log-level {ERROR,WARN,CRITICAL,INFO,DEBUG}
  --lockfile LOCKFILE   Lock file to prevent multiple running copies.
  --timeout TIMEOUT     Seconds until the current run will be terminated.
`
