package ipmi

import (
	"context"
	"errors"
	"fmt"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"goldsmith/testbed"
)

// bootFlags is parameter 5 of the boot options (IPMI 2.0, table 28-14).
type bootFlags = types.BootOptionParam_BootFlags

// SetBoot implements testbed.BootSelector. What was set is read back; when the
// BMC did not keep it, it is taken back and the error is a Fault of kind
// Unsupported.
func (m *Machine) SetBoot(ctx context.Context, b testbed.Boot) error {
	const doing = "set the boot device"
	f, err := m.flags(b)
	if err != nil {
		return m.fault(testbed.Unsupported, doing, err)
	}
	if err := m.writeFlags(ctx, doing, f); err != nil || m.quirks.Unreadable {
		return err
	}
	got, err := m.readFlags(ctx, doing)
	if err != nil {
		return err
	}
	if m.kept(f, got) {
		return nil
	}
	err = fmt.Errorf("the BMC took the boot flags and did not keep them: %s, not %s", describe(got), describe(f))
	return errors.Join(m.fault(testbed.Unsupported, doing, err), m.writeFlags(ctx, doing, &bootFlags{}))
}

// flags is what a BMC is told for b.
func (m *Machine) flags(b testbed.Boot) (*bootFlags, error) {
	if b.Device == "" {
		return &bootFlags{}, nil
	}
	if !b.Once && m.quirks.NoPersistent {
		return nil, errors.New("this BMC keeps a boot device for one start only")
	}
	firmware := b.Firmware
	if firmware == "" {
		firmware = m.firmware
	}
	uefi := firmware == testbed.UEFI
	if uefi && m.quirks.NoUEFI {
		if b.Firmware == testbed.UEFI {
			return nil, errors.New("this BMC drops the UEFI flag")
		}
		uefi = false
	}
	f := &bootFlags{BootFlagsValid: true, Persist: !b.Once, BIOSBootType: types.BIOSBootType(uefi)}
	switch b.Device {
	case testbed.FromDisk:
		f.BootDeviceSelector = types.BootDeviceSelectorForceHardDrive
		if uefi && m.quirks.UEFIDisk != 0 {
			f.BootDeviceSelector = types.BootDeviceSelector(m.quirks.UEFIDisk)
		}
	case testbed.FromNetwork:
		f.BootDeviceSelector = types.BootDeviceSelectorForcePXE
	case testbed.FromCD:
		f.BootDeviceSelector = types.BootDeviceSelectorForceCDROM
	case testbed.FromSetup:
		f.BootDeviceSelector = types.BootDeviceSelectorForceBIOSSetup
	default:
		return nil, fmt.Errorf("boot device %q: unknown", string(b.Device))
	}
	return f, nil
}

// writeFlags sets parameter 5. Parameters 0 (set in progress) and 3 are
// courtesies that many BMCs do not know.
func (m *Machine) writeFlags(ctx context.Context, doing string, f *bootFlags) error {
	return m.do(ctx, doing, func(ctx context.Context, c *client.Client) error {
		if m.quirks.KeepBootFlags && f.BootFlagsValid {
			_, err := c.SetSystemBootOptionsParam(ctx, &chassis.SetSystemBootOptionsParamRequest{
				ParamSelector: types.BootOptionParamSelector_BMCBootFlagValidBitClear,
				ParamData:     []byte{0x08}, // not after 60 s without a power command
			})
			if _, answered := types.IsResponseError(err); err != nil && !answered {
				return err
			}
		}
		return c.SetSystemBootOptionsParamFor(ctx, f)
	})
}

func (m *Machine) readFlags(ctx context.Context, doing string) (*bootFlags, error) {
	f := &bootFlags{}
	err := m.do(ctx, doing, func(ctx context.Context, c *client.Client) error {
		return c.GetSystemBootOptionsParamFor(ctx, f)
	})
	return f, err
}

// kept tells whether got is what was set, as far as this BMC can say.
func (m *Machine) kept(set, got *bootFlags) bool {
	if m.quirks.DeviceOnly || !set.BootFlagsValid {
		return got.BootDeviceSelector == set.BootDeviceSelector || !set.BootFlagsValid && !got.BootFlagsValid
	}
	return got.BootFlagsValid && got.BootDeviceSelector == set.BootDeviceSelector &&
		got.Persist == set.Persist && got.BIOSBootType == set.BIOSBootType
}

// BootOrder implements testbed.BootSelector. Firmware is set only where it is
// not Config.Firmware.
func (m *Machine) BootOrder(ctx context.Context) (testbed.Boot, error) {
	const doing = "ask for the boot device"
	if m.quirks.Unreadable {
		return testbed.Boot{}, m.fault(testbed.Unsupported, doing, errors.New("this BMC does not say"))
	}
	f, err := m.readFlags(ctx, doing)
	if err != nil || !f.BootFlagsValid && !m.quirks.DeviceOnly {
		return testbed.Boot{}, err
	}
	b := testbed.Boot{Once: !f.Persist}
	switch uefi := f.BIOSBootType == types.BIOSBootTypeEFI; {
	case uefi && m.firmware != testbed.UEFI:
		b.Firmware = testbed.UEFI
	case !uefi && m.firmware == testbed.UEFI && !m.quirks.DeviceOnly && !m.quirks.NoUEFI:
		b.Firmware = testbed.BIOS
	}
	switch f.BootDeviceSelector {
	case types.BootDeviceSelectorNoOverride:
		return testbed.Boot{}, nil
	case types.BootDeviceSelectorForcePXE:
		b.Device = testbed.FromNetwork
	case types.BootDeviceSelectorForceHardDrive, types.BootDeviceSelectorForceHardDriveSafe,
		types.BootDeviceSelector(m.quirks.UEFIDisk):
		b.Device = testbed.FromDisk
	case types.BootDeviceSelectorForceCDROM, types.BootDeviceSelectorForceRemoteCDROM:
		b.Device = testbed.FromCD
	case types.BootDeviceSelectorForceBIOSSetup:
		b.Device = testbed.FromSetup
	default:
		return testbed.Boot{}, m.fault(testbed.Unsupported, doing, fmt.Errorf("%s: not one that we set", describe(f)))
	}
	return b, nil
}

func describe(f *bootFlags) string {
	if !f.BootFlagsValid && f.BootDeviceSelector == 0 {
		return "nothing set"
	}
	s := fmt.Sprintf("device %d", f.BootDeviceSelector)
	for _, x := range []struct {
		is   bool
		text string
	}{{!f.BootFlagsValid, "not valid"}, {f.Persist, "for good"}, {!f.Persist, "once"},
		{f.BIOSBootType == types.BIOSBootTypeEFI, "UEFI"}} {
		if x.is {
			s += ", " + x.text
		}
	}
	return s
}
