package refreshcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
)

// phase runs the hooks of one phase; one without a directory has none.
func (c Config) phase(ctx context.Context, name string) error {
	p, err := c.readPhase(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range p.ignored {
		c.Say("%s: %s does not run: a hook's name has only letters, digits, - and _", p.dir, command.Line(n))
	}
	r := c.runner(p.dir)
	e := &execution{Config: c, phase: p, runner: r, slots: map[string]chan struct{}{}, stop: make(chan struct{})}
	if slices.ContainsFunc(p.nodes, func(n node) bool { return n.beside }) {
		r.Stdout, r.Log = &shared{w: c.Stdout}, &shared{w: c.Log}
	}
	for _, n := range p.nodes {
		if name, count := n.head.semaphore(); name != "" && e.slots[name] == nil {
			e.slots[name] = make(chan struct{}, count)
		}
	}
	return e.run(ctx)
}

// environ is what environment.d and the hooks start from.
func (c Config) environ() []string {
	return append(os.Environ(), "GOLDSMITH_IMAGE_NAME="+c.Image.Name, "GOLDSMITH_IMAGE_VERSION="+c.Image.Version, ChangedVariable+"="+c.changed())
}

// ChangedVariable names the file of changed paths, one a line, in the
// environment of hooks and of applycfg.
const ChangedVariable = "GOLDSMITH_CHANGED_FILES"

// execution is one run of a phase.
type execution struct {
	Config
	phase   phase
	runner  *hook.Runner
	session *hook.Session // nil until a hook runs
	slots   map[string]chan struct{}
	stop    chan struct{} // closed at the first failure

	beginning sync.Mutex // held while a migration begins
}

// shared is a writer that several hooks write to.
type shared struct {
	mu sync.Mutex
	w  io.Writer // nil: nobody reads it
}

func (s *shared) Write(p []byte) (int, error) {
	if s.w == nil {
		return len(p), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// ended is what became of a hook.
type ended struct {
	i   int
	err error
}

// run starts each hook when those that it waits for have ended. After a
// failure no more are started; those that run come to their end. What would run
// is said of one after the other.
func (e *execution) run(ctx context.Context) error {
	nodes := e.phase.nodes
	if !e.Noop {
		s, err := e.runner.Start(ctx)
		if err != nil {
			return err
		}
		e.session = s
	}
	done, started := make([]bool, len(nodes)), make([]bool, len(nodes))
	ends := make(chan ended)
	running := 0
	var failed error
	for {
		for i := 0; i < len(nodes) && failed == nil && !(e.Noop && running > 0); i++ {
			if started[i] || slices.ContainsFunc(nodes[i].after, func(a int) bool { return !done[a] }) {
				continue
			}
			started[i] = true
			running++
			go func() { ends <- ended{i, e.hook(ctx, nodes[i])} }()
		}
		if running == 0 {
			break
		}
		end := <-ends
		running--
		done[end.i] = true
		if failed == nil && end.err != nil {
			failed = end.err
			close(e.stop)
		}
	}
	if failed == nil && e.session != nil {
		e.session.End()
	}
	return failed
}

// hook decides about one hook, and runs it.
func (e *execution) hook(ctx context.Context, n node) error {
	d, err := e.decide(ctx, e.phase.name, n, nil)
	if err != nil {
		return err
	}
	if !d.run {
		e.Say("%s/%s: passed over: %s", e.phase.name, n.name, d.why)
		return nil
	}
	if e.Noop {
		e.Say("%s/%s: would run: %s", e.phase.name, n.name, d.why)
		return nil
	}
	if name, _ := n.head.semaphore(); name != "" {
		select {
		case e.slots[name] <- struct{}{}:
			defer func() { <-e.slots[name] }()
		case <-e.stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case <-e.stop: // both were ready
		return nil
	default:
	}
	s := state{or(e.State, DefaultState)}
	var env []string
	var m *Migration
	if n.head.Once == onceMachine {
		e.beginning.Lock()
		m, env, err = s.begin(ctx, e.phase.name, n.name, n.head, e.Image)
		e.beginning.Unlock()
		if err != nil {
			return err
		}
	}
	if err := e.attempts(ctx, n, m, env); err != nil {
		return err
	}
	switch {
	case m != nil:
		return s.done(m)
	case n.head.Once != "" || n.head.Changed != nil:
		return s.write(hookRecord(e.phase.name, n.name), success{e.Image, d.saw})
	}
	return nil
}

// attempts runs a hook until it succeeds, or has been tried as often as it
// says. m is nil for a hook that is no migration.
func (e *execution) attempts(ctx context.Context, n node, m *Migration, env []string) error {
	for try := 0; ; try++ {
		err := e.attempt(ctx, n, m, env)
		if err == nil || try == n.head.Retries || ctx.Err() != nil {
			return err
		}
		e.Say("%s/%s: %s; trying again in %s (%d of %d)", e.phase.name, n.name, reason(err), time.Duration(n.head.Delay), try+1, n.head.Retries)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(n.head.Delay)):
		}
	}
}

func reason(err error) string {
	if e, ok := errors.AsType[*hook.Error](err); ok {
		return e.Reason()
	}
	return err.Error()
}

// attempt runs a hook once.
func (e *execution) attempt(ctx context.Context, n node, m *Migration, env []string) error {
	o := hook.Output{Env: env}
	if m != nil {
		lock, err := (state{or(e.State, DefaultState)}).running(ctx, m)
		if err != nil {
			return err
		}
		defer lock.Close()
		o.Files = inherited(lock)
	}
	limited := ctx
	if t := time.Duration(n.head.Timeout); t > 0 {
		var stop context.CancelFunc
		limited, stop = context.WithTimeoutCause(ctx, t, fmt.Errorf("still running after %s: ended", t))
		defer stop()
	}
	if n.beside {
		out, log := &lines{prefix: n.name + ": ", to: e.runner.Stdout}, &lines{prefix: n.name + ": ", to: e.runner.Log}
		defer out.flush()
		defer log.flush()
		o.Stdout, o.Log = out, log
	}
	_, err := e.session.Hook(limited, n.name, o)
	return err
}

// lines writes whole lines that begin with a hook's name, so that hooks which
// run at the same time can be told apart.
type lines struct {
	prefix string
	to     io.Writer
	rest   []byte // of a line that has not ended
}

// maxLine bounds a line that is waited for, in bytes.
const maxLine = 64 << 10

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	end := bytes.LastIndexByte(l.rest, '\n') + 1
	if end == 0 && len(l.rest) < maxLine {
		return len(p), nil
	}
	if end == 0 {
		end = len(l.rest)
	}
	var b bytes.Buffer
	for line := range bytes.Lines(l.rest[:end]) {
		b.WriteString(l.prefix)
		b.Write(bytes.TrimSuffix(line, []byte("\n")))
		b.WriteByte('\n')
	}
	l.rest = slices.Clone(l.rest[end:])
	_, err := l.to.Write(b.Bytes())
	return len(p), err
}

func (l *lines) flush() {
	if len(l.rest) > 0 {
		_, _ = l.Write([]byte("\n"))
	}
}
