package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
)

// runParts is dib-run-parts.
func runParts(ctx context.Context, c *caller, name string, args []string) error {
	list := len(args) > 0 && args[0] == "--list"
	if list {
		args = args[1:]
	}
	if len(args) == 0 {
		return command.Hint(errors.New("no directory given"), "usage: "+name+" [--list] DIRECTORY")
	}
	dir := args[0]
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return command.Hint(fmt.Errorf("scripts directory [%s] must exist and be a directory", dir), "usage: "+name+" [--list] DIRECTORY")
	}
	match := hook.Name
	if expr := c.env["RUN_PARTS_REGEX"]; expr != "" {
		var err error
		if match, err = regexp.CompilePOSIX(expr); err != nil {
			return fmt.Errorf("RUN_PARTS_REGEX: %w", err)
		}
	}
	trace, _ := strconv.Atoi(c.env["DIB_DEBUG_TRACE"])
	hooks, ignored, err := scan(dir, match)
	if err != nil {
		return err
	}
	if list {
		for _, h := range hooks {
			fmt.Fprintf(c.Stdout, "%s/%s\n", dir, h)
		}
		return nil
	}
	if trace > 0 && len(ignored) > 0 {
		fmt.Fprintf(c.Stderr, "%s Ignoring files that are not executable or not named as hooks: %s\n", name, strings.Join(ignored, " "))
	}
	r := hook.Runner{
		Dir: dir, Stdin: c.Stdin, Stdout: c.Stdout, Log: c.Stderr,
		Prefix: name + " ", Trace: trace > 0, Match: match,
	}
	return endOf(r.Run(ctx))
}

// endOf gives the error of a hook the hook's exit status, or what a shell
// makes of a signal.
func endOf(err error) error {
	e, ok := errors.AsType[*hook.Error](err)
	if !ok {
		return err
	}
	status := e.Status
	if x, ok := errors.AsType[*command.ExitError](err); ok && status < 0 {
		status = 128 + int(x.Signal)
	}
	if status <= 0 {
		status = 126 // it could not be started
	}
	return &exit{status, fmt.Errorf("%s: %s", e.Path, e.Reason())} // it has said why
}

// scan sorts what lies in a directory into hooks, in the order they run, and
// files that are none.
func scan(dir string, match *regexp.Regexp) (hooks, ignored []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		fi, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular():
		case err == nil && match.MatchString(e.Name()) && unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) == nil:
			hooks = append(hooks, e.Name())
		default:
			ignored = append(ignored, e.Name())
		}
	}
	slices.SortFunc(hooks, hook.Compare)
	return hooks, ignored, nil
}
