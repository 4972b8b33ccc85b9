package vbmc

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/hal"

	"goldsmith/testbed"
)

// consoleOf is the machine's console, or nil.
func consoleOf(m testbed.Machine) hal.ConsoleHAL {
	switch m := m.(type) {
	case testbed.Serial:
		return port{m}
	case testbed.Consoled:
		return recording{m}
	}
	return nil
}

// port is a serial port at which one can type.
type port struct{ testbed.Serial }

// Open implements hal.ConsoleHAL.
func (p port) Open(ctx context.Context) (hal.ConsoleConn, error) {
	rw, err := p.OpenSerial(ctx)
	if err != nil {
		return nil, err
	}
	c := &portConn{ReadWriteCloser: rw}
	c.room.L = &c.mu
	go c.fill() // ends when the port is closed
	return c, nil
}

// unsent is how much a port holds for a client, in bytes. The machine waits
// when it is full.
const unsent = 64 << 10

// portConn reads ahead, since hal.ConsoleConn must not block.
type portConn struct {
	io.ReadWriteCloser

	mu     sync.Mutex // guards the fields below
	room   sync.Cond
	buf    []byte
	err    error
	closed bool
}

func (c *portConn) fill() {
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		c.mu.Lock()
		c.buf = append(c.buf, b[:n]...)
		c.err = err
		for len(c.buf) > unsent && !c.closed {
			c.room.Wait()
		}
		end := err != nil || c.closed
		c.mu.Unlock()
		if end {
			return
		}
	}
}

// Write implements hal.ConsoleConn. The server writes whatever a packet has, also
// when that is nothing; a port that is about to go must not break of it, since
// what is printed until it is opened anew would be lost.
func (c *portConn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return c.ReadWriteCloser.Write(p)
}

// ReadAvailable implements hal.ConsoleConn.
func (c *portConn) ReadAvailable(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := copy(p, c.buf)
	c.buf = c.buf[n:]
	c.room.Broadcast()
	if n == 0 {
		return 0, c.err
	}
	return n, nil
}

// Close implements hal.ConsoleConn.
func (c *portConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.room.Broadcast()
	c.mu.Unlock()
	return c.ReadWriteCloser.Close()
}

// SendBreak implements hal.ConsoleConn.
func (c *portConn) SendBreak(context.Context) error { return hal.ErrNotSupported }

// recording is a console that can only be read.
type recording struct{ testbed.Consoled }

// Open implements hal.ConsoleHAL. What was printed before is not shown.
func (r recording) Open(context.Context) (hal.ConsoleConn, error) {
	at, err := r.Console().Mark()
	if err != nil {
		return nil, err
	}
	return &tail{path: r.Console().Path, at: at}, nil
}

// tail is the end of a file that grows.
type tail struct {
	path string
	at   int64
}

// ReadAvailable implements hal.ConsoleConn.
func (t *tail) ReadAvailable(p []byte) (int, error) {
	f, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.ReadAt(p, t.at)
	t.at += int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Write implements hal.ConsoleConn: nobody reads it.
func (t *tail) Write(p []byte) (int, error) { return len(p), nil }

// Close implements hal.ConsoleConn.
func (t *tail) Close() error { return nil }

// SendBreak implements hal.ConsoleConn.
func (t *tail) SendBreak(context.Context) error { return hal.ErrNotSupported }

// patientSOL has what is printed sent again for longer than go-ipmi's 200 ms,
// which is lost on a busy host: seven times, each second (IPMI 2.0, table 26-5,
// parameter 4).
func patientSOL(c *bmc.SOLConfig) { _ = c.SetParam(4, []byte{7, 100}) }

// thief is the login of whoever steals the console: a number that go-ipmi, which
// draws them at random, hardly gives to anybody else.
const thief = 0xfeedbac1

// stealConsole ends the session there is and takes its place.
func (b *BMC) stealConsole() {
	s := &bmc.Session{BMCID: thief, PrivilegeLevel: bmc.PrivilegeLevelAdministrator, Channel: lan}
	_ = b.bmc.SOL.Deactivate(s)
	_, _ = b.bmc.SOL.Activate(context.Background(), s, false, false)
}

func (b *BMC) giveConsoleBack() { b.bmc.SOL.DeactivateBySession(thief) }
