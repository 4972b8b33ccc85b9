package libvirt

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// namespace is a network namespace seen from outside of it.
type namespace struct{ file *os.File }

var _ testbed.Network = (*namespace)(nil)

func openNamespace(pid int) (*namespace, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	return &namespace{f}, nil
}

// Do calls f on a thread that is in the namespace. The thread is thrown away
// afterwards.
func (n *namespace) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the bed's network: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

func (n *namespace) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() error {
		var d net.Dialer
		var err error
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

func (n *namespace) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		var c net.ListenConfig
		var err error
		l, err = c.Listen(ctx, network, addr)
		return err
	})
	return l, err
}

// Exec runs a program of the host in the bed's network.
func (n *namespace) Exec(ctx context.Context, x command.Exec) error {
	return n.Do(func() error { return x.Run(ctx) })
}
