// Package testbed is what the pipeline knows of a machine: small interfaces
// that a virtual machine under libvirt and a server behind a management
// controller can both satisfy.
//
// [Machine] is the least a driver offers: power. What else a machine can do
// is a small interface of its own, found by type assertion: [Consoled],
// [Serial], [Addressed], [Shutdowner], [OffWaiter], [Resetter],
// [BootSelector], [Sensed], [EventLogged], [Leased], [HealthNoter]. Files and commands go through a
// [Shell]: [SSH] is one, which needs no driver but an address; [GuestAgent] and
// [ConsoleShell] need no network. [Network] is
// where a machine can be reached from: the host's own network, or one that is
// hidden in a namespace. What is wrong with a machine rather than with an
// image or a caller is a [Fault].
//
// The package knows no driver and makes no machines. Drivers are held to one
// suite, testbedtest.
package testbed

import (
	"context"
	"net"
	"net/netip"
	"os"

	"goldsmith/internal/command"
)

// Power is whether a machine is on.
type Power int

// What Machine.Power may answer. Unknown is never given without an error.
const (
	Unknown Power = iota
	Off
	On
)

func (p Power) String() string {
	switch p {
	case Off:
		return "off"
	case On:
		return "on"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler: off, on or unknown.
func (p Power) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Machine is one machine whose power we hold. Its methods may be called from
// several goroutines.
type Machine interface {
	// Name is unique on one testbed.
	Name() string
	// Power asks whether the machine is on.
	Power(ctx context.Context) (Power, error)
	// PowerOn starts the machine; when it is on already it does nothing.
	PowerOn(ctx context.Context) error
	// PowerOff cuts the power, without asking the operating system; when
	// it is off already it does nothing.
	PowerOff(ctx context.Context) error
	// Release gives the machine back: it is off afterwards, and everything
	// that the driver made for it is gone. It works on when ctx is cancelled,
	// for a bounded time, and may be called twice.
	Release(ctx context.Context) error
}

// Shutdowner is a machine that can ask its operating system to shut down.
type Shutdowner interface {
	// Shutdown asks and waits until the machine is off. When ctx ends before
	// that, the machine stays on and the error says so.
	Shutdown(ctx context.Context) error
}

// OffWaiter is a machine that can tell when it switches itself off.
type OffWaiter interface {
	// WaitOff returns when the machine is off, or with an error when ctx ends.
	WaitOff(ctx context.Context) error
}

// Consoled is a machine whose serial console is recorded.
type Consoled interface {
	Console() *Console
}

// Addressed is a machine whose network address its driver knows.
type Addressed interface {
	// Address waits until the address is known or ctx ends.
	Address(ctx context.Context) (netip.Addr, error)
}

// Leased is a machine that may be taken away from who uses it.
type Leased interface {
	// Held ends when the machine is lost, with a [Fault] of kind Lost as its
	// cause, or when it is released.
	Held() context.Context
}

// HealthNoter is a machine whose testbed wants to know what the machine says of
// itself.
type HealthNoter interface {
	// NoteHealth keeps whether the installed system is well by its own checks,
	// with a word on it.
	NoteHealth(ctx context.Context, ok bool, detail string) error
}

// Shell runs commands on a machine that is up, and copies files.
type Shell interface {
	// Wait returns when commands can be run, or with an error that names the
	// last obstacle when ctx ends.
	Wait(ctx context.Context) error
	// Run runs a command line. A *RemoteError says that it failed there, an
	// *UnreachableError that we could not ask or do not know.
	Run(ctx context.Context, c Command) error
	// Put copies the local file src to dst on the machine, Get the other way;
	// the copy is seen whole or not at all.
	Put(ctx context.Context, src, dst string, mode os.FileMode) error
	Get(ctx context.Context, src, dst string) error
	Close() error
}

var _ Shell = (*SSH)(nil)

// Network is a place in a network: what is dialled, listened for and run
// there reaches the machines.
type Network interface {
	// Dial connects to addr, which is a numeric address and port.
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	// Listen waits for connections at addr, a numeric address and port.
	Listen(ctx context.Context, network, addr string) (net.Listener, error)
	// Exec runs a program of the host in this network.
	Exec(ctx context.Context, x command.Exec) error
	// Do calls f on an operating system thread in this network: sockets that
	// f itself opens, not those of goroutines that it starts, belong to it.
	Do(f func() error) error
}

// Host is the network that the process itself is in.
type Host struct{}

// Dial implements Network.
func (Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// Listen implements Network.
func (Host) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	var l net.ListenConfig
	return l.Listen(ctx, network, addr)
}

// Exec implements Network.
func (Host) Exec(ctx context.Context, x command.Exec) error { return x.Run(ctx) }

// Do implements Network.
func (Host) Do(f func() error) error { return f() }
