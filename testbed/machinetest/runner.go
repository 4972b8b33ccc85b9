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

// Runner runs tests on one machine, one after the other. Shell and Dir must be
// set.
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
	// Revive makes the machine usable again after a failure of the testbed's,
	// and Retries is how often a test is then run again by itself. Nil or 0:
	// never.
	Revive  func(context.Context) error
	Retries int
	// Again is how often any failed test is run again, because somebody asked
	// for that: one that then passes is a flake.
	Again int
	// Now is the clock of snoozes; nil means time.Now.
	Now func() time.Time
	// Progress tells people how it goes.
	Progress *command.Progress
}

const (
	statusSkip  = 77 // automake's convention: the test does not apply
	maxOutput   = 16 << 10
	maxKept     = 64 << 20 // of a test's output in its file
	askLimit    = 30 * time.Second
	lostLimit   = time.Minute
	maxReboots  = 20
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

// Run runs the tests. An error means that it was interrupted, or that what it
// keeps could not be written; everything else is a result. When a machine is
// lost, the tests that were to follow are skipped and say so.
func (r *Runner) Run(ctx context.Context, tests []*Test) ([]evidence.Test, error) {
	var results []evidence.Test
	lost := ""
	for _, t := range tests {
		if lost != "" {
			results = append(results, evidence.Test{Name: t.Name, Element: t.Element, Result: evidence.Skip,
				Reason: "not run: the machine was lost in " + lost})
			continue
		}
		res, err := r.test(ctx, t)
		if err != nil {
			return results, err
		}
		results = append(results, res)
		if res.Result == evidence.Fail && !t.Destructive && !r.answers(ctx) {
			lost = t.Label()
		}
	}
	return results, nil
}

// answers tells whether commands can still be run.
func (r *Runner) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, lostLimit)
	defer cancel()
	return r.Shell.Wait(ctx) == nil
}

// test runs one test as often as it takes.
func (r *Runner) test(ctx context.Context, t *Test) (evidence.Test, error) {
	var earlier []string
	again, retries := r.Again, r.Retries
	for n := 1; ; n++ {
		res, err := r.attempt(ctx, t, n)
		if err != nil {
			return res, err
		}
		if n > 1 {
			res.Attempts, res.Earlier = n, earlier
		}
		if res.Result == evidence.Pass && n > 1 && again < r.Again {
			res.Class, res.Because = evidence.Flake, "it passed when it was run again: "+earlier[len(earlier)-1]
		}
		if res.Result != evidence.Fail {
			return res, nil
		}
		earlier = append(earlier, string(res.Class)+": "+res.Reason)
		switch {
		case res.Class == evidence.Infra && retries > 0 && r.Revive != nil:
			retries--
			if err := r.Revive(ctx); err != nil {
				res.Because += "; the machine could not be revived: " + OneLine(err.Error())
				return r.snooze(t, res), context.Cause(ctx)
			}
		case again > 0 && r.answers(ctx):
			again--
		default:
			return r.snooze(t, res), nil
		}
	}
}

func (r *Runner) snooze(t *Test, res evidence.Test) evidence.Test {
	now := time.Now()
	if r.Now != nil {
		now = r.Now()
	}
	if z := r.Snoozes.Find(t, r.Platform, now); z != nil {
		res.Snoozed = z.URL
	}
	return res
}

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
	mark := r.mark()
	since := r.clock(ctx)
	step := r.Progress.Start("test " + t.Label())
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
