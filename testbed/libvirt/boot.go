package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"goldsmith/testbed"
)

// booting is what a machine was told to start from.
type booting struct {
	mu    sync.Mutex // held while the domain is changed; guards the fields below
	plain []bootable // as it was before; nil until we asked
	set   testbed.Boot
	// happened says that the start has been for which set was, and that it is
	// still to be taken back.
	happened bool
	reset    chan struct{} // closed and made anew at every reset
	settled  chan struct{} // closed when the last reset is settled; nil before the first
}

// settle is how long after a reset another one belongs to it: SeaBIOS answers
// a reset with a second one, so that the order that holds at the first must
// still hold at the second.
const settle = time.Second

// SetBoot implements testbed.BootSelector: disks, CDs and network cards that
// the machine has and that have a boot ROM. The domain is defined anew with
// that order; in a running QEMU the order is changed for its next reset. A
// choice for one start is taken back by this process, at that start: when it is
// killed before, the choice stays.
func (m *control) SetBoot(ctx context.Context, b testbed.Boot) error {
	if err := m.awaitSettled(ctx); err != nil {
		return err
	}
	m.booting.mu.Lock()
	defer m.booting.mu.Unlock()
	defer m.host.limit().Stop()
	if b.Device == "" {
		b = testbed.Boot{}
	}
	desc, err := m.host.l.DomainGetXMLDesc(m.dom, golibvirt.DomainXMLInactive)
	if err != nil {
		return fmt.Errorf("machine %s: boot device: %w", m.name, err)
	}
	l, err := readLayout(desc)
	if err != nil {
		return m.fault(testbed.Broken, "boot device", err)
	}
	if b.Device != "" && !l.has(b.Device) {
		return m.fault(testbed.Unsupported, "boot device", fmt.Errorf("it cannot start from %q", string(b.Device)))
	}
	if f := firmwareOf(desc); b.Firmware != "" && b.Firmware != f {
		return m.fault(testbed.Unsupported, "boot device", fmt.Errorf("its firmware is %s, not %s", f, b.Firmware))
	}
	if m.booting.plain == nil {
		m.booting.plain = l.Devices
	}
	if err := m.apply(desc, l, b.Device); err != nil {
		return fmt.Errorf("machine %s: boot device: %w", m.name, err)
	}
	m.booting.set, m.booting.happened = b, false
	return nil
}

// awaitSettled waits until a reset that has just been is settled.
func (m *control) awaitSettled(ctx context.Context) error {
	m.booting.mu.Lock()
	settled := m.booting.settled
	m.booting.mu.Unlock()
	if settled == nil {
		return nil
	}
	select {
	case <-settled:
	case <-m.host.watcher.gone:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// BootOrder implements testbed.BootSelector.
func (m *control) BootOrder(context.Context) (testbed.Boot, error) {
	m.booting.mu.Lock()
	defer m.booting.mu.Unlock()
	if m.booting.happened {
		return testbed.Boot{}, nil
	}
	return m.booting.set, nil
}

// started takes a choice for one start back.
func (m *control) started() error {
	m.booting.mu.Lock()
	defer m.booting.mu.Unlock()
	if !m.booting.set.Once {
		return nil
	}
	defer m.host.limit().Stop()
	desc, err := m.host.l.DomainGetXMLDesc(m.dom, golibvirt.DomainXMLInactive)
	if err != nil {
		return err
	}
	l, err := readLayout(desc)
	if err == nil {
		err = m.apply(desc, l, "")
	}
	if err == nil {
		m.booting.set, m.booting.happened = testbed.Boot{}, false
	}
	return err
}

// apply defines the domain anew, with the kind first, and changes the running
// one. booting.mu is held.
func (m *control) apply(desc string, l layout, kind testbed.Device) error {
	places := orders(m.booting.plain, kind)
	if _, err := m.host.l.DomainDefineXMLFlags(l.rewrite(desc, places), 0); err != nil {
		return err
	}
	state, _, err := m.host.l.DomainGetState(m.dom, 0)
	if err != nil || isOff(state) {
		return err
	}
	live, err := m.host.l.DomainGetXMLDesc(m.dom, 0)
	if err != nil {
		return err
	}
	running, err := readLayout(live)
	if err != nil {
		return err
	}
	// QEMU wants no place taken twice: all are taken away first. -1 is none.
	for _, b := range running.Devices {
		if err := m.place(b, -1); err != nil {
			return err
		}
	}
	for _, b := range running.Devices {
		if n := places[b.Key]; n > 0 {
			if err := m.place(b, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// place sets a device's place in a running QEMU, which tells its firmware at
// the next reset. libvirt's own call for it is younger than Debian 12's.
func (m *control) place(b bootable, n int) error {
	if b.Alias == "" {
		return nil
	}
	command, err := json.Marshal(map[string]any{"execute": "qom-set", "arguments": map[string]any{
		"path": "/machine/peripheral/" + b.Alias, "property": "bootindex", "value": n}})
	if err != nil {
		return err
	}
	answer, err := m.host.l.QEMUDomainMonitorCommand(m.dom, string(command), 0)
	if is(err, golibvirt.ErrOperationInvalid) { // it went off meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	var a struct {
		Error *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(answer), &a); err != nil {
		return err
	}
	if a.Error != nil {
		return fmt.Errorf("place of %s: %s", b.Key, a.Error.Desc)
	}
	return nil
}

// resetLimit bounds the time until a reset is confirmed.
const resetLimit = 15 * time.Second

// Reset implements testbed.Resetter.
func (m *control) Reset(ctx context.Context) error {
	if p, err := m.Power(ctx); err != nil || p == testbed.Off {
		return errors.Join(err, fmt.Errorf("machine %s: reset: it is off", m.name))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, resetLimit, fmt.Errorf("not within %v", resetLimit))
	defer cancel()
	if err := m.awaitSettled(ctx); err != nil {
		return m.fault(testbed.Unconfirmed, "reset", err)
	}
	m.booting.mu.Lock()
	reset := m.booting.reset
	m.booting.mu.Unlock()
	limit := m.host.limit()
	err := m.host.l.DomainReset(m.dom, 0)
	limit.Stop()
	if err != nil {
		return fmt.Errorf("machine %s: reset: %w", m.name, err)
	}
	select {
	case <-reset:
		return nil
	case <-m.host.watcher.gone:
		return m.fault(testbed.Silent, "reset", errClosed)
	case <-ctx.Done():
		return m.fault(testbed.Unconfirmed, "reset", context.Cause(ctx))
	}
}

var errClosed = errors.New("libvirtd closed the connection")

// watchResets takes choices for one start back when the machine was reset, by
// us or by itself, until the machine is released.
func (m *control) watchResets() {
	resets, forget := m.host.watcher.resets(m.dom.Name)
	m.booting.reset = make(chan struct{})
	end, ended := make(chan struct{}), make(chan struct{})
	m.endWatch = sync.OnceFunc(func() {
		close(end)
		<-ended
		forget()
	})
	go func() {
		defer close(ended)
		var settled <-chan time.Time
		for {
			select {
			case <-resets:
				if m.wasReset() {
					settled = time.After(settle)
				}
			case <-settled:
				settled = nil
				m.settle()
			case <-end:
				return
			case <-m.host.watcher.gone:
				return
			}
		}
	}()
}

// wasReset notes a reset, and tells whether it is the first of some that
// belong together.
func (m *control) wasReset() bool {
	b := &m.booting
	b.mu.Lock()
	defer b.mu.Unlock()
	b.happened = b.happened || b.set.Once
	close(b.reset)
	b.reset = make(chan struct{})
	if b.settled != nil {
		select {
		case <-b.settled:
		default:
			return false
		}
	}
	b.settled = make(chan struct{})
	return true
}

// settle takes back what was for the start that has been.
func (m *control) settle() {
	m.booting.mu.Lock()
	happened := m.booting.happened
	m.booting.mu.Unlock()
	if happened {
		// Where it fails it is taken back at the next power-on.
		_ = m.started()
	}
	m.booting.mu.Lock()
	close(m.booting.settled)
	m.booting.mu.Unlock()
}
