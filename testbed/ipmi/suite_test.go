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
	testbedtest.Run(t, testbedtest.Driver{ShellDisk: testbedtest.FakeShellDisk, NewWith: func(ctx context.Context, spec testbedtest.Spec) (testbed.Machine, error) {
		s, err := newServer(ctx, spec)
		if err != nil {
			return nil, err
		}
		m, err := rehearse(ctx, s, spec.Dir)
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
	testbedtest.Run(t, testbedtest.Driver{NewWith: func(ctx context.Context, spec testbedtest.Spec) (testbed.Machine, error) {
		inner, err := guest(ctx, spec)
		if err != nil {
			return nil, err
		}
		m, err := rehearse(ctx, inner, spec.Dir)
		if err != nil {
			return nil, err
		}
		return m, nil
	}})
}

// guest is a QEMU machine.
func guest(ctx context.Context, spec testbedtest.Spec) (*qemu.Machine, error) {
	var disks []qemu.Disk
	for _, image := range spec.Disks {
		disks = append(disks, qemu.Disk{Image: image})
	}
	if spec.CD != "" {
		disks = append(disks, qemu.Disk{Image: spec.CD, CD: true})
	}
	return qemu.New(ctx, qemu.MachineConfig{Name: spec.Name, Dir: spec.Dir, Disks: disks, NICs: []qemu.NIC{{Boot: true}},
		Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 128, Accelerator: testbed.TCG})
}
