package testbedtest

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"goldsmith/internal/testenv"
)

// FakeShellDisk makes a disk for a Fake that offers a root shell on its serial
// port: this host's. It fits Driver.ShellDisk.
func FakeShellDisk(t *testing.T) string {
	t.Helper()
	return file(t, Guest{Shell: true}.BIOSDisk(), nil)
}

// Address implements testbed.Addressed: this host is as near as it gets.
func (f *Fake) Address(context.Context) (netip.Addr, error) {
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}

// fakeShell is a shell on a Fake's serial port.
type fakeShell struct {
	master *os.File
	stop   func()
}

// startShell is called with mu held.
func (f *Fake) startShell() error {
	master, stop, err := testenv.Terminal(testenv.Autologin)
	if err != nil {
		return err
	}
	s := &fakeShell{master, stop}
	f.shell = s
	go func() {
		for b := make([]byte, 4096); ; {
			n, err := master.Read(b)
			f.mu.Lock()
			if f.shell == s && n > 0 {
				_ = f.print(string(b[:n]))
			}
			f.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return nil
}

// endShell is called with mu held.
func (f *Fake) endShell() {
	if f.shell != nil {
		f.shell.stop()
		f.shell = nil
	}
}
