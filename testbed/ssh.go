package testbed

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"goldsmith/internal/atomicfile"
)

// SSH runs commands on one machine and copies files to and from it. The zero
// value with Addr and Key set is usable. It is safe for several goroutines;
// one connection is kept for all of them and made anew when it breaks, as it
// does when the machine boots. Close ends it.
//
// The first host key that the machine shows is believed, because the machine
// made it at its first boot; every later connection must show the same.
type SSH struct {
	Addr string     // numeric address and port
	User string     // "" means root
	Key  ssh.Signer // our key
	// Network is where the machine is reached from; nil means Host.
	Network Network

	mu      sync.Mutex // guards the fields below
	client  *ssh.Client
	hostKey ssh.PublicKey
}

// UnreachableError says that a command was not run, or that nobody knows how
// it ended, because the connection failed. Trying again later may help.
type UnreachableError struct {
	By   string // what was tried; "" means "ssh"
	Addr string // an address, or a machine's name
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s %s: %v", cmp.Or(e.By, "ssh"), e.Addr, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// RemoteError says that a command ran on the machine and did not end well.
type RemoteError struct {
	Command string
	Status  int    // exit status, -1 when a signal ended it
	Signal  string // without SIG; set when a signal ended it
	Stderr  string // the last of what it said, at most 4 KiB
}

func (e *RemoteError) Error() string {
	how := "exit status " + strconv.Itoa(e.Status)
	if e.Signal != "" {
		how = "signal " + e.Signal
	}
	msg := fmt.Sprintf("%s: %s on the machine", firstLine(e.Command), how)
	if s := strings.TrimSpace(e.Stderr); s != "" {
		msg += ":\n    " + strings.ReplaceAll(s, "\n", "\n    ")
	}
	return msg
}

func firstLine(s string) string {
	l, _, more := strings.Cut(s, "\n")
	if more {
		l += " …"
	}
	return l
}

// Waits of one attempt to connect; a guest without acceleration may need
// seconds for the key exchange.
const (
	dialWait      = 3 * time.Second
	bannerWait    = 5 * time.Second
	handshakeWait = 30 * time.Second
	retryPause    = 300 * time.Millisecond
	aliveEvery    = 5 * time.Second
)

// Wait returns when the machine has let us log in, or with an error that
// names the last obstacle when ctx ends. A port that accepts connections is
// not enough, because port forwarders do that while the machine still starts:
// a server's greeting must come.
func (s *SSH) Wait(ctx context.Context) error {
	var last error
	for {
		_, err := s.connect(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
			if changed(err) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			if last == nil {
				last = err
			}
			return fmt.Errorf("no login within the time given: %w", last)
		case <-time.After(retryPause):
		}
	}
}

// HostKey is the key that the machine showed first, or nil.
func (s *SSH) HostKey() ssh.PublicKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hostKey
}

// Pin makes key the only one believed, for a machine seen earlier. nil
// forgets it, for a machine that was installed anew.
func (s *SSH) Pin(key ssh.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hostKey = key
}

// Close ends the connection. The next command makes another.
func (s *SSH) Close() error {
	s.mu.Lock()
	c := s.client
	s.client = nil
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Close()
}

// Command is one command line for the machine's shell.
type Command struct {
	Line   string
	Stdin  io.Reader
	Stdout io.Writer // nil: dropped
	Stderr io.Writer // nil: only kept for the error
}

// Run runs a command. A *RemoteError says that it failed there, an
// *UnreachableError that we could not ask; when ctx ends, so does the
// connection, and the error is an UnreachableError around the context's.
func (s *SSH) Run(ctx context.Context, c Command) error {
	client, err := s.connect(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { s.drop(client) })
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		s.drop(client)
		return &UnreachableError{Addr: s.Addr, Err: errors.Join(context.Cause(ctx), err)}
	}
	defer session.Close()
	tail := &tail{max: 4 << 10}
	session.Stdin, session.Stdout, session.Stderr = c.Stdin, c.Stdout, tail
	if c.Stderr != nil {
		session.Stderr = io.MultiWriter(c.Stderr, tail)
	}
	err = session.Run(c.Line)
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &UnreachableError{Addr: s.Addr, Err: context.Cause(ctx)}
	case errors.As(err, &exit):
		e := &RemoteError{Command: c.Line, Status: exit.ExitStatus(), Signal: exit.Signal(), Stderr: tail.String()}
		if e.Signal != "" {
			e.Status = -1
		}
		return e
	}
	s.drop(client)
	return &UnreachableError{Addr: s.Addr, Err: err}
}

// Output runs a command line and returns its standard output.
func (s *SSH) Output(ctx context.Context, line string) (string, error) {
	var b bytes.Buffer
	err := s.Run(ctx, Command{Line: line, Stdout: &b})
	return b.String(), err
}

// Put copies the local file src to dst on the machine. dst is seen there whole
// or not at all.
func (s *SSH) Put(ctx context.Context, src, dst string, mode os.FileMode) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	part := Quote(dst + ".goldsmith-part")
	line := fmt.Sprintf("umask 077 && cat > %s && chmod %o %s && mv -f %s %s || { rm -f %s; exit 1; }",
		part, mode.Perm(), part, part, Quote(dst), part)
	if err := s.Run(ctx, Command{Line: line, Stdin: f}); err != nil {
		return fmt.Errorf("copy to %s: %w", dst, err)
	}
	return nil
}

// Get copies src of the machine to the local file dst, mode 0600, whole or
// not at all.
func (s *SSH) Get(ctx context.Context, src, dst string) error {
	f, err := atomicfile.Create(dst, 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := s.Run(ctx, Command{Line: "cat " + Quote(src), Stdout: f}); err != nil {
		return fmt.Errorf("copy from %s: %w", filepath.Base(src), err)
	}
	return f.Commit()
}

// Quote makes one word of s for a POSIX shell.
func Quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
