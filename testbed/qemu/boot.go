package qemu

import (
	"context"
	"fmt"
	"slices"

	"goldsmith/testbed"
)

// SetBoot implements testbed.BootSelector: disks, CDs and network cards that
// the machine has, in the firmware that it has. What is chosen comes first;
// the others follow, where it does not start.
func (m *Machine) SetBoot(_ context.Context, b testbed.Boot) error {
	if b.Firmware != "" && b.Firmware != m.cfg.Firmware {
		return m.fault(testbed.Unsupported, "boot device", fmt.Errorf("its firmware is %s, not %s", m.cfg.Firmware, b.Firmware))
	}
	if b.Device == "" {
		b = testbed.Boot{}
	} else if !slices.Contains(m.cfg.bootDevices(), b.Device) {
		return m.fault(testbed.Unsupported, "boot device", fmt.Errorf("it cannot start from %q", string(b.Device)))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boot = b
	m.told++
	return nil
}

// bootDevices are what the machine can start from.
func (c MachineConfig) bootDevices() []testbed.Device {
	var all []testbed.Device
	for _, d := range c.Disks {
		switch {
		case d.CD:
			all = append(all, testbed.FromCD)
		case !d.ReadOnly:
			all = append(all, testbed.FromDisk)
		}
	}
	for _, n := range c.NICs {
		if n.Boot {
			all = append(all, testbed.FromNetwork)
		}
	}
	return all
}

// BootOrder implements testbed.BootSelector.
func (m *Machine) BootOrder(context.Context) (testbed.Boot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boot, nil
}

// bootNow returns what the next start is from, and what must be called when it
// has happened.
func (m *Machine) bootNow() (first testbed.Device, started func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	told := m.told
	return m.boot.Device, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.boot.Once && m.told == told {
			m.boot = testbed.Boot{}
		}
	}
}
