package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Exec describes one run of another program. The zero value of each field is
// usable; Args must name at least the program.
type Exec struct {
	Args  []string // the program (looked up in PATH unless it has a slash) and its arguments
	Dir   string   // working directory; empty means the caller's
	Env   []string // NAME=value; nil means the caller's environment
	Stdin io.Reader
	// Stdout receives standard output; nil means it goes to Log.
	Stdout io.Writer
	// Log receives what the program says, as it comes; nil means it is only
	// kept for the error.
	Log io.Writer
	// Sys may ask for namespaces, a chroot or credentials. Run adds a process
	// group, so that a cancelled context ends the whole group, and that the
	// program is killed when this process dies.
	Sys *syscall.SysProcAttr
	// Remedy is the hint given when the program is not there.
	Remedy string
}

// ExitError says that a program ran and did not end well. It is not used when
// the program could not be started.
type ExitError struct {
	Args   []string
	Status int            // exit status, -1 when a signal ended it
	Signal syscall.Signal // set when a signal ended it
	Tail   []string       // the last lines it printed
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

// tailLines is how many last lines of a failed program an error carries.
const tailLines = 8

// Run starts the program and waits for it. On a cancelled context the whole
// process group gets SIGTERM, and SIGKILL five seconds later; the error is
// then the context's. A program that is not installed is a Missing error.
func (x Exec) Run(ctx context.Context) error {
	path, err := exec.LookPath(x.Args[0])
	if err != nil && x.Sys == nil {
		return Missing(fmt.Errorf("%s: not installed", x.Args[0]), x.Remedy)
	}
	cmd := exec.CommandContext(ctx, x.Args[0], x.Args[1:]...)
	if path != "" {
		cmd.Path = path
	}
	tail := &lineTail{max: tailLines}
	var log io.Writer = tail
	if x.Log != nil {
		log = io.MultiWriter(&locked{w: x.Log}, tail)
	}
	cmd.Dir, cmd.Env, cmd.Stdin = x.Dir, x.Env, x.Stdin
	cmd.Stdout, cmd.Stderr = log, log
	if x.Stdout != nil {
		cmd.Stdout = x.Stdout
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
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	if cmd.Process != nil {
		// Whatever the program left behind in its group goes with it.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		st, _ := ee.Sys().(syscall.WaitStatus)
		return &ExitError{Args: x.Args, Status: ee.ExitCode(), Signal: st.Signal(), Tail: tail.lines()}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", x.Args[0], err)
	}
	return nil
}

// Output runs the program and returns its standard output.
func (x Exec) Output(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	x.Stdout = &b
	err := x.Run(ctx)
	return b.Bytes(), err
}

// lineTail keeps the last lines written to it.
type lineTail struct {
	mu   sync.Mutex // guards the fields below
	max  int
	kept []string
	part []byte
}

func (t *lineTail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part = append(t.part, p...)
	for {
		i := bytes.IndexByte(t.part, '\n')
		if i < 0 {
			break
		}
		t.push(string(t.part[:i]))
		t.part = t.part[i+1:]
	}
	if len(t.part) > 64<<10 { // a line without end must not grow for ever
		t.part = t.part[len(t.part)-4096:]
	}
	return len(p), nil
}

func (t *lineTail) push(l string) {
	l = strings.TrimRight(l, "\r ")
	if l == "" {
		return
	}
	t.kept = append(t.kept, l)
	if len(t.kept) > t.max {
		t.kept = t.kept[len(t.kept)-t.max:]
	}
}

func (t *lineTail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.part) > 0 {
		t.push(string(t.part))
		t.part = nil
	}
	return t.kept
}

// locked makes a writer safe for the two streams of one program.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
