package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// Namespace is a network namespace, seen from outside of it. It has no name
// on the host: it is gone when nobody is in it and nobody has it open.
type Namespace struct{ file *os.File }

var _ Network = (*Namespace)(nil)

// NewNamespace makes a network namespace in which nothing is but a loopback
// device, and that down. It needs root. The caller closes it.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// OpenNamespace returns the network namespace that a process is in. The caller
// closes it.
func OpenNamespace(pid int) (*Namespace, error) {
	return NamespaceAt(fmt.Sprintf("/proc/%d/ns/net", pid))
}

// NamespaceAt returns the network namespace that a file stands for, such as
// /run/netns/NAME or /proc/PID/ns/net (namespaces(7)). The caller closes it.
func NamespaceAt(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.Join(command.BadInput(fmt.Errorf("%s: not a network namespace", path), "such as /run/netns/NAME"), f.Close())
	}
	return &Namespace{f}, nil
}

// Fd is the namespace's file descriptor, for netlink; it is valid until Close.
func (n *Namespace) Fd() int { return int(n.file.Fd()) }

// Close lets go of the namespace. It may be called twice.
func (n *Namespace) Close() error {
	if err := n.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// onThread calls f on a thread of its own that is thrown away afterwards.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- f()
	}()
	return <-result
}

// Do calls f on a thread that is in the namespace. The thread is thrown away
// afterwards.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// Dial implements Network.
func (n *Namespace) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() error {
		var d net.Dialer
		var err error
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Listen implements Network.
func (n *Namespace) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		var c net.ListenConfig
		var err error
		l, err = c.Listen(ctx, network, addr)
		return err
	})
	return l, err
}

// Exec runs a program of the host in the namespace.
func (n *Namespace) Exec(ctx context.Context, x command.Exec) error {
	return n.Do(func() error { return x.Run(ctx) })
}
