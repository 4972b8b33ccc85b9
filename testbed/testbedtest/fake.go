package testbedtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"goldsmith/testbed"
)

// Fake is a machine in memory. It acts out a Guest: nothing is run.
type Fake struct {
	name    string
	guest   Guest
	console string // file

	mu      sync.Mutex // guards the fields below
	on      bool
	gone    bool
	stopped chan struct{} // closed when the machine goes off; nil while it is off
}

var _ interface {
	testbed.Machine
	testbed.Shutdowner
	testbed.OffWaiter
	testbed.Consoled
} = (*Fake)(nil)

// NewFake makes a machine that acts out the guest on a disk of BIOSDisk, or
// nothing when the image is something else. It fits Driver.New.
func NewFake(ctx context.Context, name, dir, image string) (testbed.Machine, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	disk, err := os.ReadFile(image)
	if err != nil {
		return nil, err
	}
	f := &Fake{name: name, console: filepath.Join(dir, "console.log")}
	if len(disk) == diskSize {
		text, _, _ := bytes.Cut(disk[textOffset:440], []byte{0})
		f.guest = Guest{Text: string(text), Off: disk[0x35] == 0xeb}
	}
	return f, os.MkdirAll(dir, 0o755)
}

// Name implements testbed.Machine.
func (f *Fake) Name() string { return f.name }

// Console implements testbed.Consoled.
func (f *Fake) Console() *testbed.Console { return &testbed.Console{Path: f.console} }

// Power implements testbed.Machine.
func (f *Fake) Power(context.Context) (testbed.Power, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.gone:
		return testbed.Unknown, fmt.Errorf("machine %s: released", f.name)
	case f.on:
		return testbed.On, nil
	}
	return testbed.Off, nil
}

// PowerOn implements testbed.Machine.
func (f *Fake) PowerOn(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return fmt.Errorf("machine %s: released", f.name)
	}
	if f.on {
		return nil
	}
	f.on, f.stopped = true, make(chan struct{})
	c, err := os.OpenFile(f.console, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.WriteString(f.guest.Text)
	if f.guest.Off {
		f.off()
	}
	return err
}

// off is called with mu held.
func (f *Fake) off() {
	if f.on {
		f.on = false
		close(f.stopped)
		f.stopped = nil
	}
}

// PowerOff implements testbed.Machine.
func (f *Fake) PowerOff(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off()
	return nil
}

// Shutdown implements testbed.Shutdowner.
func (f *Fake) Shutdown(ctx context.Context) error { return f.PowerOff(ctx) }

// WaitOff implements testbed.OffWaiter.
func (f *Fake) WaitOff(ctx context.Context) error {
	f.mu.Lock()
	stopped := f.stopped
	f.mu.Unlock()
	if stopped == nil {
		return nil
	}
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("machine %s: still on: %w", f.name, context.Cause(ctx))
	}
}

// Release implements testbed.Machine.
func (f *Fake) Release(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off()
	f.gone = true
	return nil
}
