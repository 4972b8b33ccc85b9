package ipmi

import (
	"context"
	"testing"

	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/qemu"
	"goldsmith/testbed/testbedtest"
)

// TestFake holds the driver to the suite with our BMC before a machine in
// memory.
func TestFake(t *testing.T) {
	t.Parallel()
	testbedtest.Run(t, testbedtest.Driver{New: func(ctx context.Context, name, dir, image string) (testbed.Machine, error) {
		s, err := newServer(ctx, name, dir, image)
		if err != nil {
			return nil, err
		}
		m, err := rehearse(ctx, s, dir)
		if err != nil {
			return nil, err
		}
		return m, nil
	}})
}

// TestQEMU does so with a real guest.
func TestQEMU(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "qemu-system-x86_64", "qemu-img")
	testbedtest.Run(t, testbedtest.Driver{New: func(ctx context.Context, name, dir, image string) (testbed.Machine, error) {
		inner, err := qemu.New(ctx, qemu.MachineConfig{Name: name, Dir: dir, Disks: []qemu.Disk{{Image: image}},
			Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 128, Accelerator: testbed.TCG})
		if err != nil {
			return nil, err
		}
		m, err := rehearse(ctx, inner, dir)
		if err != nil {
			return nil, err
		}
		return m, nil
	}})
}
