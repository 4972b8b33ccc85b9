package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Exec describes one run of another program. The zero value of each field is
// usable; Args must name at least the program.
type Exec struct {
	Args  []string // the program (looked up in PATH unless it has a slash) and its arguments
	Path  string   // the program's file, where Args[0] is only what it is called; empty means Args[0]
	Dir   string   // working directory; empty means the caller's
	Env   []string // NAME=value; nil means the caller's environment
	Stdin io.Reader
	// Stdout receives standard output; nil means it goes to Log.
	Stdout io.Writer
	// TailStdout has the error carry the last lines of Stdout, too, among those
	// of Log as they come; what comes on both at once counts as later on Log.
	// Without Stdout it does in any case.
	TailStdout bool
	// Log receives what the program says, as it comes; nil means it is only
	// kept for the error.
	Log io.Writer
	// Sys may ask for namespaces, a chroot or credentials. Run adds a process
	// group, so that a cancelled context ends the whole group, and that the
	// program is killed when this process dies.
	Sys *syscall.SysProcAttr
	// Remedy is the hint given when the program is not there.
	Remedy string
	// Grace is how long the program has to clean up after a cancelled context
	// before it is killed; 0 means five seconds.
	Grace time.Duration
	// Bond is how the program hangs on this process; the zero value is Group.
	Bond Bond
	// Files are open in the program as 3, 4, and so on.
	Files []*os.File
}

// ExitError says that a program ran and did not end well. It is not used when
// the program could not be started.
type ExitError struct {
	Args   []string
	Status int            // exit status, -1 when a signal ended it
	Signal syscall.Signal // set when a signal ended it
	Tail   []string       // the last lines it printed; Cut says of which there is only the end
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Status)
	if e.Status < 0 {
		how = "signal: " + e.Signal.String()
	}
	msg := fmt.Sprintf("%s: %s", e.Args[0], how)
	if len(e.Tail) > 0 {
		msg += ":\n    " + strings.Join(e.Tail, "\n    ")
	}
	return msg
}

// Cut is what a line of an error begins with whose own beginning is left out,
// since it was very long.
const Cut = "…"

// tailLines is how many last lines of a failed program an error carries.
const tailLines = 8

// Run starts the program and waits for it. On a cancelled context the whole
// process group gets SIGTERM, and SIGKILL when the grace is over; the error is
// then the context's. A program that is not installed is a Missing error. When
// Stdout or Log cannot take what the program prints, the program still runs to
// its end and the error is theirs. Bond says what becomes of processes that the
// program leaves running.
func (x Exec) Run(ctx context.Context) error {
	path, err := exec.LookPath(cmp.Or(x.Path, x.Args[0]))
	if err != nil && x.Sys == nil {
		return Missing(fmt.Errorf("%s: not installed", x.Args[0]), x.Remedy)
	}
	cmd := exec.CommandContext(ctx, cmp.Or(path, x.Args[0]))
	cmd.Args, cmd.ExtraFiles = x.Args, x.Files
	tail := &lineTail{max: tailLines}
	kept, out := &sink{w: x.Log}, &sink{w: x.Stdout}
	cmd.Dir, cmd.Env, cmd.Stdin = x.Dir, x.Env, x.Stdin
	if x.Bond == Share {
		return x.runShared(ctx, cmd)
	}
	log := io.MultiWriter(kept, tail.stream(together))
	cmd.Stdout, cmd.Stderr = log, log
	switch {
	case x.Stdout != nil && x.TailStdout:
		cmd.Stdout = io.MultiWriter(out, tail.stream(0))
	case x.Stdout != nil:
		cmd.Stdout = out
	}
	sys := syscall.SysProcAttr{}
	if x.Sys != nil {
		sys = *x.Sys
	}
	sys.Setpgid = true
	// The program does not outlive us, even when we are killed. The kernel
	// ties that to the thread that starts it, so the thread must stay.
	sys.Pdeathsig = syscall.SIGKILL
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &sys
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = cmp.Or(x.Grace, defaultGrace)
	if x.Bond == Leave {
		err = runLeaving(ctx, cmd)
	} else {
		err = cmd.Run()
	}
	if cmd.Process != nil && x.Bond == Group {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return x.outcome(ctx, err, errors.Join(kept.failed(), out.failed()), tail)
}

const defaultGrace = 5 * time.Second

// outcome decides what a run that ended with err was.
func (x Exec) outcome(ctx context.Context, err, sinkErr error, tail *lineTail) error {
	ee, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case sinkErr != nil:
		return fmt.Errorf("output of %s: %w", x.Args[0], sinkErr)
	case exited:
		st, _ := ee.Sys().(syscall.WaitStatus)
		return &ExitError{Args: x.Args, Status: ee.ExitCode(), Signal: st.Signal(), Tail: tail.lines()}
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // something it left running kept its output open
		return nil
	}
	return fmt.Errorf("%s: %w", x.Args[0], err)
}

// Output runs the program and returns its standard output.
func (x Exec) Output(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	x.Stdout = &b
	err := x.Run(ctx)
	return b.Bytes(), err
}

// lineTail keeps the last lines written to its streams.
type lineTail struct {
	mu      sync.Mutex // guards the streams
	max     int
	streams []*tailStream
}

// tailStream is one of them.
type tailStream struct {
	*lineTail
	kept []tailLine
	part []byte // of a line that has not ended
	last time.Time
	lag  time.Duration
}

// tailLine is a line and when it came.
type tailLine struct {
	text string
	at   time.Time
}

// together is how close lines of standard output and error come whose order
// cannot be told, as two pipes bring them. Those of standard error, which say
// why a program fails, count as the later ones.
const together = 250 * time.Millisecond

// stream returns one more; its lines count as coming so much later.
func (t *lineTail) stream(lag time.Duration) *tailStream {
	s := &tailStream{lineTail: t, lag: lag}
	t.streams = append(t.streams, s)
	return s
}

func (s *tailStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.part, s.last = append(s.part, p...), time.Now()
	for {
		i := bytes.IndexByte(s.part, '\n')
		if i < 0 {
			break
		}
		s.push(string(s.part[:i]))
		s.part = s.part[i+1:]
	}
	if len(s.part) > 64<<10 { // a line without end must not grow for ever
		s.part = append([]byte(Cut), s.part[len(s.part)-4096:]...)
	}
	return len(p), nil
}

func (s *tailStream) push(l string) {
	l = strings.TrimRight(l, "\r ")
	if l == "" {
		return
	}
	s.kept = append(s.kept, tailLine{l, s.last.Add(s.lag)})
	if len(s.kept) > s.max {
		s.kept = s.kept[len(s.kept)-s.max:]
	}
}

func (t *lineTail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []tailLine
	for _, s := range t.streams {
		s.push(string(s.part))
		s.part = nil
		all = append(all, s.kept...)
	}
	slices.SortStableFunc(all, func(a, b tailLine) int { return a.at.Compare(b.at) })
	var texts []string
	for _, l := range all[max(0, len(all)-t.max):] {
		texts = append(texts, l.text)
	}
	return texts
}

// sink is a writer for both streams of one program. It keeps its first error
// and goes on taking what comes: a program must not be ended by a broken pipe
// because a log cannot be written.
type sink struct {
	mu  sync.Mutex // guards the fields below
	w   io.Writer  // nil means nowhere
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w != nil && s.err == nil {
		_, s.err = s.w.Write(p)
	}
	return len(p), nil
}

func (s *sink) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Reader returns r until ctx ends, and then the context's cause as an error.
func Reader(ctx context.Context, r io.Reader) io.Reader { return ctxReader{ctx, r} }

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
