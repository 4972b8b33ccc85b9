package machinetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"goldsmith/testbed"
)

// onMachine brings the test to the machine and runs it, again after each
// reboot that it asks for.
func (r *Runner) onMachine(ctx context.Context, t *Test, out io.Writer) error {
	defer r.cleanUp(ctx)
	mark := ""
	for range maxReboots + 1 {
		next, err := r.part(ctx, t, mark, out)
		if err != nil || next == "" {
			return err
		}
		fmt.Fprintf(out, "--- restarted: %s\n", next)
		mark = next
	}
	return fmt.Errorf("it restarted the machine more than %d times", maxReboots)
}

// part runs the test from one reboot to the next, and returns the mark of that;
// empty when the test has ended.
func (r *Runner) part(ctx context.Context, t *Test, mark string, out io.Writer) (next string, err error) {
	ctx, cancel := limited(ctx, t)
	defer cancel()
	before, err := r.prepare(ctx, t, mark == "")
	if err != nil {
		return "", late(ctx, err)
	}
	var line strings.Builder
	fmt.Fprintf(&line, "cd %s && exec env PATH=%s:\"$PATH\" %s=%s", machineDir, machineDir, rebootMark, testbed.Quote(mark))
	for _, e := range r.Env {
		line.WriteString(" " + testbed.Quote(e))
	}
	line.WriteString(" " + testbed.Quote(machineDir+"/"+t.Name))
	line.WriteString(" 2>&1") // one stream keeps the order
	err = r.Shell.Run(ctx, testbed.Command{Line: line.String(), Stdout: out})
	if err == nil || !t.Reboots || ctx.Err() != nil {
		return "", late(ctx, err)
	}
	next, rerr := r.awaitReboot(ctx, before, err)
	if rerr != nil {
		return "", late(ctx, rerr)
	}
	return next, nil
}

// prepare puts the test and what it may call on the machine, and returns the ID
// of the machine's boot. The first time it removes what another test left whose
// clean-up failed: a mark of its own, for example.
func (r *Runner) prepare(ctx context.Context, t *Test, first bool) (bootID string, err error) {
	if err := r.Shell.Wait(ctx); err != nil {
		return "", err
	}
	line := "mkdir -p " + machineDir + " && chmod 700 " + machineDir
	if first {
		line = "rm -rf " + machineDir + " && " + line
	}
	if err := r.Shell.Run(ctx, testbed.Command{Line: line}); err != nil {
		return "", err
	}
	if err := r.Shell.Put(ctx, t.Path, machineDir+"/"+t.Name, 0o700); err != nil {
		return "", err
	}
	script, err := os.CreateTemp("", "goldsmith-test-")
	if err != nil {
		return "", err
	}
	defer os.Remove(script.Name())
	_, err = script.WriteString(rebootScript)
	if err := errors.Join(err, script.Close()); err != nil {
		return "", err
	}
	if err := r.Shell.Put(ctx, script.Name(), machineDir+"/"+rebootName, 0o700); err != nil {
		return "", err
	}
	return r.output(ctx, "cat "+bootIDFile)
}

// awaitReboot waits until the machine is back, when the test's end was that it
// went: with a mark, and another boot after it. Otherwise the test's own error
// stands.
func (r *Runner) awaitReboot(ctx context.Context, before string, testErr error) (mark string, err error) {
	var remote *testbed.RemoteError
	for {
		if err := r.Shell.Wait(ctx); err != nil {
			return "", errors.Join(testErr, err)
		}
		state, err := r.output(ctx, "cat "+markFile+" 2>/dev/null || echo; cat "+bootIDFile)
		if err == nil {
			mark, boot, _ := strings.Cut(state, "\n")
			switch {
			case boot != before && mark != "":
				return mark, r.Shell.Run(ctx, testbed.Command{Line: "rm -f " + markFile})
			case boot != before:
				return "", fmt.Errorf("the machine restarted without being asked to: %w", testErr)
			case mark == "" && errors.As(testErr, &remote):
				return "", testErr // it just failed
			}
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(testErr, context.Cause(ctx))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// cleanUp removes what prepare put there, when the machine can still be asked.
func (r *Runner) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
	defer cancel()
	_ = r.Shell.Run(ctx, testbed.Command{Line: "rm -rf " + machineDir})
}

func (r *Runner) output(ctx context.Context, line string) (string, error) {
	var b bytes.Buffer
	err := r.Shell.Run(ctx, testbed.Command{Line: line, Stdout: &b})
	return strings.TrimRight(b.String(), "\n"), err
}
