package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"goldsmith/internal/command"
)

// RunParts is dib-run-parts as a machine has it, in python3-dib-utils.
type RunParts struct {
	Name           string // what the program is called; begins its lines
	Stdin          io.Reader
	Stdout, Stderr io.Writer // where they are files, hooks write to these themselves
}

// Main runs the program with its arguments, and returns its exit status: 1
// when there is no such directory, or that of the first hook, or file of
// environment.d, that failed. Everything but the names that --list prints, and
// what hooks print, goes to standard error.
func (p RunParts) Main(ctx context.Context, args []string) int {
	if len(args) < 1 {
		return p.usage()
	}
	list := args[0] == "--list"
	if list {
		args = args[1:]
	}
	r := Runner{Stdin: p.Stdin, Stdout: p.Stdout, Log: p.Stderr, Prefix: p.Name + " ", Dated: true, Trace: true, Errexit: true, Bond: command.Share}
	if len(args) > 0 {
		r.Dir = args[0]
	}
	if fi, err := os.Stat(r.Dir); err != nil || !fi.IsDir() {
		r.say("Scripts directory [%s] must exist and be a directory", r.Dir)
		return p.usage()
	}
	if expr := os.Getenv("RUN_PARTS_REGEX"); expr != "" {
		var err error
		if r.Match, err = regexp.CompilePOSIX(expr); err != nil {
			r.say("RUN_PARTS_REGEX: %v", err)
			return 1
		}
	}
	var err error
	if list {
		err = p.list(r)
	} else {
		err = r.Run(ctx)
	}
	e, ok := errors.AsType[*Error](err)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		return 1 // killed: who did it says so
	case !ok:
		r.say("%v", err)
		return 1
	}
	r.sayUnstarted(err)
	return e.ExitStatus()
}

func (p RunParts) list(r Runner) error {
	names, err := list(r.Dir, r.match(), isExecutable, Compare)
	for _, n := range names {
		if _, err := fmt.Fprintln(p.Stdout, r.in(n)); err != nil {
			return err
		}
	}
	return err
}

func (p RunParts) usage() int {
	fmt.Fprintf(p.Stderr, `Usage: %s [OPTION] scripts_directory
Option:
      --list  print names of all valid files

Examples:
      dib-run-parts --list /opt/stack/os-config-refresh/configure.d/
      dib-run-parts /opt/stack/os-config-refresh/configure.d/
`, p.Name)
	return 1
}
