package machinetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/testbed"
)

// Runner runs tests on machines, one after the other. Shell and Dir must be set.
type Runner struct {
	Shell testbed.Shell
	// Console is read for what is always bad; nil means the machine has none.
	Console *testbed.Console
	// Host runs an executable on imgpipe's host, in the machine's network; nil
	// means that tests there are skipped.
	Host func(ctx context.Context, path string, env []string, out io.Writer) error
	// Env are NAME=value for all tests.
	Env      []string
	Platform string // the machine's driver, for snoozes
	Snoozes  *Snoozes
	// Dir gets a directory for each test, ELEMENT-NAME, with output, console
	// and journal.
	Dir string
	// Renew puts a new machine in the place of the one before it, for one test
	// that is not to share: Shell and Console are set anew. A *NotUp says that
	// the machine is no good; any other error ends the run. Nil means that such
	// tests are skipped.
	Renew func(ctx context.Context, t *Test) error
	// Revive makes the machine usable again that tests share: after a failure of
	// the testbed's, and when it answers no more. Nil: that cannot be done.
	Revive func(context.Context) error
	// Patience is how long a machine may not answer before it counts as dead; 0
	// means a minute.
	Patience time.Duration
	// Retries is how often a test is run again by itself after a failure of the
	// testbed's. 0 means never.
	Retries int
	// Again is how often any failed test is run again, because somebody asked
	// for that: one that then passes is a flake.
	Again int
	// Now is the clock of snoozes; nil means time.Now.
	Now func() time.Time
	// Progress tells people how it goes.
	Progress *command.Progress

	revived int // how often
}

// NotUp is the error of a machine that was made for one test and does not come
// up: whose fault that is, and what speaks for it.
type NotUp struct {
	Class   evidence.Class
	Because string
	Reason  string // one line
}

func (e *NotUp) Error() string { return e.Reason }

const (
	statusSkip  = 77 // automake's convention: the test does not apply
	maxOutput   = 16 << 10
	maxKept     = 64 << 20 // of a test's output in its file
	askLimit    = 30 * time.Second
	patience    = time.Minute
	maxReboots  = 20
	maxRevivals = 3                      // of one machine, in a run
	consoleLag  = 200 * time.Millisecond // what was printed last is still on its way
	machineDir  = "/var/lib/goldsmith-test"
	rebootName  = "goldsmith-reboot"
	rebootMark  = "GOLDSMITH_REBOOT_MARK"
	markFile    = machineDir + "/mark"
	bootIDFile  = "/proc/sys/kernel/random/boot_id"
	journalLine = "journalctl --no-pager -o short-precise --since=@"
)

// rebootScript restarts the machine and does not return. The mark is on the
// disk before the machine goes.
const rebootScript = `#!/bin/sh
# goldsmith-reboot MARK: restarts the machine; the test is then run again with
# MARK in ` + rebootMark + `.
set -eu
case ${1:-} in
'' | *[!A-Za-z0-9._-]*) echo "usage: goldsmith-reboot MARK" >&2; exit 2 ;;
esac
printf '%s\n' "$1" >` + markFile + `.new
mv ` + markFile + `.new ` + markFile + `
sync
systemctl reboot
while :; do sleep 60; done
`

// attempt runs a test once, keeps what it left, and judges.
func (r *Runner) attempt(ctx context.Context, t *Test, n int) (evidence.Test, error) {
	res := evidence.Test{Name: t.Name, Element: t.Element, Result: evidence.Pass}
	dir := filepath.Join(r.Dir, strings.ReplaceAll(t.Label(), "/", "-"))
	if n > 1 {
		dir += "." + strconv.Itoa(n)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return res, err
	}
	file, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return res, err
	}
	defer file.Close()
	var out tailBuffer
	step := r.Progress.Start("test " + t.Label())
	if err := r.renew(ctx, t); err != nil {
		step.Done(err, "")
		no, ok := errors.AsType[*NotUp](err)
		if !ok {
			return res, err
		}
		res.Result, res.Class, res.Because, res.Reason = evidence.Fail, no.Class, no.Because, "its machine: "+no.Reason
		return res, nil
	}
	mark := r.mark()
	since := r.clock(ctx)
	started := time.Now()
	runErr := r.run(ctx, t, io.MultiWriter(&bounded{w: file, left: maxKept}, &out))
	res.Seconds = time.Since(started).Seconds()
	if ctx.Err() != nil {
		step.Done(runErr, "")
		return res, context.Cause(ctx)
	}
	found, err := r.keepConsole(dir, mark, t)
	if err != nil {
		return res, err
	}
	r.keepJournal(ctx, dir, since)
	res.Output = out.String()
	r.judge(&res, runErr, found)
	switch res.Result {
	case evidence.Fail:
		step.Done(errors.New(res.Reason), "")
	default:
		step.Done(nil, res.Reason)
	}
	return res, nil
}

// renew makes the machine for a test that does not share.
func (r *Runner) renew(ctx context.Context, t *Test) error {
	if !t.Alone() {
		return nil
	}
	return r.Renew(ctx, t)
}

// judge turns how a test ended, and what the console showed, into a result.
func (r *Runner) judge(res *evidence.Test, err error, found []Finding) {
	status, last := exitOf(err), lastLine(res.Output)
	switch {
	case errors.Is(err, errSkipped):
		res.Result, res.Reason = evidence.Skip, err.Error()
		return
	case err != nil && status == statusSkip && len(found) == 0:
		res.Result, res.Reason = evidence.Skip, last
		return
	case err == nil && len(found) == 0:
		return
	case err == nil:
		res.Reason = "it passed, but " + found[0].String()
	case status > 0:
		res.Reason = fmt.Sprintf("exit status %d: %s", status, last)
	default:
		res.Reason = OneLine(err.Error())
	}
	res.Result = evidence.Fail
	res.Class, res.Because = Classify(err, found)
}

// exitOf returns a program's exit status; 0 when the error is not an exit.
func exitOf(err error) int {
	var remote *testbed.RemoteError
	var exit *command.ExitError
	switch {
	case errors.As(err, &remote):
		return remote.Status
	case errors.As(err, &exit):
		return exit.Status
	}
	return 0
}

func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return OneLine(lines[len(lines)-1])
}

var errSkipped = errors.New("there is no network to reach the machine from this host")

// run runs the test where it belongs.
func (r *Runner) run(ctx context.Context, t *Test, out io.Writer) error {
	switch {
	case t.On == OnMachine:
		return r.onMachine(ctx, t, out)
	case r.Host == nil:
		return errSkipped
	}
	ctx, cancel := limited(ctx, t)
	defer cancel()
	return late(ctx, r.Host(ctx, t.Path, r.Env, out))
}

func limited(ctx context.Context, t *Test) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, t.timeout(), fmt.Errorf("did not end within %s: %w", t.timeout(), errLate))
}

// late prefers the context's cause to what came of it.
func late(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errLate) {
		return context.Cause(ctx)
	}
	return err
}
