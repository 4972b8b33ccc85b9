package step

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"goldsmith/testbed"
)

// The command for tests on the host is as ssh: input, output, errors and status.
func TestRelay(t *testing.T) {
	t.Parallel()
	start := func(sh testbed.Shell) string {
		dir := t.TempDir()
		command := filepath.Join(dir, "it's bin", machineSSH)
		r, err := startRelay(sh, nil, filepath.Join(dir, "it's"), command)
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

// endlessShell runs each command until its context ends.
type endlessShell struct {
	testbed.Shell
	started, ended chan struct{}
}

func newEndlessShell() endlessShell {
	return endlessShell{started: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (s endlessShell) Run(ctx context.Context, _ testbed.Command) error {
	s.started <- struct{}{}
	<-ctx.Done()
	close(s.ended)
	return context.Cause(ctx)
}

// A command line ends when who asked is killed, and when the stage's time is
// over.
func TestRelayEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(asker *os.Process, over chan struct{}){
		"killed": func(asker *os.Process, _ chan struct{}) { _ = asker.Kill() },
		"over":   func(_ *os.Process, over chan struct{}) { close(over) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sh, over, dir := newEndlessShell(), make(chan struct{}), t.TempDir()
			command := filepath.Join(dir, machineSSH)
			r, err := startRelay(sh, over, filepath.Join(dir, "relay"), command)
			if err != nil {
				t.Fatal(err)
			}
			defer r.close()
			x := exec.CommandContext(t.Context(), command, "sleep 1000")
			if err := x.Start(); err != nil {
				t.Fatal(err)
			}
			for _, moment := range []chan struct{}{sh.started, sh.ended} {
				select {
				case <-moment:
				case <-time.After(5 * time.Second):
					t.Error("the command line goes on")
				}
				if moment == sh.started {
					end(x.Process, over)
				}
			}
			_ = x.Process.Kill()
			_ = x.Wait()
			for range 500 {
				if left, _ := filepath.Glob(filepath.Join(r.dir, "ask.*")); len(left) == 0 {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Error("files of who asked are left")
		})
	}
}

// The answer waits for who asked, who may be slow: stopped, here.
func TestRelaySlow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	command := filepath.Join(dir, machineSSH)
	r, err := startRelay(hostShell{}, nil, filepath.Join(dir, "relay"), command)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	asked := filepath.Join(dir, "asked")
	x := exec.CommandContext(t.Context(), command, "echo >"+testbed.Quote(asked)+"; sleep 1; echo hi")
	var out bytes.Buffer
	x.Stdout = &out
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if _, err := os.Stat(asked); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := x.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1*time.Second + 2*askerLimit)
	if err := x.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- x.Wait() }()
	select {
	case err := <-ended:
		if err != nil || out.String() != "hi\n" {
			t.Errorf("%q, %v", out.String(), err)
		}
	case <-time.After(5 * time.Second):
		_ = x.Process.Kill()
		t.Error("it waits for its answer for ever")
	}
}
