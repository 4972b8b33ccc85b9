package testbed

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// server is an SSH server on loopback that runs commands in this host's shell.
type server struct {
	t    *testing.T
	l    net.Listener
	user ssh.PublicKey

	mu    sync.Mutex // guards the fields below
	host  ssh.Signer
	conns []net.Conn
}

func newServer(t *testing.T, user ssh.PublicKey) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, l: l, user: user, host: newKey(t)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.hangUp()
		wg.Wait()
	})
	return s
}

func (s *server) addr() string { return s.l.Addr().String() }

// hangUp breaks all connections, as a reboot does.
func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

func (s *server) serve(c net.Conn) {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(s.user.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	s.mu.Lock()
	config.AddHostKey(s.host)
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		_ = c.Close()
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		go s.session(ch, reqs)
	}
}

func (s *server) session(ch ssh.Channel, reqs <-chan *ssh.Request) {
	for r := range reqs {
		var p struct{ Line string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &p) != nil {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		cmd := exec.Command("sh", "-c", p.Line)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = ch, ch, ch.Stderr()
		_ = cmd.Run()
		if p.Line != "lose status" {
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ S uint32 }{uint32(cmd.ProcessState.ExitCode())}))
		}
		_ = ch.Close()
	}
}

func login(t *testing.T) (*SSH, *server) {
	key := newKey(t)
	srv := newServer(t, key.PublicKey())
	s := &SSH{Addr: srv.addr(), Key: key}
	t.Cleanup(func() { _ = s.Close() })
	return s, srv
}

func TestSSHCommands(t *testing.T) {
	s, srv := login(t)
	ctx := t.Context()
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Output(ctx, "printf hello"); out != "hello" || err != nil {
		t.Errorf("Output = %q, %v", out, err)
	}
	err := s.Run(ctx, Command{Line: "echo what went wrong >&2; exit 7"})
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Status != 7 || remote.Stderr != "what went wrong\n" {
		t.Errorf("Run = %#v", err)
	}
	var lost *UnreachableError
	if err := s.Run(ctx, Command{Line: "lose status"}); !errors.As(err, &lost) {
		t.Errorf("Run without a status = %v; want an UnreachableError", err)
	}
	srv.hangUp()
	if out, err := s.Output(ctx, "printf again"); out != "again" {
		// The first command after a reboot may be the one that notices.
		if !errors.As(err, &lost) {
			t.Errorf("Output = %v; want an UnreachableError", err)
		}
		if out, err := s.Output(ctx, "printf again"); out != "again" || err != nil {
			t.Errorf("Output after a reboot = %q, %v", out, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	err = s.Run(short, Command{Line: "sleep 5"})
	if !errors.As(err, &lost) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
		t.Errorf("cancelled Run = %v after %v", err, time.Since(start))
	}
}

func TestSSHCopy(t *testing.T) {
	s, _ := login(t)
	dir := t.TempDir()
	src, there, back := filepath.Join(dir, "src"), filepath.Join(dir, "it's there"), filepath.Join(dir, "back")
	want := strings.Repeat("0123456789", 300_000)
	if err := os.WriteFile(src, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Put(t.Context(), src, there, 0o640), s.Get(t.Context(), there, back)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(back); string(got) != want {
		t.Errorf("read back %d bytes of %d, %v", len(got), len(want), err)
	}
	if fi, err := os.Stat(there); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode = %v, %v", fi.Mode(), err)
	}
	var remote *RemoteError
	if err := s.Get(t.Context(), filepath.Join(dir, "none"), back); !errors.As(err, &remote) {
		t.Errorf("Get of nothing = %v", err)
	}
	if err := s.Put(t.Context(), src, filepath.Join(dir, "no/dir"), 0o600); !errors.As(err, &remote) {
		t.Errorf("Put to nowhere = %v", err)
	}
	if got, err := os.ReadFile(back); len(got) != len(want) || err != nil {
		t.Errorf("a failed Get changed the file: %d bytes, %v", len(got), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*goldsmith*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestHostKeyPinned(t *testing.T) {
	s, srv := login(t)
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.HostKey() == nil {
		t.Fatal("no host key was kept")
	}
	srv.mu.Lock()
	srv.host = newKey(t)
	srv.mu.Unlock()
	srv.hangUp()
	_ = s.Close()
	err := s.Wait(t.Context()) // does not wait for better times
	if err == nil || !strings.Contains(err.Error(), "another host key") {
		t.Errorf("Wait = %v; want a refusal of the new host key", err)
	}
	s.Pin(nil)
	if err := s.Wait(t.Context()); err != nil {
		t.Errorf("after Pin(nil): %v", err)
	}
}

func TestWaitNeedsGreeting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing, as a port forwarder does
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for addr, want := range map[string]string{l.Addr().String(): "no greeting", closed.Addr().String(): "connection refused"} {
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		err := (&SSH{Addr: addr}).Wait(ctx)
		var lost *UnreachableError
		if !errors.As(err, &lost) || !strings.Contains(err.Error(), want) {
			t.Errorf("Wait = %v; want %q", err, want)
		}
	}
}

func TestWrongKey(t *testing.T) {
	s, _ := login(t)
	s.Key = newKey(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Wait(ctx); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Errorf("Wait = %v", err)
	}
}

func TestQuote(t *testing.T) {
	want := `a'b "c" $d`
	out, err := exec.Command("sh", "-c", "printf %s "+Quote(want)).Output()
	if string(out) != want || err != nil {
		t.Errorf("Quote: %q, %v", out, err)
	}
}

var _ io.Writer = (*tail)(nil)
