package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"goldsmith/testbed"
)

// control is what can be done with any domain, ours or not.
type control struct {
	host *Host
	name string
	dom  golibvirt.Domain

	release sync.Mutex // held by Release; guards undo
	undo    []func() error

	booting  booting
	endWatch func() // ends watchResets

	serial sync.Mutex // guards opened
	opened bool       // the serial port is
}

func (m *control) fault(kind testbed.FaultKind, doing string, err error) error {
	return &testbed.Fault{Kind: kind, Machine: m.name, Doing: doing, Err: err}
}

// Name implements testbed.Machine.
func (m *control) Name() string { return m.name }

// Power implements testbed.Machine.
func (m *control) Power(context.Context) (testbed.Power, error) {
	defer m.host.limit().Stop()
	state, _, err := m.host.l.DomainGetState(m.dom, 0)
	if err != nil {
		return testbed.Unknown, fmt.Errorf("machine %s: %w", m.name, err)
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
func (m *control) PowerOn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	defer m.host.limit().Stop()
	err := m.host.l.DomainCreate(m.dom)
	if is(err, golibvirt.ErrOperationInvalid) { // it is on
		return nil
	}
	if err != nil {
		return fmt.Errorf("machine %s: power on: %w", m.name, err)
	}
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), m.PowerOff(context.WithoutCancel(ctx)))
	}
	if err := m.started(); err != nil {
		return fmt.Errorf("machine %s: take the boot device back: %w", m.name, err)
	}
	return nil
}

// PowerOff implements testbed.Machine.
func (m *control) PowerOff(context.Context) error {
	defer m.host.limit().Stop()
	err := m.host.l.DomainDestroyFlags(m.dom, golibvirt.DomainDestroyDefault)
	if err != nil && !is(err, golibvirt.ErrOperationInvalid) {
		return fmt.Errorf("machine %s: power off: %w", m.name, err)
	}
	return nil
}

// WaitOff implements testbed.OffWaiter.
func (m *control) WaitOff(ctx context.Context) error { return m.waitOff(ctx, nil) }

// pressEvery is how often Shutdown presses the power button: a system that
// has not started yet does not notice the first time.
const pressEvery = 5 * time.Second

// Shutdown implements testbed.Shutdowner by the ACPI power button.
func (m *control) Shutdown(ctx context.Context) error {
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
func (m *control) waitOff(ctx context.Context, press func() error) error {
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
				return fmt.Errorf("machine %s: power button: %w", m.name, err)
			}
		}
		select {
		case <-stopped:
			return nil
		case <-tick.C:
		case <-m.host.watcher.gone:
			return fmt.Errorf("machine %s: libvirtd closed the connection", m.name)
		case <-ctx.Done():
			return fmt.Errorf("machine %s: still on: %w", m.name, context.Cause(ctx))
		}
	}
}

// Release implements testbed.Machine.
func (m *control) Release(context.Context) error {
	m.endWatch()
	if err := m.undoAll(); err != nil {
		return fmt.Errorf("machine %s: %w", m.name, err)
	}
	return nil
}

// undoAll undoes what was done, in reverse. What fails is tried again by the
// next call.
func (m *control) undoAll() error {
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

// agentLimit is less than callLimit, after which the connection is closed.
const agentLimit = 45 * time.Second

// CallAgent implements testbed.AgentCaller. libvirtd itself sees to it that an
// answer is the one to its question.
func (m *control) CallAgent(ctx context.Context, request []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	wait := agentLimit
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline))
	}
	defer m.host.limit().Stop()
	seconds := max(1, int32(wait/time.Second))
	answer, err := m.host.l.QEMUDomainAgentCommand(m.dom, string(request), seconds, 0)
	if err != nil {
		return nil, err
	}
	if len(answer) == 0 {
		return nil, errors.New("libvirtd gives no answer")
	}
	return []byte(answer[0]), nil
}
