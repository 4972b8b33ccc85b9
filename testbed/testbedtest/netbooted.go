package testbedtest

import (
	"context"
	"sync"

	"goldsmith/testbed"
)

// Netbooted is a [Fake] that starts from the network when it was told to, and
// plays what comes from there: a server without firmware, DHCP and a kernel.
type Netbooted struct {
	*Fake
	// Load is called when the machine has been started from the network. What it
	// returns is run until it ends or the power goes, whatever comes first, and
	// must then end soon; nil: nothing comes.
	Load func() func(ctx context.Context)

	mu   sync.Mutex // guards the fields below
	boot testbed.Boot
	stop context.CancelFunc
	done sync.WaitGroup
}

// NewNetbooted makes a machine that is off.
func NewNetbooted(ctx context.Context, s Spec, load func() func(context.Context)) (*Netbooted, error) {
	m, err := NewFake(ctx, s)
	if err != nil {
		return nil, err
	}
	return &Netbooted{Fake: m.(*Fake), Load: load}, nil
}

// SetBoot implements testbed.BootSelector.
func (m *Netbooted) SetBoot(_ context.Context, boot testbed.Boot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boot = boot
	return nil
}

// BootOrder implements testbed.BootSelector.
func (m *Netbooted) BootOrder(context.Context) (testbed.Boot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boot, nil
}

// PowerOn implements testbed.Machine. What was chosen to start from holds once.
func (m *Netbooted) PowerOn(ctx context.Context) error {
	if p, err := m.Power(ctx); err != nil || p == testbed.On {
		return err
	}
	if err := m.Fake.PowerOn(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.boot.Device != testbed.FromNetwork {
		return nil
	}
	m.boot = testbed.Boot{}
	run := m.Load()
	if run == nil {
		return nil
	}
	ctx, m.stop = context.WithCancel(context.Background())
	m.done.Go(func() { run(ctx) })
	return nil
}

// PowerOff implements testbed.Machine.
func (m *Netbooted) PowerOff(ctx context.Context) error {
	m.mu.Lock()
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
	m.mu.Unlock()
	m.done.Wait()
	return m.Fake.PowerOff(ctx)
}

// Shutdown implements testbed.Shutdowner.
func (m *Netbooted) Shutdown(ctx context.Context) error { return m.PowerOff(ctx) }
