package libvirt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Machine is one virtual machine, on or off.
type Machine struct {
	control
	cfg   Config
	lease lease
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

// Define makes a machine, powered off. When it fails, or ctx ends meanwhile,
// nothing of it is left.
func (h *Host) Define(ctx context.Context, c Config) (*Machine, error) {
	c.Network = cmp.Or(c.Network, h.network)
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Machine{control: control{host: h, name: c.Name}, cfg: c}
	if err := m.define(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("machine %s: %w", c.Name, err), m.undoAll())
	}
	m.watchResets()
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
	d.All = c.disks(d.Domain)
	for _, k := range d.All {
		if k.Own && c.Pool == "" {
			if err := testbed.CreateOverlay(ctx, k.Source, k.Image, k.Format, k.Size); err != nil {
				return err
			}
		}
	}
	if err := m.takeLease(); err != nil {
		return err
	}
	accel := c.Accelerator
	if accel == "" {
		accel = testbed.Accelerator(ctx)
	}
	d.KVM = accel == testbed.KVM
	if err := m.defineXML(ctx, d); err != nil || c.Pool == "" {
		return err
	}
	// The domain is there before its volumes are, so that they are found by it
	// when we are killed.
	m.undo = append(m.undo, func() error {
		return errors.Join(m.host.stop(m.dom), m.host.removeVolumes(d.Domain, c.Pool))
	})
	return m.host.upload(ctx, c.Pool, d.All)
}

func (m *Machine) defineXML(ctx context.Context, d domain) error {
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

// takeLease gives the network cards their addresses. The machine's own is that
// of the first card in the bed's network.
func (m *Machine) takeLease() error {
	h := m.host
	for i := range m.cfg.NICs {
		n := &m.cfg.NICs[i]
		switch {
		case n.MAC != "":
		case h.addresses == nil || n.Network != h.network:
			n.MAC = testbed.HashedMAC(fmt.Sprint(m.cfg.Name, m.cfg.Dir, i))
		default:
			number, err := h.addresses.take()
			if err != nil {
				return err
			}
			m.undo = append(m.undo, func() error { h.addresses.give(number); return nil })
			l := address(number)
			n.MAC = l.mac
			if !m.lease.ip.IsValid() {
				m.lease = l
			}
		}
	}
	if len(m.cfg.NICs) > 0 {
		m.lease.mac = cmp.Or(m.lease.mac, m.cfg.NICs[0].MAC)
	}
	return nil
}

// removeFiles removes what a machine wrote into its directory, except the
// console's text, and the directory when it is then empty.
func removeFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var names []string
	for _, e := range entries {
		if ownFile.MatchString(e.Name()) {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	var errs []error
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(dir) // fails when something of others, or the console, is in it
	return errors.Join(errs...)
}

// MAC is the hardware address of the machine's network card; "" where it has
// none.
func (m *Machine) MAC() string { return m.lease.mac }

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
	if len(m.cfg.NICs) == 0 {
		return netip.Addr{}, m.fault(testbed.Unsupported, "address", errors.New("it has no network card"))
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
