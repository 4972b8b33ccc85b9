package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// errHostKey marks a machine that shows another host key than before.
var errHostKey = errors.New("the machine shows another host key than before")

func changed(err error) bool { return errors.Is(err, errHostKey) }

// connect returns the living connection or makes one.
func (s *SSH) connect(ctx context.Context) (*ssh.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	client, err := s.dial(ctx)
	if err != nil {
		if ctx.Err() != nil && !changed(err) {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return nil, &UnreachableError{Addr: s.Addr, Err: err}
	}
	s.client = client
	go s.watch(client)
	return client, nil
}

// watch forgets a connection that has ended, and ends one whose machine is
// silent: a machine that lost its power says no goodbye.
func (s *SSH) watch(client *ssh.Client) {
	done := make(chan struct{})
	go func() {
		_ = client.Wait()
		close(done)
	}()
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			s.drop(client)
			return
		case <-tick.C:
		}
		answered := make(chan error, 1)
		go func() {
			_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
			answered <- err
		}()
		select {
		case <-answered:
		case <-done:
		case <-time.After(4 * aliveEvery):
			s.drop(client)
		}
	}
}

// drop closes a connection and forgets it.
func (s *SSH) drop(client *ssh.Client) {
	_ = client.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == client {
		s.client = nil
	}
}

// dial connects and logs in. s.mu is held.
func (s *SSH) dial(ctx context.Context) (*ssh.Client, error) {
	var network Network = Host{}
	if s.Network != nil {
		network = s.Network
	}
	dctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	conn, err := network.Dial(dctx, "tcp", s.Addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	client, err := s.login(conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	if !stop() { // ctx ended meanwhile and closed the connection
		return nil, errors.Join(context.Cause(ctx), client.Close())
	}
	return client, nil
}

func (s *SSH) login(conn net.Conn) (*ssh.Client, error) {
	if err := conn.SetDeadline(time.Now().Add(bannerWait)); err != nil {
		return nil, err
	}
	g := &greeted{Conn: conn}
	if err := g.await(); err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(handshakeWait)); err != nil {
		return nil, err
	}
	user := s.User
	if user == "" {
		user = "root"
	}
	config := &ssh.ClientConfig{User: user, HostKeyCallback: s.believe}
	if s.Key != nil {
		config.Auth = []ssh.AuthMethod{ssh.PublicKeys(s.Key)}
	}
	if s.hostKey != nil {
		config.HostKeyAlgorithms = algorithms(s.hostKey.Type())
	}
	c, channels, requests, err := ssh.NewClientConn(g, s.Addr, config)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return ssh.NewClient(c, channels, requests), nil
}

// algorithms are the signature algorithms of a host key type. A server with
// several keys must be asked for the one we know.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// believe takes the first host key and from then on only that. s.mu is held.
func (s *SSH) believe(_ string, _ net.Addr, key ssh.PublicKey) error {
	if s.hostKey == nil {
		s.hostKey = key
		return nil
	}
	if !bytes.Equal(s.hostKey.Marshal(), key.Marshal()) {
		return fmt.Errorf("%w: %s, not %s", errHostKey, ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(s.hostKey))
	}
	return nil
}

// greeted is a connection whose first bytes were read to see that a server
// speaks; they are read again by the handshake.
type greeted struct {
	net.Conn
	first []byte
}

// await reads the first four bytes of the greeting, "SSH-". Servers may send
// other lines first; those are left to the handshake.
func (g *greeted) await() error {
	b := make([]byte, 4)
	if _, err := io.ReadFull(g.Conn, b); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	g.first = b
	return nil
}

func (g *greeted) Read(p []byte) (int, error) {
	if len(g.first) > 0 {
		n := copy(p, g.first)
		g.first = g.first[n:]
		return n, nil
	}
	return g.Conn.Read(p)
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex // guards b
	b   []byte
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > t.max {
		t.b = append([]byte(nil), t.b[len(t.b)-t.max:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
