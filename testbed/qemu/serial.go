package qemu

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxUnread is how much a reader of the serial port may leave unread, in
// bytes. What is older is lost to it; the console's file has everything.
const maxUnread = 1 << 20

// typeLimit bounds a Write: a machine that does not look at its serial port
// takes some hundred kilobytes and then no more.
const typeLimit = 10 * time.Second

// serial is a machine's serial port over all its starts: what the machine
// prints goes to everybody who has it open, what they type goes to the
// machine that is on.
type serial struct {
	mu     sync.Mutex // guards the fields below
	conn   net.Conn   // nil while the machine is off
	open   map[*terminal]bool
	closed bool
}

// plug connects a started machine and returns when it has ended.
func (s *serial) plug(conn net.Conn) {
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	b := make([]byte, 4096)
	for {
		n, err := conn.Read(b)
		s.mu.Lock()
		for t := range s.open {
			t.push(b[:n])
		}
		if err != nil && s.conn == conn {
			s.conn = nil
		}
		s.mu.Unlock()
		if err != nil {
			_ = conn.Close()
			return
		}
	}
}

func (s *serial) connect() *terminal {
	t := &terminal{serial: s}
	t.more.L = &t.mu
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*terminal]bool{}
	}
	s.open[t] = true
	t.ended = s.closed
	return t
}

// end ends everybody's connection, for good.
func (s *serial) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for t := range s.open {
		t.end()
	}
}

// terminal is one connection to a serial port.
type terminal struct {
	serial *serial

	mu    sync.Mutex // guards the fields below
	more  sync.Cond
	text  []byte
	ended bool
}

func (t *terminal) push(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - maxUnread; over > 0 {
		t.text = append([]byte(nil), t.text[over:]...)
	}
	t.more.Broadcast()
}

func (t *terminal) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.more.Broadcast()
}

// Read waits for text; io.EOF follows Close and the machine's Release.
func (t *terminal) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.text) == 0 && !t.ended {
		t.more.Wait()
	}
	if len(t.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.text)
	t.text = t.text[n:]
	return n, nil
}

// Write types. While the machine is off nobody is there to read it.
func (t *terminal) Write(p []byte) (int, error) {
	t.serial.mu.Lock()
	conn, open := t.serial.conn, t.serial.open[t]
	t.serial.mu.Unlock()
	switch {
	case !open:
		return 0, io.ErrClosedPipe
	case conn == nil:
		return len(p), nil
	}
	if err := conn.SetWriteDeadline(time.Now().Add(typeLimit)); err != nil && !errors.Is(err, net.ErrClosed) {
		return 0, err
	}
	n, err := conn.Write(p)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return len(p), nil // it is off by now, and plug has not noticed yet
	}
	return n, err
}

// Close may be called twice.
func (t *terminal) Close() error {
	t.serial.mu.Lock()
	delete(t.serial.open, t)
	t.serial.mu.Unlock()
	t.end()
	return nil
}
