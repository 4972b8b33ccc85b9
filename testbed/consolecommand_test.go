package testbed

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/testenv"
)

// deafTTY is a machine that at some time hears nothing any more.
type deafTTY struct {
	*tty
	deaf atomic.Bool
}

func (d *deafTTY) OpenSerial(ctx context.Context) (io.ReadWriteCloser, error) {
	p, err := d.tty.OpenSerial(ctx)
	return deafPort{p, d}, err
}

type deafPort struct {
	io.ReadWriteCloser
	machine *deafTTY
}

func (p deafPort) Write(b []byte) (int, error) {
	if p.machine.deaf.Load() {
		return len(b), nil
	}
	return p.ReadWriteCloser.Write(b)
}

// TestConsoleShellEnds: a command ends with its context, also while another one
// waits for a machine that is gone.
func TestConsoleShellEnds(t *testing.T) {
	t.Parallel()
	d := &deafTTY{tty: newTTY(t, testenv.Autologin)}
	s := &ConsoleShell{Name: "m", Machine: d}
	start := func(ctx context.Context) chan error {
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx, Command{Line: "sleep 1000"}) }()
		time.Sleep(2 * time.Second)
		return ended
	}
	endless, stop := context.WithCancel(t.Context())
	defer stop()
	other := start(endless)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	this := start(ctx)
	// The other one gets the turn, and logs in for ever.
	if err := s.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.deaf.Store(true)
	s.drop()
	s.unlock()
	time.Sleep(consolePollMax + time.Second)
	cancel()
	select {
	case err := <-this:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v; want the context's error", err)
		}
	case <-time.After(consoleKill + 5*time.Second):
		t.Error("Run has not ended with its context")
	}
	stop()
	select {
	case <-other:
	case <-time.After(consoleKill + 5*time.Second):
		t.Error("the other Run has not ended with its context")
	}
}

// TestConsoleShellRestarts: commands at the same time on a machine that is
// started anew now and then (go test -race).
func TestConsoleShellRestarts(t *testing.T) {
	t.Parallel()
	var now atomic.Bool
	y := newTTY(t, testenv.Autologin)
	y.noise = func() string {
		if now.CompareAndSwap(true, false) {
			return "\nreboot: Restarting system\n"
		}
		return ""
	}
	s := consoleShell(t, y, "")
	s.dumb = time.Second
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for range 3 {
		work.Go(func() {
			for ctx.Err() == nil {
				if out, err := s.Output(ctx, "echo hi"); err == nil && out != "hi\n" {
					t.Errorf("%q", out)
				}
			}
		})
	}
	for ctx.Err() == nil {
		time.Sleep(time.Second)
		now.Store(true)
	}
	work.Wait()
	now.Store(false)
	if err := s.Wait(t.Context()); err != nil { // Close removes what it left
		t.Error(err)
	}
}

// restarter does something once before it reads on.
type restarter struct {
	io.Reader
	do   func()
	once sync.Once
}

func (r *restarter) Read(b []byte) (int, error) {
	r.once.Do(r.do)
	return r.Reader.Read(b)
}

// TestConsoleShellForgets: a machine that is started anew while a command is
// being sent is said to be that.
func TestConsoleShellForgets(t *testing.T) {
	t.Parallel()
	s := consoleShell(t, newTTY(t, testenv.Autologin), "")
	s.dumb = time.Second
	in := &restarter{Reader: strings.NewReader(strings.Repeat("x", 2*consoleLine)), do: func() {
		// The first question is done.
		if _, err := s.ask(t.Context(), "", "rm -rf "+Quote(s.dir)); err != nil {
			t.Error(err)
		}
		s.drop()
	}}
	err := s.Run(t.Context(), Command{Line: "cat", Stdin: in})
	if _, ok := errors.AsType[*UnreachableError](err); !ok || !strings.Contains(err.Error(), "started anew") {
		t.Errorf("Run = %v; want that the machine was started anew", err)
	}
	if out, err := s.Output(t.Context(), "echo again"); err != nil || out != "again\n" {
		t.Errorf("the next command: %q, %v", out, err)
	}
}

// TestConsoleShellManyUnused: files of more commands than fit into a question.
func TestConsoleShellManyUnused(t *testing.T) {
	t.Parallel()
	s := consoleShell(t, newTTY(t, testenv.Autologin), "")
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.runs = 1000
	for range 800 {
		s.runs++
		s.done(consoleFiles{s.dir, strconv.Itoa(s.runs)})
	}
	if _, err := s.ask(t.Context(), "", "cd "+Quote(s.dir)+" && for i in $(seq 1001 1800); do echo >$i.out; done"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 800/consoleRid + 1 {
		if out, err := s.Output(ctx, "echo hi"); err != nil || out != "hi\n" {
			t.Fatalf("with many commands' files: %q, %v", out, err)
		}
	}
	if left, err := s.Output(ctx, "cd "+Quote(s.dir)+" && ls"); err != nil || strings.Contains(left, "1001.") || strings.Contains(left, "1800.") {
		t.Errorf("left: %q, %v", left, err)
	}
}

// flood is a console that talks without end, and says a word now and then.
type flood struct{ word chan string }

func (p *flood) Read(b []byte) (int, error) {
	time.Sleep(100 * time.Microsecond)
	select {
	case w := <-p.word:
		return copy(b, w), nil
	default:
		return copy(b, strings.Repeat(strings.Repeat("x", 79)+"\n", 3)), nil
	}
}

func (p *flood) Write(b []byte) (int, error) { return len(b), nil }
func (p *flood) Close() error                { return nil }

// TestConsoleFlood: an answer is found in much text. Not parallel: it measures the
// process.
func TestConsoleFlood(t *testing.T) {
	p := &flood{word: make(chan string)}
	c := newConsoleConn(p)
	for len(c.last(maxHeard)) < maxHeard {
		time.Sleep(10 * time.Millisecond)
	}
	text, id := answerOf([]byte("hello"))
	go func() {
		time.Sleep(2 * time.Second)
		p.word <- text
	}()
	s := &ConsoleShell{Name: "m", conn: c}
	before := cpu(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	body, err := s.answer(ctx, id)
	if err != nil || !bytes.Equal(body, []byte("hello")) {
		t.Errorf("%q, %v", body, err)
	}
	t.Logf("%v of a processor in 2 s", cpu(t)-before)
}

// cpu is how much this process has computed.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
