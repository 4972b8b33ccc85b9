package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"goldsmith/internal/command"
)

// run runs the command with the documents' paths.
func (r *Runner) run(ctx context.Context, paths []string) error {
	env := append(os.Environ(), "OS_CONFIG_FILES="+strings.Join(paths, ":"))
	args := []string{"/bin/sh", "-c", r.Command}
	if r.Original {
		return r.runPlain(ctx, args, env)
	}
	return command.Exec{Args: args, Env: env, Log: r.Log, Stdout: r.Stdout}.Run(ctx)
}

// runPlain runs the command as subprocess.check_call does, in our process
// group and with our standard input: what it leaves running goes on, as
// programs do that were started under os-collect-config. When the context
// ends, it is left to itself.
func (r *Runner) runPlain(ctx context.Context, args, env []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, r.Stdout, r.Log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-ended:
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			st, _ := e.Sys().(syscall.WaitStatus)
			return &command.ExitError{Args: args, Status: e.ExitCode(), Signal: st.Signal()}
		}
		return err
	}
}

// CommandError says that the command did not succeed.
type CommandError struct {
	Command string
	Err     error
}

func (e *CommandError) Error() string {
	if x, ok := errors.AsType[*command.ExitError](e.Err); ok && x.Status >= 0 {
		return fmt.Sprintf("command %s: exit status %d", e.Command, x.Status) // what it said has been logged
	}
	return fmt.Sprintf("command %s: %v", e.Command, e.Err)
}

func (e *CommandError) Unwrap() error { return e.Err }

// Status is the command's exit status; for one that a signal ended what
// Python makes of the signal's negative number.
func (e *CommandError) Status() int {
	x, ok := errors.AsType[*command.ExitError](e.Err)
	switch {
	case !ok:
		return command.StatusFailed
	case x.Status > 0:
		return x.Status
	case x.Signal > 0:
		return 256 - int(x.Signal)
	}
	return command.StatusFailed
}
