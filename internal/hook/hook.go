// Package hook runs a directory of hooks: small executables with names such
// as 10-users and 99-cleanup, one after the other, as dib-run-parts does.
// Image builds run their phases with it, and so does a machine at boot.
//
// Beside a hook directory may lie environment.d. Its files are sourced by
// bash, once, before the first hook; what they export is the hooks'
// environment, and a snippet that fails fails the directory. The hooks then run serially until one
// does not end well. Which files are hooks, and their order, is dib-run-parts'
// ([List]); existing elements rely on every detail of it.
//
// The package does not know what a phase is, and it starts nothing itself: a
// caller may say how programs are started ([Runner.Exec]), for instance in a
// chroot where the directory has another path.
package hook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"goldsmith/internal/command"
)

// Runner runs one directory of hooks. Only Dir is required.
type Runner struct {
	// Dir is the directory as this process sees it.
	Dir string
	// InDir is the directory as the hooks see it; empty means Dir. It differs
	// when Exec starts programs in a chroot.
	InDir string
	// Env is the environment that environment.d and the hooks start from; nil
	// means the caller's.
	Env []string
	// Work is the hooks' working directory, as they see it; empty means the
	// caller's (or what Exec makes of it).
	Work  string
	Stdin io.Reader
	// Stdout receives the hooks' standard output; nil means it goes to Log.
	// What environment.d prints goes to Log.
	Stdout io.Writer
	// Log receives everything else: what the hooks say, which hook runs, and
	// at the end how long each took. Nil means nobody reads it.
	Log io.Writer
	// Prefix begins the runner's own lines in Log; empty means
	// "dib-run-parts ".
	Prefix string
	// Dated adds the time to the prefix, as date(1) prints it.
	Dated bool
	// Bond is how the hooks hang on this process; with command.Share what
	// environment.d prints goes where the hooks' output goes, and nothing is
	// kept of it for errors.
	Bond command.Bond
	// Trace makes bash print each command of environment.d as it is sourced.
	// The values of variables reach the log with it.
	Trace bool
	// Errexit has "set +e" in a snippet go for the hooks, too: those that fail
	// are passed over.
	Errexit bool
	// Match replaces [Name]; nil means Name.
	Match *regexp.Regexp
	// Exec starts a program and waits for it, as [command.Exec.Run] does and
	// with its errors; nil means Run. It is called once for environment.d,
	// when there are snippets, and once for each hook.
	Exec func(ctx context.Context, x command.Exec) error
	// Skip tells which hooks to pass over, in silence. With it, environment.d
	// is sourced only before the first hook that runs. Nil runs all.
	Skip func(name string) bool
	// Before is called before each hook and may refuse it: the directory then
	// fails with Before's error. After gets each hook's outcome, an [*Error]
	// or nil, and may fail the directory. Either may be nil.
	Before func(name string) error
	After  func(name string, took time.Duration, err error) error
}

// Error says that a hook, or a file of environment.d, did not end well.
type Error struct {
	Path   string   // the hook, as the hooks see it
	Status int      // its exit status; -1 when a signal ended it or it could not start
	Tail   []string // the last lines it printed, on either stream
	Err    error    // what Exec returned
}

func (e *Error) Error() string {
	if len(e.Tail) == 0 {
		return e.Path + ": " + e.Reason()
	}
	return e.Path + ": " + e.Reason() + ":\n    " + strings.Join(e.Tail, "\n    ")
}

func (e *Error) Unwrap() error { return e.Err }

// Reason is how it ended, without the path and what it printed: "exit status 3".
func (e *Error) Reason() string {
	x, ok := errors.AsType[*command.ExitError](e.Err)
	switch {
	case ok && x.Status < 0:
		return "signal: " + x.Signal.String()
	case ok:
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

// Run sources environment.d and runs the hooks until one fails. The error is
// an [*Error] when a hook or a snippet failed, and the context's when that was
// cancelled. A directory without hooks succeeds, after its environment.d has
// been sourced.
func (r *Runner) Run(ctx context.Context) error {
	names, err := list(r.Dir, r.match(), isExecutable, Compare)
	if err != nil {
		return err
	}
	var s *Session
	if r.Skip == nil {
		if s, err = r.Start(ctx); err != nil {
			return err
		}
	}
	for _, name := range names {
		if r.Skip != nil && r.Skip(name) {
			continue
		}
		if r.Before != nil {
			if err := r.Before(name); err != nil {
				return err
			}
		}
		if s == nil {
			if s, err = r.Start(ctx); err != nil {
				return err
			}
		}
		took, err := s.Hook(ctx, name, Output{})
		if r.After != nil {
			if after := r.After(name, took, err); err == nil {
				err = after
			}
		}
		if _, failed := errors.AsType[*Error](err); failed && r.Errexit && s.sh.goesOn {
			r.sayUnstarted(err)
			r.say("%s completed", name)
			continue
		}
		if err != nil {
			return err
		}
	}
	if s != nil {
		s.End()
	}
	return nil
}

// Session is a directory whose environment.d has been sourced: its hooks may
// run now, in any order and at the same time.
type Session struct {
	r    *Runner
	sh   *shell
	mu   sync.Mutex
	took map[string]time.Duration
}

// Start sources environment.d. Skip, Before and After are Run's alone.
func (r *Runner) Start(ctx context.Context) (*Session, error) {
	sh, err := r.environment(ctx)
	return &Session{r: r, sh: sh, took: map[string]time.Duration{}}, err
}

// Output is where the output of one hook goes, and what it finds in its
// environment, and open, beside what environment.d made. Nil writers are the
// Runner's.
type Output struct {
	Stdout, Log io.Writer
	Env         []string   // NAME=value
	Files       []*os.File // open in the hook as 3, 4, and so on; nil ones are not
}

// Hook runs one hook, and says how long that took. The error is an [*Error]
// when the hook failed, and the context's when that was cancelled.
func (s *Session) Hook(ctx context.Context, name string, o Output) (time.Duration, error) {
	r := s.r
	r.say("Running %s", r.in(name))
	args := []string{r.in(name)}
	plain, err := needsShell(filepath.Join(r.Dir, name))
	if err != nil {
		return 0, err
	}
	if plain {
		args = []string{"bash", r.in(name)}
	}
	x := command.Exec{
		Args: s.sh.wrap(args), Env: s.sh.env, Dir: r.Work,
		Stdin: r.Stdin, Stdout: r.Stdout, TailStdout: true, Log: r.Log, Bond: r.Bond, Files: o.Files,
	}
	if o.Stdout != nil {
		x.Stdout = o.Stdout
	}
	if o.Log != nil {
		x.Log = o.Log
	}
	if o.Env != nil {
		x.Env = slices.Concat(x.Env, o.Env)
	}
	start := time.Now()
	err = r.fault(ctx, r.in(name), r.exec(ctx, x))
	took := time.Since(start)
	s.mu.Lock()
	s.took[name] = took
	s.mu.Unlock()
	if err == nil {
		r.say("%s completed", name)
	}
	return took, err
}

// End prints how long each hook took.
func (s *Session) End() { s.r.profile(s.took) }

// fault makes the typed error of what Exec returned.
func (r *Runner) fault(ctx context.Context, path string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	e := &Error{Path: path, Status: -1, Err: err}
	if x, ok := errors.AsType[*command.ExitError](err); ok {
		e.Status = x.Status
		e.Tail = slices.DeleteFunc(slices.Clone(x.Tail), func(l string) bool {
			return strings.HasPrefix(l, r.prefix()+sourcing)
		})
	}
	return e
}

func (r *Runner) exec(ctx context.Context, x command.Exec) error {
	if r.Exec != nil {
		return r.Exec(ctx, x)
	}
	return x.Run(ctx)
}

func (r *Runner) match() *regexp.Regexp {
	if r.Match != nil {
		return r.Match
	}
	return Name
}

// in is the path of a hook as the hooks see it. It is not cleaned: the log
// shows what the original's shows.
func (r *Runner) in(name string) string {
	dir := r.InDir
	if dir == "" {
		dir = r.Dir
	}
	return dir + "/" + name
}

func (r *Runner) say(format string, args ...any) {
	if r.Log == nil {
		return
	}
	fmt.Fprint(r.Log, r.prefix(), fmt.Sprintf(format, args...), "\n")
}

func (r *Runner) prefix() string {
	p := cmp.Or(r.Prefix, "dib-run-parts ")
	if r.Dated {
		p += time.Now().Format("Mon Jan _2 15:04:05 MST 2006 ")
	}
	return p
}

// profile prints how long each hook took, sorted by name and not by order, as
// the original does.
func (r *Runner) profile(took map[string]time.Duration) {
	var names []string
	for n := range took {
		names = append(names, n)
	}
	slices.Sort(names)
	r.say("----------------------- PROFILING -----------------------")
	r.say("")
	r.say("Target: %s", filepath.Base(filepath.Dir(r.in("x"))))
	r.say("")
	r.say("%-40s %9s", "Script", "Seconds")
	r.say("%-40s %9s", strings.Repeat("-", 39), strings.Repeat("-", 10))
	r.say("")
	for _, n := range names {
		r.say("%-40s %10.3f", n, took[n].Seconds())
	}
	r.say("")
	r.say("--------------------- END PROFILING ---------------------")
}

// environ is the environment before environment.d.
func (r *Runner) environ() []string {
	if r.Env != nil {
		return r.Env
	}
	return os.Environ()
}

// output collects what the sourcing shell reports.
type output struct{ bytes.Buffer }

// ExitStatus is what a shell that ran the hook would exit with.
func (e *Error) ExitStatus() int {
	x, ok := errors.AsType[*command.ExitError](e.Err)
	switch {
	case ok && x.Status < 0:
		return 128 + int(x.Signal)
	case e.Status > 0:
		return e.Status
	case errors.Is(e.Err, fs.ErrNotExist): // its interpreter
		return 127
	}
	return 126
}

// sayUnstarted says why a hook, or a shell, did not run.
func (r *Runner) sayUnstarted(err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return
	}
	if _, exited := errors.AsType[*command.ExitError](e.Err); exited {
		return
	}
	why := e.Err
	if p, ok := errors.AsType[*fs.PathError](why); ok {
		why = p.Err
	}
	r.say("%s: %v", e.Path, why)
}

// maxReport bounds it: an environment cannot be larger and reach a hook.
const maxReport = 8 << 20

func (o *output) Write(p []byte) (int, error) {
	if o.Len()+len(p) > maxReport {
		return 0, fmt.Errorf("environment.d: the environment is larger than %d MiB", maxReport>>20)
	}
	return o.Buffer.Write(p)
}
