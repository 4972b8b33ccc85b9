package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
	"goldsmith/testbed"
)

// Machine is a virtual machine, on or off. QEMU runs while it is on, and is
// started anew at every reset, with the boot order that holds then, as a
// management controller does it.
type Machine struct {
	cfg        MachineConfig
	code, vars string   // UEFI's code and the template of its variables; empty for BIOS
	lock       *os.File // of the directory
	serial     serial

	power sync.Mutex // held while the power is switched

	mu       sync.Mutex // guards the fields below
	on       *run       // the last run; nil before the first
	released bool
	boot     testbed.Boot
	told     int // counts calls of SetBoot
	sshPort  int // 0 before the first start
}

var _ interface {
	testbed.Machine
	testbed.Shutdowner
	testbed.OffWaiter
	testbed.Resetter
	testbed.Consoled
	testbed.Serial
	testbed.Addressed
	testbed.BootSelector
	testbed.AgentCaller
} = (*Machine)(nil)

// New makes a machine, powered off. When it fails, or ctx ends meanwhile,
// nothing of it is left. Without QEMU or its firmware the error is a
// command.Missing one.
func New(ctx context.Context, c MachineConfig) (*Machine, error) {
	c, err := c.withDefaults(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(program); err != nil {
		return nil, command.Missing(fmt.Errorf("%s: not installed", program), "install qemu-system-x86")
	}
	m := &Machine{cfg: c}
	if m.code, m.vars, err = c.Firmware.Files(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	if m.lock, err = filelock.Try(m.file(lockName), filelock.Exclusive); err != nil {
		if errors.Is(err, filelock.ErrLocked) {
			err = command.Busy(fmt.Errorf("%s: another machine's directory", c.Dir), "release that machine, or choose another directory")
		}
		return nil, fmt.Errorf("machine %s: %w", c.Name, err)
	}
	if err := m.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("machine %s: %w", c.Name, err), m.removeFiles())
	}
	return m, nil
}

// prepare makes the machine's files. What an earlier machine left is replaced.
func (m *Machine) prepare(ctx context.Context) error {
	if err := os.Remove(m.file(consoleName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i, d := range m.cfg.Disks {
		if err := d.prepare(ctx, m.diskFile(i)); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
	}
	if m.vars == "" {
		return context.Cause(ctx)
	}
	src, err := os.Open(m.vars)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := atomicfile.Create(m.file(varsName), 0o600)
	if err != nil {
		return err
	}
	defer dst.Abort()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return errors.Join(dst.Commit(), context.Cause(ctx))
}

func (m *Machine) file(name string) string { return filepath.Join(m.cfg.Dir, name) }

// diskFile is what QEMU opens for the i-th disk.
func (m *Machine) diskFile(i int) string {
	switch d := m.cfg.Disks[i]; {
	case d.overlaid():
		return m.file("disk" + strconv.Itoa(i) + ".qcow2")
	case d.File != "":
		return d.File
	default:
		return d.Image
	}
}

// removeFiles removes what was made in the machine's directory, except the
// console's text, and the directory when it is then empty.
func (m *Machine) removeFiles() error {
	names := []string{m.file(varsName), m.file(logName)}
	for i, d := range m.cfg.Disks {
		if d.overlaid() {
			names = append(names, m.diskFile(i))
		}
	}
	var errs []error
	for _, name := range append(names, m.file(lockName)) {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(m.cfg.Dir) // fails when something of others, or the console, is in it
	return errors.Join(append(errs, m.lock.Close())...)
}

// Name implements testbed.Machine.
func (m *Machine) Name() string { return m.cfg.Name }

// Power implements testbed.Machine. A machine that is being reset is on.
func (m *Machine) Power(context.Context) (testbed.Power, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.released:
		return testbed.Unknown, m.errReleased()
	case m.on.running():
		return testbed.On, nil
	}
	return testbed.Off, nil
}

func (m *Machine) errReleased() error { return fmt.Errorf("machine %s: released", m.cfg.Name) }

func (m *Machine) fault(kind testbed.FaultKind, doing string, err error) error {
	return &testbed.Fault{Kind: kind, Machine: m.cfg.Name, Doing: doing, Err: err}
}

// current is the last run, nil before the first.
func (m *Machine) current() *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}

// PowerOn implements testbed.Machine.
func (m *Machine) PowerOn(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.power.Lock()
	defer m.power.Unlock()
	m.mu.Lock()
	released, on := m.released, m.on.running()
	m.mu.Unlock()
	switch {
	case released:
		return m.errReleased()
	case on:
		return nil
	}
	r := newRun()
	stop := context.AfterFunc(ctx, r.cut)
	p, err := m.launch(r)
	if err != nil {
		r.cut()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return m.fault(testbed.Broken, "power on", err)
	}
	m.mu.Lock()
	m.on = r
	m.mu.Unlock()
	go m.supervise(r, p)
	if !stop() {
		return errors.Join(context.Cause(ctx), m.cut())
	}
	return nil
}

// PowerOff implements testbed.Machine: QEMU is killed. The machine is off when
// the process is gone.
func (m *Machine) PowerOff(context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	return m.cut()
}

// cutLimit bounds how long a killed QEMU may take to be gone.
const cutLimit = 30 * time.Second

// cut is PowerOff with power held.
func (m *Machine) cut() error {
	r := m.current()
	if r == nil {
		return nil
	}
	r.cut()
	select {
	case <-r.done:
		return nil
	case <-time.After(cutLimit):
		return m.fault(testbed.Unconfirmed, "power off", fmt.Errorf("qemu is there %v after it was killed", cutLimit))
	}
}

// WaitOff implements testbed.OffWaiter. When QEMU did not end as a machine
// that is switched off does, the machine is off, too, and the error a
// testbed.Fault of kind Broken.
func (m *Machine) WaitOff(ctx context.Context) error { return m.waitOff(ctx, nil) }

// pressEvery is how often Shutdown presses the power button: a system that
// has not started yet does not notice the first time.
const pressEvery = 5 * time.Second

// Shutdown implements testbed.Shutdowner by the ACPI power button.
func (m *Machine) Shutdown(ctx context.Context) error {
	return m.waitOff(ctx, func(r *run) error {
		_, err := r.command(ctx, "system_powerdown")
		return err
	})
}

// waitOff waits until the machine is off, and calls press, when it is not nil,
// now and every few seconds until then.
func (m *Machine) waitOff(ctx context.Context, press func(*run) error) error {
	r := m.current()
	if !r.running() {
		return nil
	}
	tick := time.NewTicker(pressEvery)
	defer tick.Stop()
	for {
		if press != nil {
			if err := press(r); err != nil && !errors.Is(err, errGone) && ctx.Err() == nil {
				return m.fault(testbed.Broken, "power button", err)
			}
		}
		select {
		case <-r.done:
			if r.err != nil {
				return m.fault(testbed.Broken, "run", r.err)
			}
			return nil
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("machine %s: still on: %w", m.cfg.Name, context.Cause(ctx))
		}
	}
}

// Reset implements testbed.Resetter. It returns when the machine has started
// anew.
func (m *Machine) Reset(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	r := m.current()
	if !r.running() {
		return fmt.Errorf("machine %s: reset: it is off", m.cfg.Name)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not within %v", startLimit))
	defer cancel()
	before := r.process()
	if _, err := r.command(ctx, "system_reset"); err != nil && !errors.Is(err, errGone) {
		return m.fault(testbed.Silent, "reset", err)
	}
	select {
	case <-before.replaced:
		return nil
	case <-r.done:
		return m.fault(testbed.Broken, "reset", errors.Join(errors.New("the machine went off"), r.err))
	case <-ctx.Done():
		return m.fault(testbed.Unconfirmed, "reset", context.Cause(ctx))
	}
}

// Console implements testbed.Consoled. The text stays after Release.
func (m *Machine) Console() *testbed.Console { return &testbed.Console{Path: m.file(consoleName)} }

// OpenSerial implements testbed.Serial. Any number may be open; each stays so
// while the machine goes off and on, until Release.
func (m *Machine) OpenSerial(context.Context) (io.ReadWriteCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.released {
		return nil, m.errReleased()
	}
	return m.serial.connect(), nil
}

// CallAgent implements testbed.AgentCaller.
func (m *Machine) CallAgent(ctx context.Context, request []byte) ([]byte, error) {
	r := m.current()
	if !r.running() {
		return nil, fmt.Errorf("machine %s is off", m.cfg.Name)
	}
	return r.process().agent.CallAgent(ctx, request)
}

// Address implements testbed.Addressed: the address that was given, or that of
// SSHAddr.
func (m *Machine) Address(context.Context) (netip.Addr, error) {
	if m.cfg.IP.IsValid() {
		return m.cfg.IP, nil
	}
	for _, n := range m.cfg.NICs {
		if n.SSH {
			return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
		}
	}
	return netip.Addr{}, m.fault(testbed.Unsupported, "address", errors.New("its networks do not tell"))
}

// SSHAddr is where the machine's port 22 is reached, in the Network of its
// MachineConfig: port 22 of the address that was given, or the forwarded port,
// which is chosen at the first start and kept.
func (m *Machine) SSHAddr() (netip.AddrPort, error) {
	ip, err := m.Address(context.Background())
	if err != nil {
		return netip.AddrPort{}, err
	}
	if m.cfg.IP.IsValid() {
		return netip.AddrPortFrom(ip, 22), nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sshPort == 0 {
		return netip.AddrPort{}, fmt.Errorf("machine %s: its SSH port is chosen when it starts", m.cfg.Name)
	}
	return netip.AddrPortFrom(ip, uint16(m.sshPort)), nil
}

// MAC is the hardware address of the i-th network card.
func (m *Machine) MAC(i int) string { return m.cfg.NICs[i].MAC }

// Release implements testbed.Machine.
func (m *Machine) Release(context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	m.mu.Lock()
	released := m.released
	m.mu.Unlock()
	if released {
		return nil
	}
	if err := m.cut(); err != nil {
		return err
	}
	m.serial.end()
	m.mu.Lock()
	m.released = true
	m.mu.Unlock()
	if err := m.removeFiles(); err != nil {
		return fmt.Errorf("machine %s: %w", m.cfg.Name, err)
	}
	return nil
}
