package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/rootfs"
)

// phase is one directory of hooks and where it runs.
type phase struct {
	name   string
	inside bool // in the image's tree rather than on the host
}

// The phases in order, as diskimage-builder has them. Those of treePhases work
// on the tree before there is a disk, those of diskPhases on the file systems
// of the disk, where the build makes one of the block-device kind.
var (
	rootPhase  = phase{"root.d", false}
	treePhases = []phase{
		{"extra-data.d", false},
		{"pre-install.d", true},
		{"install.d", true},
		{"post-install.d", true},
		{"post-root.d", false},
	}
	devicePhase = phase{"block-device.d", false}
	diskPhases  = []phase{
		{"pre-finalise.d", false},
		{"finalise.d", true},
		{"cleanup.d", false},
	}
)

// phases are all of them.
var phases = slices.Concat([]phase{rootPhase}, treePhases, []phase{devicePhase}, diskPhases)

// stage is what phases need to run. It goes to the virtual machine that has
// the disk as JSON: all but where it runs is the same there.
type stage struct {
	Hooks    string            // merged hooks tree
	Root     string            // the image's tree
	Work     string            // working directory of hooks on the host
	Env      map[string]string // of every hook
	Host     map[string]string // more for hooks on the host
	Inside   map[string]string // more for hooks in the tree; an empty value unsets
	Elements map[string]string // element → its directory, for messages
	LogName  string            // where the whole output is, for messages
	Timeout  time.Duration     // for each hook; 0 means none
	Break    breaks
	// NoInput gives a shell of a break point nothing to read: in a machine
	// without a terminal, input would never end.
	NoInput bool
	// Lent says that the tree's resolv.conf is the host's while hooks run.
	Lent bool
	// Devices lets hooks in the tree see this machine's devices.
	Devices bool
	log     io.Writer
	each    eachHook // nil runs all hooks, and keeps nothing
}

// eachHook is what goes around the hooks of a phase.
type eachHook interface {
	skip(name string) bool
	before(name string) error
	after(name string, took time.Duration, failed error) error
}

// run runs the hooks of a phase. A phase without hooks does nothing.
func (s *stage) run(ctx context.Context, p phase, stdout io.Writer) error {
	name := strings.TrimSuffix(p.name, ".d")
	if err := s.Break.at(ctx, s, p, "before-"+name); err != nil {
		return err
	}
	dir := filepath.Join(s.Hooks, p.name)
	if _, err := os.Stat(dir); err == nil {
		r := hook.Runner{Dir: dir, Env: s.environment(p), Log: s.log, Stdout: stdout, Work: s.Work, Exec: s.exec(p)}
		if p.inside {
			r.InDir = rootfs.HooksDir + "/" + p.name
		}
		if s.each != nil {
			r.Skip, r.Before, r.After = s.each.skip, s.each.before, s.each.after
		}
		fmt.Fprintf(s.log, "=== %s\n", p.name)
		if err := r.Run(ctx); err != nil {
			err = s.explain(p, err)
			return errors.Join(err, s.Break.afterError(ctx, s, p))
		}
	}
	return s.Break.at(ctx, s, p, "after-"+name)
}

// has tells whether a phase has hooks, or a break point.
func (s *stage) has(p phase) bool {
	_, err := os.Stat(filepath.Join(s.Hooks, p.name))
	return err == nil || s.Break.has(strings.TrimSuffix(p.name, ".d"))
}

// exec is how programs of a phase are started: each within the hooks' time
// limit, inside the tree or on the host.
func (s *stage) exec(p phase) func(context.Context, command.Exec) error {
	return func(ctx context.Context, x command.Exec) error {
		if s.Timeout > 0 {
			var cancel context.CancelFunc
			cause := fmt.Errorf("not finished after %s (--hook-timeout)", s.Timeout)
			ctx, cancel = context.WithTimeoutCause(ctx, s.Timeout, cause)
			defer cancel()
		}
		if p.inside {
			return s.chroot().Exec(ctx, x)
		}
		return x.Run(ctx)
	}
}

// environment is what every hook of a phase sees.
func (s *stage) environment(p phase) []string {
	env := maps.Clone(s.Env)
	if p.inside {
		maps.Copy(env, s.Inside)
		maps.DeleteFunc(env, func(k, v string) bool {
			unset, there := s.Inside[k]
			return there && unset == ""
		})
	} else {
		maps.Copy(env, s.Host)
	}
	return list(env)
}

// explain turns a hook's failure into a message that names phase, hook,
// element, status and last lines.
func (s *stage) explain(p phase, err error) error {
	he, ok := errors.AsType[*hook.Error](err)
	if !ok {
		return err
	}
	name := filepath.Base(he.Path)
	rel := filepath.Join(p.name, name)
	if filepath.Base(filepath.Dir(he.Path)) == "environment.d" {
		rel = filepath.Join("environment.d", name)
	}
	owner := "unknown"
	for _, e := range slices.Sorted(maps.Keys(s.Elements)) {
		if _, err := os.Lstat(filepath.Join(s.Elements[e], rel)); err == nil {
			owner = e
		}
	}
	var m bytes.Buffer
	if owner == "unknown" { // the shell itself, or a hook that a hook made
		fmt.Fprintf(&m, "phase %s: %s: %s", p.name, strings.TrimPrefix(rel, p.name+"/"), he.Reason())
	} else {
		fmt.Fprintf(&m, "element %s: %s: %s", owner, rel, he.Reason())
	}
	for _, l := range he.Tail {
		fmt.Fprintf(&m, "\n    %s", l)
	}
	failed := &HookError{Element: owner, Hook: rel, Status: he.Status, text: m.String()}
	if x, ok := errors.AsType[*command.ExitError](he.Err); ok && x.Status < 0 {
		failed.Status = 128 + int(x.Signal)
	}
	if slices.ContainsFunc(he.Tail, saysFull) {
		return command.Hint(failed, "a file system is full: that of the cache directory, "+filepath.Dir(filepath.Dir(s.Root))+", or one of the image's own")
	}
	if s.LogName == "" {
		return failed
	}
	return command.Hint(failed, "the whole output is in "+s.LogName)
}

// HookError says that a hook of the build did not end well.
type HookError struct {
	Element string // whose hook it is
	Hook    string // such as install.d/50-x
	Status  int    // its exit status as a shell gives it, 128 and more for a signal; -1 when it could not start
	text    string
}

// Error is one line for the hook and how it ended, and the last lines of its
// output.
func (e *HookError) Error() string { return e.text }

// list writes an environment as NAME=VALUE, sorted.
func list(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}
