package testbed

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"goldsmith/internal/testenv"
)

// tty is a terminal on which a script runs; it is a machine's serial port.
type tty struct {
	master *os.File
	noise  func() string // printed into what the machine prints

	mu   sync.Mutex // guards open
	open bool
}

func newTTY(t *testing.T, script string) *tty {
	t.Helper()
	master, stop, err := testenv.Terminal(script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &tty{master: master}
}

func (y *tty) OpenSerial(context.Context) (io.ReadWriteCloser, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.open {
		return nil, errors.New("it is open already")
	}
	y.open = true
	return &ttyPort{y}, y.master.SetReadDeadline(time.Time{})
}

// ttyPort is an open tty: to close it leaves the terminal.
type ttyPort struct{ *tty }

func (p *ttyPort) Read(b []byte) (int, error) {
	n, err := p.master.Read(b[:min(len(b), 1000)])
	if p.noise != nil && n > 0 {
		at := n / 2
		said := p.noise()
		n = copy(b, string(b[:at])+said+string(b[at:n]))
	}
	return n, err
}

func (p *ttyPort) Write(b []byte) (int, error) { return p.master.Write(b) }

func (p *ttyPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = false
	return p.master.SetReadDeadline(time.Now())
}

func consoleShell(t *testing.T, y *tty, password string) *ConsoleShell {
	t.Helper()
	s := &ConsoleShell{Name: "m", Machine: y, Password: password}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if s.dir != "" {
			t.Errorf("%s is left", s.dir)
		}
	})
	return s
}

func TestConsoleShellRun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ script, password string }{"shell": {testenv.Autologin, ""}, "login": {testenv.AskLogin, "secret"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := consoleShell(t, newTTY(t, c.script), c.password)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := s.Wait(ctx); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			err := s.Run(ctx, Command{Line: "cat; echo oh >&2; exit 3", Stdin: strings.NewReader("in\x00\xff"), Stdout: &out, Stderr: &errs})
			remote, ok := errors.AsType[*RemoteError](err)
			if !ok || remote.Status != 3 || remote.Stderr != "oh\n" || out.String() != "in\x00\xff" || errs.String() != "oh\n" {
				t.Errorf("Run = %v, output %q, %q", err, out.String(), errs.String())
			}
			err = s.Run(ctx, Command{Line: "echo why >&2; kill -TERM $$"})
			if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Signal != "TERM" || remote.Status != -1 || remote.Stderr != "why\n" {
				t.Errorf("a command ended by a signal: %v", err)
			}
			if out, err := s.Output(ctx, "head -c 100000 /dev/zero"); err != nil || len(out) != 100000 {
				t.Errorf("much output: %d bytes, %v", len(out), err)
			}
			if err := s.Run(ctx, Command{Line: "head -c 9000000 /dev/zero", Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "do not go") {
				t.Errorf("too much output: %v", err)
			}
			if out, err := s.Output(ctx, "echo \"it's\" '$HOME'; # @1-<\necho two"); err != nil || out != "it's $HOME\ntwo\n" {
				t.Errorf("quotes: %q, %v", out, err)
			}
		})
	}
}

func TestConsoleShellRefused(t *testing.T) {
	t.Parallel()
	for password, want := range map[string]string{"": "asks for a password", "wrong": "login incorrect"} {
		s := consoleShell(t, newTTY(t, testenv.AskLogin), password)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := s.Wait(ctx); err == nil || !strings.Contains(err.Error(), want) || ctx.Err() != nil {
			t.Errorf("password %q: %v; want %q", password, err, want)
		}
	}
}

// TestConsoleShellCancel: a command whose context ends is killed on the machine.
func TestConsoleShellCancel(t *testing.T) {
	t.Parallel()
	s := consoleShell(t, newTTY(t, testenv.Autologin), "")
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for range 1000 {
			if b, _ := os.ReadFile(file); bytes.HasSuffix(b, []byte("\n")) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	err := s.Run(ctx, Command{Line: "sleep 1000 & echo $! >" + Quote(file) + "; wait"})
	if _, ok := errors.AsType[*UnreachableError](err); !ok || !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want unreachable, and the context's error", err)
	}
	pid, _ := os.ReadFile(file)
	for range 500 {
		b, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the command's process %s lives", pid)
}

// TestConsoleShellFiles copies files while the kernel prints into everything.
func TestConsoleShellFiles(t *testing.T) {
	t.Parallel()
	for name, noise := range map[string]func() string{
		"quiet":   nil,
		"kernel":  sometimes(2, "[   12.345678] usb 1-1: new device\r\n"),
		"service": sometimes(3, "something happened\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newTTY(t, testenv.Autologin)
			y.noise = noise
			s := consoleShell(t, y, "")
			dir := t.TempDir()
			src, there, back := filepath.Join(dir, "src"), filepath.Join(dir, "it's there"), filepath.Join(dir, "back")
			for _, size := range []int{0, 1, consoleLine, consoleLine + 1, 3*consolePart - 1} {
				data := bytes.Repeat([]byte("a\x00\xffz"), size/4+1)[:size]
				if err := os.WriteFile(src, data, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(s.Put(t.Context(), src, there, 0o751), s.Get(t.Context(), there, back)); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes: %d came back (%v)", size, len(got), err)
				}
				if fi, err := os.Stat(there); err != nil || fi.Mode().Perm() != 0o751 {
					t.Errorf("mode %v, %v; want 0751", fi.Mode(), err)
				}
			}
			if err := s.Get(t.Context(), filepath.Join(dir, "nothing"), filepath.Join(dir, "new")); err == nil || !strings.Contains(err.Error(), "No such file") {
				t.Errorf("Get of nothing: %v", err)
			}
			if err := s.Put(t.Context(), src, filepath.Join(dir, "no/dir"), 0o600); err == nil {
				t.Error("Put into a directory that is not there: no error")
			}
			if names, _ := os.ReadDir(dir); len(names) != 3 {
				t.Errorf("left: %v", names)
			}
		})
	}
}

// sometimes is a noise that comes every so many times.
func sometimes(every int, text string) func() string {
	n := 0
	return func() string {
		if n++; n%every == 0 {
			return text
		}
		return ""
	}
}

// TestConsoleShellAnew: a shell that ends, as one does whose machine restarts,
// is found again, and so is one that another process left.
func TestConsoleShellAnew(t *testing.T) {
	t.Parallel()
	y := newTTY(t, testenv.Autologin)
	s := &ConsoleShell{Name: "m", Machine: y}
	if err := s.Run(t.Context(), Command{Line: "true"}); err != nil {
		t.Fatal(err)
	}
	// As a machine prints that restarts.
	if err := s.conn.say(endQuietShell); err != nil {
		t.Fatal(err)
	}
	s.conn.mu.Lock()
	s.conn.text = []byte("[    0.000000] Linux version 6.1\r\n")
	s.conn.mu.Unlock()
	if out, err := s.Output(t.Context(), "echo again"); err != nil || out != "again\n" {
		t.Errorf("after a restart: %q, %v", out, err)
	}
	// A process that dies closes the port and nothing else.
	s.drop()
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	other := consoleShell(t, y, "")
	other.dumb = time.Second
	if out, err := other.Output(t.Context(), "echo mine"); err != nil || out != "mine\n" {
		t.Errorf("after another process: %q, %v", out, err)
	}
}

func TestConsoleReply(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "body")
		text, id := answerOf(body)
		lines := rapid.SliceOfN(rapid.SampledFrom([]string{"[    1.000001] a message\r\n", "[  123.456789][   T12] of a thread\r\n"}), 0, 3).Draw(t, "kernel")
		for _, l := range lines {
			// Anywhere in the answer's body; a mark that is hit is not found.
			from, to := strings.Index(text, "<\r\n")+3, strings.Index(text, "@"+id+">")
			at := rapid.IntRange(from, to-1).Draw(t, "at")
			if text[at-1] == '\r' {
				at--
			}
			text = text[:at] + l + text[at:]
		}
		got, done, err := consoleReply([]byte(text), id)
		if err == nil && done && !bytes.Equal(got, body) {
			t.Fatalf("%q; want %q", got, body)
		}
		if len(lines) <= 1 && (err != nil || !done) {
			t.Fatalf("one message of the kernel: %v, %v in %q", done, err, text)
		}
		if _, done, _ := consoleReply([]byte(text[:strings.Index(text, ">")+10]), id); done {
			t.Fatal("it is done before its end")
		}
	})
}

// answerOf makes an answer as a machine does.
func answerOf(body []byte) (text, id string) {
	_, id = consoleQuestion(7, "x")
	coded := base64.StdEncoding.EncodeToString(body)
	var lines []string
	for len(coded) > 76 {
		lines = append(lines, coded[:76])
		coded = coded[76:]
	}
	all := strings.Join(append(lines, coded), "\n")
	sum := consoleSum([]byte(all))
	return strings.ReplaceAll(fmt.Sprintf("\n@%s<\n%s\n@%s>%s\n@%s>%s\n", id, all, id, sum, id, sum), "\n", "\r\n"), id
}

func FuzzConsoleReply(f *testing.F) {
	text, id := answerOf([]byte("hello"))
	f.Add([]byte(text), id)
	f.Add([]byte("@a<\n@a>\n@a>"), "a")
	f.Fuzz(func(t *testing.T, text []byte, id string) {
		b, done, err := consoleReply(text, id)
		if b != nil && (err != nil || !done) {
			t.Errorf("%q, %v, %v", b, done, err)
		}
	})
}
