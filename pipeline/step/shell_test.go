package step

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"goldsmith/testbed"
)

// hostShell is a machine that is this host.
type hostShell struct{ testbed.Shell }

func (hostShell) Run(ctx context.Context, c testbed.Command) error {
	x := exec.CommandContext(ctx, "sh", "-c", c.Line)
	x.Stdin, x.Stdout, x.Stderr = c.Stdin, c.Stdout, c.Stderr
	err := x.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &testbed.RemoteError{Command: c.Line, Status: exit.ExitCode()}
	}
	return err
}

// lostShell is a machine that is gone.
type lostShell struct{ testbed.Shell }

func (lostShell) Run(context.Context, testbed.Command) error {
	return &testbed.UnreachableError{By: "console of", Addr: "m", Err: errors.New("no answer")}
}

// The command for tests on the host is as ssh: input, output, errors and status.
func TestRelay(t *testing.T) {
	t.Parallel()
	start := func(sh testbed.Shell) string {
		dir := t.TempDir()
		command := filepath.Join(dir, "it's bin", machineSSH)
		r, err := startRelay(sh, filepath.Join(dir, "it's"), command)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if names, _ := filepath.Glob(filepath.Join(r.dir, "ask.*")); len(names) > 0 {
				t.Errorf("left: %v", names)
			}
			r.close()
			if _, err := os.Stat(r.dir); err == nil {
				t.Errorf("%s is left", r.dir)
			}
		})
		return command
	}
	call := func(command, in string, args ...string) string {
		var out, errs bytes.Buffer
		x := exec.CommandContext(t.Context(), command, args...)
		x.Stdin, x.Stdout, x.Stderr = strings.NewReader(in), &out, &errs
		_ = x.Run()
		return fmt.Sprintf("%d %q %q", x.ProcessState.ExitCode(), out.String(), errs.String())
	}
	host, lost := start(hostShell{}), start(lostShell{})
	for want, got := range map[string]string{
		`0 "in\x00\n" ""`:                    call(host, "in\x00\n", "cat"),
		`3 "" "oh\n"`:                        call(host, "", "echo oh >&2;", "exit 3"),
		`0 "it's $HOME\n" ""`:                call(host, "", "echo \"it's\" '$HOME'"),
		`255 "" "console of m: no answer\n"`: call(lost, "", "true"),
		`255 "" "machine-ssh: no options: this stage does not use SSH\n"`: call(host, "", "-v", "true"),
	} {
		if got != want {
			t.Errorf("%s; want %s", got, want)
		}
	}
	var many sync.WaitGroup
	for i := range 8 {
		many.Go(func() {
			if got, want := call(host, "", fmt.Sprintf("sleep 0.0%d; echo %d", 8-i, i)), fmt.Sprintf(`0 "%d\n" ""`, i); got != want {
				t.Errorf("%s; want %s", got, want)
			}
		})
	}
	many.Wait()
}
