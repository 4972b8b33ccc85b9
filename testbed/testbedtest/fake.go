package testbedtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"goldsmith/testbed"
)

// Fake is a machine in memory. It acts out a Guest: nothing is run.
type Fake struct {
	name    string
	disk    Guest // of the first disk that has one
	cd      *Guest
	disks   int
	console string // file

	mu      sync.Mutex // guards the fields below
	on      bool
	gone    bool
	guest   Guest // that runs
	boot    testbed.Boot
	serial  map[*fakeSerial]bool
	shell   *fakeShell    // nil while there is none
	stopped chan struct{} // closed when the machine goes off; nil while it is off
}

var _ interface {
	testbed.Machine
	testbed.Shutdowner
	testbed.OffWaiter
	testbed.Resetter
	testbed.Consoled
	testbed.Serial
	testbed.BootSelector
	testbed.Addressed
} = (*Fake)(nil)

// NewFake makes a machine that acts out the guests on disks of BIOSDisk and
// CDs of BIOSCD, or nothing when an image is something else. It fits
// Driver.NewWith.
func NewFake(ctx context.Context, s Spec) (testbed.Machine, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f := &Fake{name: s.Name, console: filepath.Join(s.Dir, "console.log"), disks: len(s.Disks), serial: map[*fakeSerial]bool{}}
	for _, image := range s.Disks {
		if g, err := guestOn(image, 0); err != nil {
			return nil, err
		} else if f.disk == (Guest{}) {
			f.disk = g
		}
	}
	if s.CD != "" {
		g, err := guestOn(s.CD, 20*2048)
		if err != nil {
			return nil, err
		}
		f.cd = &g
	}
	return f, os.MkdirAll(s.Dir, 0o755)
}

// guestOn reads the guest back whose boot sector is at an offset of an image.
func guestOn(image string, offset int) (Guest, error) {
	b, err := os.ReadFile(image)
	if err != nil || len(b) < offset+512 {
		return Guest{}, err
	}
	b = b[offset:]
	text, _, _ := bytes.Cut(b[textOffset:textEnd], []byte{0})
	mode := b[modeOffset]
	return Guest{string(text), mode&modeOff != 0, mode&modeReset != 0, mode&modeCount != 0, mode&modeShell != 0}, nil
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
	return f.start()
}

// start acts out what the machine starts from, again where that resets it. It
// is called with mu held.
func (f *Fake) start() error {
	f.endShell()
	f.guest = f.disk
	if f.boot.Device == testbed.FromCD {
		f.guest = *f.cd
	}
	if f.boot.Once {
		f.boot = testbed.Boot{}
	}
	text := f.guest.Text
	if f.guest.Count {
		text += fmt.Sprint(f.disks)
	}
	err := f.print(text)
	switch {
	case err != nil:
		return err
	case f.guest.Off:
		f.off()
	case f.guest.Reset:
		return f.start()
	case f.guest.Shell:
		return f.startShell()
	}
	return nil
}

// print is called with mu held.
func (f *Fake) print(text string) error {
	for s := range f.serial {
		s.push(text)
	}
	c, err := os.OpenFile(f.console, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = c.WriteString(text)
	return errors.Join(err, c.Close())
}

// off is called with mu held.
func (f *Fake) off() {
	f.endShell()
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

// Reset implements testbed.Resetter.
func (f *Fake) Reset(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.on {
		return fmt.Errorf("machine %s: reset: it is off", f.name)
	}
	return f.start()
}

// SetBoot implements testbed.BootSelector.
func (f *Fake) SetBoot(_ context.Context, b testbed.Boot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case b.Device == "":
		b = testbed.Boot{}
	case b.Device == testbed.FromDisk, b.Device == testbed.FromCD && f.cd != nil:
	default:
		return &testbed.Fault{Kind: testbed.Unsupported, Machine: f.name, Doing: "boot device", Err: fmt.Errorf("no %q", string(b.Device))}
	}
	f.boot = b
	return nil
}

// BootOrder implements testbed.BootSelector.
func (f *Fake) BootOrder(context.Context) (testbed.Boot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.boot, nil
}

// OpenSerial implements testbed.Serial.
func (f *Fake) OpenSerial(context.Context) (io.ReadWriteCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &fakeSerial{fake: f}
	s.more.L = &s.mu
	f.serial[s] = true
	return s, nil
}

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
	for s := range f.serial {
		s.end()
	}
	return nil
}

// fakeSerial is a connection to a Fake's serial port, which prints what is
// typed while the machine is on.
type fakeSerial struct {
	fake *Fake

	mu    sync.Mutex // guards the fields below
	more  sync.Cond
	text  []byte
	ended bool
}

func (s *fakeSerial) push(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, text...)
	s.more.Broadcast()
}

func (s *fakeSerial) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.more.Broadcast()
}

func (s *fakeSerial) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.text) == 0 && !s.ended {
		s.more.Wait()
	}
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.text)
	s.text = s.text[n:]
	return n, nil
}

func (s *fakeSerial) Write(p []byte) (int, error) {
	s.fake.mu.Lock()
	if shell := s.fake.shell; s.fake.on && shell != nil {
		s.fake.mu.Unlock() // a full terminal is read by who needs the lock
		return shell.master.Write(p)
	}
	defer s.fake.mu.Unlock()
	if !s.fake.on {
		return len(p), nil
	}
	return len(p), s.fake.print(string(p))
}

func (s *fakeSerial) Close() error {
	s.fake.mu.Lock()
	delete(s.fake.serial, s)
	s.fake.mu.Unlock()
	s.end()
	return nil
}
