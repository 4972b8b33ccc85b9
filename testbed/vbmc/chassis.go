package vbmc

import (
	"context"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/types"

	"goldsmith/testbed"
)

// hardware is the machine as go-ipmi wants it.
type hardware struct {
	chassis *chassis
	sensors *store
	console hal.ConsoleHAL
}

func (h *hardware) Chassis() hal.ChassisHAL { return h.chassis }
func (h *hardware) Sensors() hal.SensorHAL  { return nil }
func (h *hardware) Storage() hal.StorageHAL { return h.sensors }
func (h *hardware) Network() hal.NetworkHAL { return nil }
func (h *hardware) GPIO() hal.GPIOHAL       { return nil }
func (h *hardware) I2C() hal.I2CHAL         { return nil }
func (h *hardware) Console() hal.ConsoleHAL { return h.console }
func (h *hardware) Close() error            { return nil }

// chassis is power and boot flags. It implements hal.ChassisHAL.
type chassis struct {
	machine testbed.Machine
	faults  *faults
	ctx     context.Context // ends with the BMC
	delay   time.Duration
	tasks   *tasks

	mu    sync.Mutex    // guards the fields below
	last  chan struct{} // closed when what was to be done last is done; nil: nothing ever was
	flags types.BootOptionParam_BootFlags
	ack   types.BootOptionParam_BootInfoAcknowledge
	late  bool      // an early off has not happened yet
	told  time.Time // when it was told to go off; zero when told on since
}

var _ hal.ChassisHAL = (*chassis)(nil)

// How long things may take.
const (
	patience   = 700 * time.Millisecond // before the answer, which clients wait for
	actLimit   = 30 * time.Second       // on the machine
	pressLimit = 5 * time.Minute        // for a machine to shut down
)

// act does something to the machine, one after the other as it was told. What
// takes longer than a client waits goes on after the answer, as in real BMCs, and
// also when the BMC ends: who was told "on" finds the machine on.
func (c *chassis) act(f func(context.Context) error) error {
	done, mine := make(chan error, 1), make(chan struct{})
	c.mu.Lock()
	before := c.last
	c.last = mine
	c.mu.Unlock()
	c.tasks.Go(func() {
		defer close(mine)
		if before != nil {
			<-before
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), actLimit)
		defer cancel()
		done <- f(ctx)
	})
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-done:
		return code(err)
	case <-t.C:
		return nil
	}
}

// code gives an error of the machine a completion code.
func code(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(types.CompletionCode); ok {
		return err
	}
	return types.CodeUnspecifiedError
}

// PowerState implements hal.ChassisHAL.
func (c *chassis) PowerState(ctx context.Context) (bool, error) {
	p, err := c.machine.Power(ctx)
	if err != nil {
		return false, code(err)
	}
	on := p == testbed.On
	c.mu.Lock()
	told := c.told
	c.mu.Unlock()
	switch {
	case told.IsZero():
	case c.faults.on(FalseOff), c.faults.on(EarlyOff) && time.Since(told) < c.delay/2:
		on = false
	}
	return on, nil
}

// SetPower implements hal.ChassisHAL.
func (c *chassis) SetPower(_ context.Context, on bool) error {
	c.mu.Lock()
	again := c.late
	switch {
	case on:
		c.told = time.Time{}
	case !again:
		c.told, c.late = time.Now(), c.faults.on(EarlyOff)
	}
	c.mu.Unlock()
	switch {
	case on:
		return c.act(c.machine.PowerOn)
	case c.faults.on(IgnoreOff), c.faults.on(FalseOff):
		return nil
	case c.faults.on(EarlyOff) && again:
		return nil
	case c.faults.on(EarlyOff):
		c.tasks.Go(func() {
			t := time.NewTimer(c.delay)
			defer t.Stop()
			select {
			case <-t.C:
				_ = c.act(c.machine.PowerOff)
			case <-c.ctx.Done():
			}
			c.mu.Lock()
			c.late = false
			c.mu.Unlock()
		})
		return nil
	}
	return c.act(c.machine.PowerOff)
}

// whileOn refuses what a machine that is off cannot do.
func (c *chassis) whileOn(f func(context.Context) error) error {
	return c.act(func(ctx context.Context) error {
		p, err := c.machine.Power(ctx)
		if err != nil {
			return err
		}
		if p != testbed.On {
			return types.CodeNotSupported
		}
		return f(ctx)
	})
}

// PowerCycle implements hal.ChassisHAL.
func (c *chassis) PowerCycle(context.Context) error {
	return c.whileOn(func(ctx context.Context) error {
		if err := c.machine.PowerOff(ctx); err != nil {
			return err
		}
		return c.machine.PowerOn(ctx)
	})
}

// ColdReset implements hal.ChassisHAL: the reset button.
func (c *chassis) ColdReset(ctx context.Context) error {
	r, ok := c.machine.(testbed.Resetter)
	if !ok {
		return c.PowerCycle(ctx)
	}
	return c.whileOn(r.Reset)
}

// WarmReset implements hal.ChassisHAL, which calls "soft shutdown" so: the
// power button. The machine takes its time.
func (c *chassis) WarmReset(context.Context) error {
	s, ok := c.machine.(testbed.Shutdowner)
	if !ok {
		return types.CodeRequestDataFieldInvalid
	}
	return c.whileOn(func(context.Context) error {
		c.tasks.Go(func() {
			ctx, cancel := context.WithTimeout(c.ctx, pressLimit)
			defer cancel()
			_ = s.Shutdown(ctx)
		})
		return nil
	})
}

// Identify implements hal.ChassisHAL: there is no light to switch on.
func (c *chassis) Identify(context.Context, uint8) error { return nil }

// IntrusionState implements hal.ChassisHAL.
func (c *chassis) IntrusionState(context.Context) (bool, error) { return false, hal.ErrNotSupported }

// SetBootFlags implements hal.ChassisHAL. The machine is told at once, so that
// what it cannot do is an answer to this command.
func (c *chassis) SetBootFlags(ctx context.Context, f *types.BootOptionParam_BootFlags) error {
	s, ok := c.machine.(testbed.BootSelector)
	if !ok {
		return hal.ErrNotSupported
	}
	if c.faults.on(ForgetBoot) {
		return nil
	}
	boot, ok := bootOf(f)
	if !ok {
		return types.CodeParameterOutOfRange
	}
	if err := s.SetBoot(ctx, boot); err != nil {
		return hal.ErrNotSupported
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flags = *f
	return nil
}

// bootOf is what flags say in testbed's words. The legacy bit, which clients
// leave zero when they do not care, says nothing.
func bootOf(f *types.BootOptionParam_BootFlags) (testbed.Boot, bool) {
	b := testbed.Boot{Once: !f.Persist}
	if f.BIOSBootType == types.BIOSBootTypeEFI {
		b.Firmware = testbed.UEFI
	}
	switch f.BootDeviceSelector {
	case types.BootDeviceSelectorForcePXE:
		b.Device = testbed.FromNetwork
	case types.BootDeviceSelectorForceHardDrive:
		b.Device = testbed.FromDisk
	case types.BootDeviceSelectorForceCDROM:
		b.Device = testbed.FromCD
	case types.BootDeviceSelectorForceBIOSSetup:
		b.Device = testbed.FromSetup
	case types.BootDeviceSelectorNoOverride:
		return testbed.Boot{}, true
	default:
		return b, !f.BootFlagsValid
	}
	if !f.BootFlagsValid {
		return testbed.Boot{}, true
	}
	return b, true
}

// GetBootFlags implements hal.ChassisHAL. Flags for one start are gone when
// the machine has used them.
func (c *chassis) GetBootFlags(ctx context.Context) (*types.BootOptionParam_BootFlags, error) {
	s, ok := c.machine.(testbed.BootSelector)
	if !ok {
		return nil, hal.ErrNotSupported
	}
	order, err := s.BootOrder(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && order == (testbed.Boot{}) {
		c.flags = types.BootOptionParam_BootFlags{}
	}
	f := c.flags
	return &f, nil
}

// SetBootInfoAcknowledge implements hal.ChassisHAL: it is only kept.
func (c *chassis) SetBootInfoAcknowledge(_ context.Context, a *types.BootOptionParam_BootInfoAcknowledge) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ack = *a
	return nil
}

// GetBootInfoAcknowledge implements hal.ChassisHAL.
func (c *chassis) GetBootInfoAcknowledge(context.Context) (*types.BootOptionParam_BootInfoAcknowledge, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.ack
	return &a, nil
}
