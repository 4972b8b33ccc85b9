// Package refreshcfg brings a machine to its configuration: it runs the
// phases pre-configure, configure, post-configure and migration, each a
// directory of hooks, and reports to whoever deployed the machine how that
// ended.
//
// The first hook that fails ends the run: error.d is run, later phases are
// not, and the report says which hook it was. One run at a time, held by a
// lock file.
package refreshcfg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/metadata"
)

// DefaultBase is where elements put their hooks, DefaultLock the lock file.
const (
	DefaultBase = "/usr/libexec/os-refresh-config"
	DefaultLock = "/run/os-refresh-config.lock"
)

// Phases are the phases in their order. The hooks of a phase are in PHASE.d.
var Phases = []string{"pre-configure", "configure", "post-configure", "migration"}

// Config says what to run. The zero value runs the machine's own phases.
type Config struct {
	Base    string        // the directory of the phases; empty means DefaultBase
	Lock    string        // the lock file; empty means DefaultLock
	Timeout time.Duration // for all phases together; 0 means none
	Stdout  io.Writer     // what the hooks print on standard output
	Log     io.Writer     // everything else
	Say     func(format string, args ...any)

	State string // the directory for what is remembered; empty means DefaultState
	Image Image  // what this machine runs; see Running
	// Metadata is asked when a hook waits for a key to change; nil means that
	// there is none.
	Metadata func(context.Context) (*metadata.Object, error)
	Noop     bool // say what would be put back and what would run, do nothing
	// Rollback gives back the files that applycfg replaced and kept, when a
	// phase has failed and before error.d runs; Good says that they are good,
	// when every phase succeeded. Nil does nothing.
	Rollback func(ctx context.Context) (files int, err error)
	Good     func(ctx context.Context) error
}

// Failure says which hook ended the run.
type Failure struct {
	Phase string
	Err   error // a *hook.Error, or why the phase could not run
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.Phase, f.Err) }
func (f *Failure) Unwrap() error { return f.Err }

// Reason is the failure in one line: "configure/20-os-apply-config: exit
// status 2: no such file". It is [command.Plain] text: a hook may print for a
// terminal.
func (f *Failure) Reason() string {
	return command.Line(f.reason())
}

func (f *Failure) reason() string {
	e, ok := errors.AsType[*hook.Error](f.Err)
	if !ok {
		return f.Error()
	}
	line := f.Phase + "/" + filepath.Base(e.Path) + ": " + e.Reason()
	for _, l := range slices.Backward(e.Tail) {
		// A goldsmith program says last what to do, before that what is wrong.
		if !strings.HasPrefix(l, "hint: ") {
			return line + ": " + l
		}
	}
	return line
}

// settle is how long after a failure an interrupt may come that has caused it:
// systemd sends SIGTERM to all processes of a unit, and a hook may die first.
const settle = 100 * time.Millisecond

func interrupted(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	case <-time.After(settle):
		return ctx.Err() != nil
	}
}

// Run runs the phases. When ctx ends, it ends what runs and does nothing more,
// as if it had been killed: the machine restarts, or its unit is stopped. The
// error is a [*Failure] when a phase failed, and one
// with the status for busy when another run holds the lock.
func Run(ctx context.Context, c Config) (err error) {
	if c.Say == nil {
		c.Say = func(string, ...any) {}
	}
	lock, err := takeLock(or(c.Lock, DefaultLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Truncate(0), lock.Close()) }()
	limited := ctx
	if c.Timeout > 0 {
		var stop context.CancelFunc
		cause := fmt.Errorf("still running after %s: ended", c.Timeout)
		limited, stop = context.WithTimeoutCause(ctx, c.Timeout, cause)
		defer stop()
	}
	if err := c.before(ctx); err != nil {
		return err
	}
	if !c.Noop {
		defer os.Remove(c.changed())
	}
	for _, phase := range Phases {
		c.Say("phase %s", phase)
		if err := c.phase(limited, phase); err != nil {
			f := &Failure{phase, err}
			if interrupted(ctx) {
				return f
			}
			c.Say("%s", f.Reason())
			// Without the time limit: it is over, and error.d is to run.
			if !c.Noop {
				c.rollback(ctx)
				if err := c.failed(ctx, f.Reason()); err != nil {
					c.Say("error.d: %v", err)
				}
			}
			return f
		}
	}
	if c.Noop {
		return nil
	}
	if c.Good != nil {
		if err := c.Good(ctx); err != nil {
			return err
		}
	}
	return c.succeeded()
}

// before is what comes before the phases: data that newer images migrated are
// put back, and nothing has changed yet.
func (c Config) before(ctx context.Context) error {
	s := state{or(c.State, DefaultState)}
	if !c.Noop {
		if err := s.sweep(); err != nil {
			return err
		}
	}
	list, stay, err := s.returning(c.Image)
	if err != nil {
		return err
	}
	for _, m := range stay {
		c.Say("%s", stays(m))
	}
	if !c.Noop {
		if err := s.giveBack(ctx, list, c.Say); err != nil {
			return err
		}
		return c.startChanged()
	}
	for _, m := range kept(list) {
		for _, p := range m.Paths {
			c.Say("back from %s: %s would be as it was before %s", m.To, p, m.Name)
		}
	}
	return nil
}

// changed is a file beside the lock, which protects it. applycfg adds the paths
// that it changes, for the hooks after it, in whatever directory these are.
func (c Config) changed() string {
	path := or(c.Lock, DefaultLock) + ".changed"
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// startChanged makes that file anew, whatever a run that was killed left there.
func (c Config) startChanged() error {
	if err := os.Remove(c.changed()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(c.changed(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// rollback gives back the last good set of files, where one was kept.
func (c Config) rollback(ctx context.Context) {
	if c.Rollback == nil {
		return
	}
	switch n, err := c.Rollback(ctx); {
	case err != nil:
		c.Say("giving back the last good files: %v", err)
	case n > 0:
		c.Say("gave back the last good files: %d", n)
	}
}

// succeeded remembers in which image everything went well.
func (c Config) succeeded() error {
	s := state{or(c.State, DefaultState)}
	if c.Image == (Image{}) {
		return nil
	}
	last, err := s.lastImage()
	if err != nil {
		return err
	}
	all, err := s.migrations()
	if err != nil {
		return err
	}
	now := goodImage{c.Image, last.next(all)}
	if last.goodImage == now {
		return nil
	}
	if err := s.replace(imageRecord, last.followedBy(now)); err != nil {
		return err
	}
	return s.forget(c.Image)
}

// failureVariable is what failed, in one line, in the environment of the hooks
// of error.d.
const failureVariable = "GOLDSMITH_FAILURE"

// failed runs error.d, where there is one: each hook, whatever its header says.
func (c Config) failed(ctx context.Context, reason string) error {
	dir := filepath.Join(or(c.Base, DefaultBase), "error.d")
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	r := c.runner(dir)
	r.Env = append(r.Env, failureVariable+"="+strings.ReplaceAll(reason, "\x00", ""))
	return r.Run(ctx)
}

// runner runs hooks of a directory. What they start in the background lives on.
func (c Config) runner(dir string) *hook.Runner {
	return &hook.Runner{Dir: dir, Stdout: c.Stdout, Log: c.Log, Env: c.environ(), Bond: command.Leave}
}

// takeLock opens the lock file and locks it until it is closed. The file is
// left behind, empty: removing it would let two runs hold two files.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		who, _ := io.ReadAll(io.LimitReader(f, 100))
		return nil, errors.Join(busy(path, string(who)), f.Close())
	}
	if err == nil {
		err = writeLock(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

func busy(path, who string) error {
	msg := fmt.Errorf("%s: another run holds the lock", path)
	var pid int
	if n, _ := fmt.Sscanf(who, "Locked by pid==%d", &pid); n == 1 {
		msg = fmt.Errorf("%s: process %d holds the lock", path, pid)
	}
	return command.Busy(msg, "wait for it to end, or name another file with --lockfile")
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
