// Package ipmi drives servers through their management controllers (BMCs):
// IPMI 2.0 over RMCP+, which is UDP with a login, signatures and encryption.
//
// [Open] logs in and gives a [Machine], which is everything that package
// testbed knows except an address. One session carries commands, one at a
// time; another carries the serial console (serial over LAN, SOL), which one
// goroutine records to a file for as long as the machine is open.
//
// A BMC is not believed at its first word. Power is confirmed by asking again,
// boot flags are read back, packets must carry the session's signature, and
// whatever goes wrong comes back as a [testbed.Fault] with its kind, in bounded
// time. What is known to differ between vendors is data, see [Quirks].
//
// The package uses no "power cycle" command: what that does to a machine that
// is off differs from BMC to BMC. Off and on, both confirmed, is the same
// everywhere.
package ipmi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Config says where a BMC is and how to talk to it. Name and Addr must be set.
type Config struct {
	Name string // the machine's
	Addr string // host or host:port; port 623 when none is given
	User string // at most 16 bytes
	// Password is never printed. At most 20 bytes.
	Password string
	// Operator logs in with privilege OPERATOR instead of ADMINISTRATOR, for
	// users that have no more. Many BMCs then refuse the console.
	Operator bool
	// Console is the file that the serial console is recorded to; what is there
	// is kept. "" means that it is not recorded.
	Console string
	// Firmware is what the machine starts with when testbed.Boot leaves that
	// open; "" sends no UEFI flag.
	Firmware testbed.Firmware
	// Adjust changes what the vendor table says about this BMC, see
	// [ParseQuirks]; nil means nothing.
	Adjust func(*Quirks)
	// Network is where the BMC is reached from; nil means testbed.Host.
	Network testbed.Network
	// Sessions is a directory with a file for each session that is open, so that
	// those of a process that was killed can be ended: see [Left]. "" means that
	// there are none.
	Sessions string
}

// defaultPort is RMCP's (IPMI 2.0, 13.1.2).
const defaultPort = "623"

// keepAlive is how often an idle session is used; BMCs end one after 60 s
// (IPMI 2.0, 6.12.15).
const keepAlive = 20 * time.Second

// releaseLimit bounds Release beyond what power off may take.
const releaseLimit = 30 * time.Second

// Machine is a server behind a BMC. Its methods may be called from several
// goroutines; commands go to the BMC one after the other.
type Machine struct {
	dialer
	consolePath string
	firmware    testbed.Firmware
	console     *recorder // nil when nothing is recorded

	turn     chan struct{} // holds one token: whose turn it is to use the fields below
	session  *session      // nil when there is none
	released bool

	stop context.CancelFunc // ends keepalive
	done sync.WaitGroup
}

var _ interface {
	testbed.Machine
	testbed.Shutdowner
	testbed.OffWaiter
	testbed.Resetter
	testbed.BootSelector
	testbed.Consoled
	testbed.Serial
	testbed.Sensed
	testbed.EventLogged
} = (*Machine)(nil)

// Open logs in to the BMC, and starts to record the console. The power stays as
// it is. A console that cannot be had is no error here: see [Machine.Recording].
// Release ends everything.
func Open(ctx context.Context, c Config) (*Machine, error) {
	addr, err := c.check()
	if err != nil {
		return nil, err
	}
	m := &Machine{
		dialer: dialer{name: c.Name, addr: addr, user: c.User, password: c.Password,
			operator: c.Operator, sessions: c.Sessions, network: c.Network, quirks: defaults()},
		consolePath: c.Console, firmware: c.Firmware, turn: make(chan struct{}, 1),
	}
	if m.network == nil {
		m.network = testbed.Host{}
	}
	if c.Adjust != nil { // what the login itself needs
		c.Adjust(&m.quirks)
	}
	if err := m.identify(ctx, c.Adjust); err != nil {
		return nil, errors.Join(err, m.hangUp())
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	m.stop = stop
	m.done.Go(func() { m.keepAlive(background) })
	if c.Console != "" {
		m.console = newRecorder(&m.dialer, c.Console)
		m.done.Go(func() { m.console.run(background) })
		m.console.first(ctx)
	}
	return m, nil
}

// check returns the address with its port.
func (c Config) check() (string, error) {
	switch {
	case c.Name == "" || c.Addr == "":
		return "", errors.New("ipmi: a name and an address are needed")
	case len(c.User) > 16:
		return "", command.BadInput(fmt.Errorf("machine %s: user name of %d bytes", c.Name, len(c.User)), "IPMI allows 16")
	case len(c.Password) > 20:
		return "", command.BadInput(fmt.Errorf("machine %s: password of %d bytes", c.Name, len(c.Password)), "IPMI allows 20")
	}
	if _, _, err := net.SplitHostPort(c.Addr); err == nil {
		return c.Addr, nil
	}
	return net.JoinHostPort(strings.Trim(c.Addr, "[]"), defaultPort), nil
}

// identify asks who made the BMC and takes what is known of it.
func (m *Machine) identify(ctx context.Context, adjust func(*Quirks)) error {
	return m.do(ctx, "log in", func(ctx context.Context, c *client.Client) error {
		id, err := c.GetDeviceID(ctx)
		if err != nil {
			return err
		}
		q := known(id.ManufacturerID, id.ProductID)
		if adjust != nil {
			adjust(&q)
		}
		q.CipherSuites = m.quirks.CipherSuites // the suite that worked is remembered there
		m.quirks = q
		return nil
	})
}

// Name implements testbed.Machine.
func (m *Machine) Name() string { return m.name }

// Console implements testbed.Consoled. Lines in it that begin with "[goldsmith"
// are the recorder's own, see docs/formats.md; a machine can print such lines,
// too.
func (m *Machine) Console() *testbed.Console { return &testbed.Console{Path: m.consolePath} }

// Recording returns nil while the console is being recorded, else a
// testbed.Fault that says why it is not: Stolen when somebody else has it, which
// passes.
func (m *Machine) Recording() error {
	if m.console == nil {
		return m.fault(testbed.Unsupported, "console", errors.New("no file to record it to was given"))
	}
	return m.console.state()
}

// OpenSerial implements testbed.Serial. One may type at a time.
func (m *Machine) OpenSerial(context.Context) (io.ReadWriteCloser, error) {
	if err := m.Recording(); err != nil {
		return nil, err
	}
	return m.console.attach()
}

// Release implements testbed.Machine: the machine is off, the console's file
// stays, and both sessions are closed.
func (m *Machine) Release(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, m.quirks.OffWait+releaseLimit)
	defer cancel()
	if err := m.acquire(ctx); err != nil {
		return err
	}
	done := m.released
	m.release()
	if done {
		return nil
	}
	err := m.PowerOff(ctx)
	return errors.Join(err, m.Disconnect())
}

// Disconnect stops recording and closes the sessions, and leaves the power as
// it is: for a hand tool that only looks. Afterwards nothing can be asked any
// more. It may be called twice.
func (m *Machine) Disconnect() error {
	m.stop()
	m.done.Wait()
	m.console.end()
	return m.hangUp()
}

// hangUp closes the session for good.
func (m *Machine) hangUp() error {
	m.turn <- struct{}{}
	defer m.release()
	m.released = true
	s := m.session
	m.session = nil
	if s == nil {
		return nil
	}
	s.close()
	return nil
}

func (m *Machine) acquire(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *Machine) release() { <-m.turn }

// keepAlive uses the session now and then, so that the BMC does not end it. A
// session that fails is given up; the next command logs in again.
func (m *Machine) keepAlive(ctx context.Context) {
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if m.acquire(ctx) != nil {
			return
		}
		if s := m.session; s != nil {
			if err := s.call(ctx, "keep alive", ping); err != nil {
				m.session = nil
				s.close()
			}
		}
		m.release()
	}
}

func ping(ctx context.Context, c *client.Client) error {
	_, err := c.GetDeviceID(ctx)
	return err
}
