package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// realAgent runs Debian's qemu-ga on this host and connects to it.
func realAgent(t *testing.T) *GuestAgent {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "qemu-ga")
	dir, err := os.MkdirTemp("", "ga") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	sock := filepath.Join(dir, "s")
	go func() {
		ended <- command.Exec{Args: []string{"qemu-ga", "-m", "unix-listen", "-p", sock, "-f", filepath.Join(dir, "pid"), "-t", dir}}.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	var conn net.Conn
	for range 500 {
		if conn, err = net.Dial("unix", sock); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	a := NewAgentConn(conn)
	t.Cleanup(func() { _ = a.Close() })
	return &GuestAgent{Name: "m", Machine: a}
}

func TestGuestAgentRun(t *testing.T) {
	g := realAgent(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := g.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	err := g.Run(ctx, Command{Line: "cat; echo oh >&2; exit 3", Stdin: strings.NewReader("in\x00\xff"), Stdout: &out, Stderr: &errs})
	remote, ok := errors.AsType[*RemoteError](err)
	if !ok || remote.Status != 3 || remote.Stderr != "oh\n" || out.String() != "in\x00\xff" || errs.String() != "oh\n" {
		t.Errorf("Run = %v, output %q, %q", err, out.String(), errs.String())
	}
	err = g.Run(ctx, Command{Line: "kill -TERM $$"})
	if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Signal != "TERM" || remote.Status != -1 {
		t.Errorf("a command ended by a signal: %v", err)
	}
	if out, err := g.Output(ctx, "head -c 3000000 /dev/zero"); err != nil || len(out) != 3000000 {
		t.Errorf("much output: %d bytes, %v", len(out), err)
	}
	if err := g.Run(ctx, Command{Line: "head -c 17000000 /dev/zero", Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "keeps") {
		t.Errorf("too much output: %v", err)
	}
	err = g.Run(ctx, Command{Line: "cat", Stdin: bytes.NewReader(make([]byte, maxStdin+1))})
	if err == nil || !strings.Contains(err.Error(), "Put a file") {
		t.Errorf("too much input: %v", err)
	}
	if out, err := g.Output(ctx, "echo still here"); err != nil || out != "still here\n" {
		t.Errorf("afterwards: %q, %v", out, err)
	}
}

// TestGuestAgentCancel: a command whose context ends is killed on the machine.
func TestGuestAgentCancel(t *testing.T) {
	g := realAgent(t)
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
	err := g.Run(ctx, Command{Line: "sleep 1000 & echo $! >" + Quote(file) + "; wait"})
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

func TestGuestAgentFiles(t *testing.T) {
	g := realAgent(t)
	dir := t.TempDir()
	for _, size := range []int{0, 1, agentPart, agentPart + 1, 3*agentPart - 1} {
		data := bytes.Repeat([]byte("a\x00\xffz"), size/4+1)[:size]
		src, there, back := filepath.Join(dir, "src"), filepath.Join(dir, "it's there"), filepath.Join(dir, "back")
		if err := os.WriteFile(src, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(g.Put(t.Context(), src, there, 0o751), g.Get(t.Context(), there, back)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(back)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %d came back (%v)", size, len(got), err)
		}
		if fi, err := os.Stat(there); err != nil || fi.Mode().Perm() != 0o751 {
			t.Errorf("mode %v, %v; want 0751", fi.Mode(), err)
		}
	}
	err := g.Get(t.Context(), filepath.Join(dir, "nothing"), filepath.Join(dir, "new"))
	if err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("Get of nothing: %v", err)
	}
	if err := g.Put(t.Context(), filepath.Join(dir, "src"), filepath.Join(dir, "no/dir"), 0o600); err == nil {
		t.Error("Put into a directory that is not there: no error")
	}
	names, _ := os.ReadDir(dir)
	if len(names) != 3 {
		t.Errorf("left: %v", names)
	}
}

// TestAgentConn: an agent that starts late answers everything that was asked
// before; one that is silent, or lies, is unreachable in bounded time.
func TestAgentConn(t *testing.T) {
	ours, theirs := net.Pipe()
	a := NewAgentConn(ours)
	defer a.Close()
	g := &GuestAgent{Name: "m", Machine: a}
	answers := make(chan string, 10)
	go func() {
		d := json.NewDecoder(&stripped{theirs})
		for {
			var q struct {
				Execute   string
				Arguments struct{ ID json.Number }
			}
			if d.Decode(&q) != nil {
				return
			}
			select {
			case s := <-answers:
				_, _ = io.WriteString(theirs, strings.ReplaceAll(s, "ID", q.Arguments.ID.String()))
			default:
			}
		}
	}()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := g.Wait(short)
	if _, ok := errors.AsType[*UnreachableError](err); !ok || !strings.Contains(err.Error(), "guest agent of m") {
		t.Errorf("Wait for a silent agent = %v", err)
	}
	answers <- `{"return":7}` + "\n" + `{"return":{}}` + "\n\xff" + `{"return":ID}` + "\n" // old answers first
	answers <- `{"return":{}}` + "\n"
	if err := g.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	answers <- "rubbish\n"
	err = g.call(t.Context(), "guest-ping", nil, nil)
	if _, ok := errors.AsType[*UnreachableError](err); !ok {
		t.Errorf("rubbish: %v", err)
	}
	answers <- `{"error":{"class":"CommandNotFound","desc":"disabled"}}` + "\n"
	err = g.Run(t.Context(), Command{Line: "true"})
	if _, ok := errors.AsType[*UnreachableError](err); ok || err == nil || !strings.Contains(err.Error(), "refuses: disabled") {
		t.Errorf("an agent that refuses: %v", err)
	}
	_ = theirs.Close()
	err = g.call(t.Context(), "guest-ping", nil, nil)
	if _, ok := errors.AsType[*UnreachableError](err); !ok {
		t.Errorf("after the connection's end: %v", err)
	}
}

// stripped reads without the byte that is no JSON.
type stripped struct{ r io.Reader }

func (s *stripped) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	return copy(p, bytes.ReplaceAll(p[:n], []byte{delimiter}, []byte{' '})), err
}
