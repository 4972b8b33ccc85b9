package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Machine is one virtual machine, on or off.
type Machine struct {
	host *Host
	cfg  Config
	dom  golibvirt.Domain

	release sync.Mutex // held by Release; guards undo
	undo    []func() error

	lease lease
}

var _ interface {
	testbed.Machine
	testbed.Shutdowner
	testbed.OffWaiter
	testbed.Consoled
	testbed.Addressed
} = (*Machine)(nil)

// Define makes a machine, powered off. When it fails, or ctx ends meanwhile,
// nothing of it is left.
func (h *Host) Define(ctx context.Context, c Config) (*Machine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.Network == "" {
		c.Network = h.network
	}
	m := &Machine{host: h, cfg: c}
	if err := m.define(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("machine %s: %w", c.Name, err), m.undoAll())
	}
	return m, nil
}

// define makes the parts of a machine; each leaves its undo behind.
func (m *Machine) define(ctx context.Context) error {
	c := m.cfg
	if err := m.checkFree(); err != nil {
		return err
	}
	d := domain{Config: c, Domain: namePrefix + c.Name, Lock: m.host.owner.lockPath(), UID: os.Getuid(), GID: os.Getgid()}
	var err error
	if d.Code, d.Vars, err = c.Firmware.Files(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { return removeFiles(c.Dir) })
	if err := os.Remove(filepath.Join(c.Dir, consoleName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := testbed.CreateOverlay(ctx, d.Disk(), c.Image, c.ImageFormat, c.DiskSize); err != nil {
		return err
	}
	if err := m.takeLease(); err != nil {
		return err
	}
	d.MAC = m.lease.mac
	accel := c.Accelerator
	if accel == "" {
		accel = testbed.Accelerator(ctx)
	}
	d.KVM = accel == testbed.KVM
	desc, err := d.xml()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	defer m.host.limit().Stop()
	if m.dom, err = m.host.l.DomainDefineXMLFlags(desc, golibvirt.DomainDefineValidate); err != nil {
		return fmt.Errorf("define: %w", err)
	}
	m.undo = append(m.undo, func() error { return m.host.removeDomain(m.dom) })
	return context.Cause(ctx)
}

// checkFree fails when the name is taken by a machine whose owner lives. One
// whose owner is dead is removed.
func (m *Machine) checkFree() error {
	defer m.host.limit().Stop()
	name := namePrefix + m.cfg.Name
	dom, err := m.host.l.DomainLookupByName(name)
	if golibvirt.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	swept, err := m.host.sweepDomain(dom)
	if err == nil && !swept {
		err = command.Busy(fmt.Errorf("%s is there already", name), "choose another name, or 'virsh undefine --nvram "+name+"'")
	}
	return err
}

func (m *Machine) takeLease() error {
	h := m.host
	if h.addresses == nil || m.cfg.Network != h.network {
		m.lease.mac = testbed.HashedMAC(m.cfg.Name + m.cfg.Dir)
		return nil
	}
	n, err := h.addresses.take()
	if err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { h.addresses.give(n); return nil })
	m.lease = address(n)
	return nil
}

// removeFiles removes what a machine wrote into its directory, except the
// console's text, and the directory when it is then empty.
func removeFiles(dir string) error {
	var errs []error
	for _, name := range []string{diskName, nvramName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(dir) // fails when something of others, or the console, is in it
	return errors.Join(errs...)
}

// Name implements testbed.Machine.
func (m *Machine) Name() string { return m.cfg.Name }

// MAC is the hardware address of the machine's network card.
func (m *Machine) MAC() string { return m.lease.mac }

// Power implements testbed.Machine.
func (m *Machine) Power(context.Context) (testbed.Power, error) {
	defer m.host.limit().Stop()
	state, _, err := m.host.l.DomainGetState(m.dom, 0)
	if err != nil {
		return testbed.Unknown, fmt.Errorf("machine %s: %w", m.cfg.Name, err)
	}
	if isOff(state) {
		return testbed.Off, nil
	}
	return testbed.On, nil
}

// isOff: a machine that is shutting down, or crashed with its process still
// there, is not off.
func isOff(state int32) bool { return golibvirt.DomainState(state) == golibvirt.DomainShutoff }

// PowerOn implements testbed.Machine. A crashed machine starts anew.
func (m *Machine) PowerOn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	defer m.host.limit().Stop()
	err := m.host.l.DomainCreate(m.dom)
	if is(err, golibvirt.ErrOperationInvalid) { // it is on
		return nil
	}
	if err != nil {
		return fmt.Errorf("machine %s: power on: %w", m.cfg.Name, err)
	}
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), m.PowerOff(context.WithoutCancel(ctx)))
	}
	return nil
}

// PowerOff implements testbed.Machine.
func (m *Machine) PowerOff(context.Context) error {
	defer m.host.limit().Stop()
	err := m.host.l.DomainDestroyFlags(m.dom, golibvirt.DomainDestroyDefault)
	if err != nil && !is(err, golibvirt.ErrOperationInvalid) {
		return fmt.Errorf("machine %s: power off: %w", m.cfg.Name, err)
	}
	return nil
}

// WaitOff implements testbed.OffWaiter.
func (m *Machine) WaitOff(ctx context.Context) error { return m.waitOff(ctx, nil) }

// pressEvery is how often Shutdown presses the power button: a system that
// has not started yet does not notice the first time.
const pressEvery = 5 * time.Second

// Shutdown implements testbed.Shutdowner by the ACPI power button.
func (m *Machine) Shutdown(ctx context.Context) error {
	return m.waitOff(ctx, func() error {
		defer m.host.limit().Stop()
		err := m.host.l.DomainShutdownFlags(m.dom, golibvirt.DomainShutdownAcpiPowerBtn)
		if is(err, golibvirt.ErrOperationInvalid) { // it is off
			return nil
		}
		return err
	})
}

// waitOff waits for the event that the machine has stopped, and calls press,
// when it is not nil, now and every few seconds until then.
func (m *Machine) waitOff(ctx context.Context, press func() error) error {
	stopped, forget := m.host.watcher.stops(m.dom.Name)
	defer forget()
	tick := time.NewTicker(pressEvery)
	defer tick.Stop()
	for {
		// Asked after we began to listen, so that no stop goes unseen.
		if p, err := m.Power(ctx); err != nil || p == testbed.Off {
			return err
		}
		if press != nil {
			if err := press(); err != nil {
				return fmt.Errorf("machine %s: power button: %w", m.cfg.Name, err)
			}
		}
		select {
		case <-stopped:
			return nil
		case <-tick.C:
		case <-m.host.watcher.gone:
			return fmt.Errorf("machine %s: libvirtd closed the connection", m.cfg.Name)
		case <-ctx.Done():
			return fmt.Errorf("machine %s: still on: %w", m.cfg.Name, context.Cause(ctx))
		}
	}
}

// Console implements testbed.Consoled. The text stays after Release.
func (m *Machine) Console() *testbed.Console {
	return &testbed.Console{Path: filepath.Join(m.cfg.Dir, consoleName)}
}

// Address implements testbed.Addressed. In a bed the address is known before
// the machine starts.
func (m *Machine) Address(ctx context.Context) (netip.Addr, error) {
	if m.lease.ip.IsValid() {
		return m.lease.ip, nil
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := m.host.l.DomainInterfaceAddresses(m.dom, uint32(golibvirt.DomainInterfaceAddressesSrcLease), 0)
		if err != nil && !is(err, golibvirt.ErrOperationInvalid) {
			return netip.Addr{}, fmt.Errorf("machine %s: address: %w", m.cfg.Name, err)
		}
		for _, i := range list {
			for _, a := range i.Addrs {
				if ip, err := netip.ParseAddr(a.Addr); err == nil {
					return ip, nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return netip.Addr{}, fmt.Errorf("machine %s: it has no address: %w", m.cfg.Name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Release implements testbed.Machine.
func (m *Machine) Release(context.Context) error {
	if err := m.undoAll(); err != nil {
		return fmt.Errorf("machine %s: %w", m.cfg.Name, err)
	}
	return nil
}

// undoAll undoes what was done, in reverse. What fails is tried again by the
// next call.
func (m *Machine) undoAll() error {
	m.release.Lock()
	defer m.release.Unlock()
	var errs []error
	var left []func() error
	for _, f := range slices.Backward(m.undo) {
		if err := f(); err != nil {
			errs = append(errs, err)
			left = append(left, f)
		}
	}
	slices.Reverse(left)
	m.undo = left
	return errors.Join(errs...)
}
