package step

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// unsentShell is a machine that is this host, with a file of its own for what it
// has not sent.
type unsentShell struct {
	hostShell
	file string
}

func (unsentShell) Wait(context.Context) error { return nil }

func (s unsentShell) Run(ctx context.Context, c testbed.Command) error {
	c.Line = strings.ReplaceAll(c.Line, unsent, s.file)
	return s.hostShell.Run(ctx, c)
}

// What a machine kept before it was started anew is not its signal.
func TestPullAfterStart(t *testing.T) {
	t.Parallel()
	sh := unsentShell{file: filepath.Join(t.TempDir(), "unsent.json")}
	s := &subject{how: shellConsole, shell: sh}
	pull := func(limit time.Duration) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		sig, err := s.pull(ctx)
		return sig.Status, err
	}
	if _, err := pull(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(sh.file, []byte(`{"for":"","Status":"SUCCESS"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(10 * time.Second); err != nil || got != "SUCCESS" {
		t.Errorf("a file of this start: %q, %v", got, err)
	}
	before := time.Unix(1, 0)
	if err := os.Chtimes(sh.file, before, before); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a file of the start before: %q, %v; want none", got, err)
	}
}
