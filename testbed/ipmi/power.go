package ipmi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"

	"goldsmith/testbed"
)

// Intervals of asking.
const (
	pollPower = 200 * time.Millisecond // after a command
	pollOff   = 500 * time.Millisecond // for a machine that switches itself off, some time
	pressPace = 10 * time.Second       // the power button is pressed again
)

// tolerated is how many questions in a row may fail while we wait for something
// that may take hours: BMCs restart.
const tolerated = 5

// Power implements testbed.Machine.
func (m *Machine) Power(ctx context.Context) (testbed.Power, error) {
	return m.power(ctx, "ask for power")
}

func (m *Machine) power(ctx context.Context, doing string) (testbed.Power, error) {
	p := testbed.Unknown
	err := m.do(ctx, doing, func(ctx context.Context, c *client.Client) error {
		s, err := c.GetChassisStatus(ctx)
		if err != nil {
			return err
		}
		if p = testbed.Off; s.PowerIsOn {
			p = testbed.On
		}
		return nil
	})
	if err != nil {
		return testbed.Unknown, err
	}
	return p, nil
}

func (m *Machine) control(ctx context.Context, doing string, c chassis.ChassisControl) error {
	return m.do(ctx, doing, func(ctx context.Context, cl *client.Client) error {
		_, err := cl.ChassisControl(ctx, c)
		return err
	})
}

// brief is how long after power on a machine that has printed something and is
// off counts as one that switched itself off.
const brief = time.Second

// PowerOn implements testbed.Machine: the BMC has said on, or says off about a
// machine that has printed something since, and so has switched itself off.
func (m *Machine) PowerOn(ctx context.Context) error {
	const doing = "power on"
	p, err := m.power(ctx, doing)
	if err != nil || p == testbed.On {
		return err
	}
	begin, printed := time.Now(), m.console.printed()
	if err := m.control(ctx, doing, chassis.ChassisControlPowerUp); err != nil {
		return err
	}
	for {
		p, err := m.power(ctx, doing)
		waited := time.Since(begin)
		if err != nil || p == testbed.On || waited > brief && m.console.printed() != printed {
			return err
		}
		if waited > m.quirks.OnWait {
			return m.fault(testbed.Unconfirmed, doing, fmt.Errorf("the BMC took the command and still says off after %v", m.quirks.OnWait))
		}
		if !pause(ctx, pollPower) {
			return m.unfinished(ctx, doing, "the BMC still says off")
		}
	}
}

// unfinished is the error of a wait that the caller ended.
func (m *Machine) unfinished(ctx context.Context, doing, why string) error {
	err := fmt.Errorf("%s: %w", why, context.Cause(ctx))
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("machine %s: %s: %w", m.name, doing, err)
	}
	return m.fault(testbed.Unconfirmed, doing, err)
}

// PowerOff implements testbed.Machine: the BMC has said off twice, with a pause
// between in which the console was silent. Where it takes the command and does
// nothing, the command is given three times.
func (m *Machine) PowerOff(ctx context.Context) error {
	const doing = "power off"
	begin := time.Now()
	doubt := "the BMC took the command and still says on"
	for given := 0; ; {
		off, why, err := m.offTwice(ctx, doing)
		if err != nil || off {
			return err
		}
		if why != "" {
			doubt = why
		}
		waited := time.Since(begin)
		switch {
		case waited > m.quirks.OffWait:
			return m.fault(testbed.Unconfirmed, doing, fmt.Errorf("%s, after %v", doubt, m.quirks.OffWait))
		case waited >= m.quirks.OffWait*time.Duration(given)/3:
			given++
			err := m.control(ctx, doing, chassis.ChassisControlPowerDown)
			// "Not in this state": it may be off by now.
			if err != nil && kindOf(err) != testbed.Unsupported || err != nil && given == 3 {
				return err
			}
		default:
			if !pause(ctx, pollPower) {
				return m.unfinished(ctx, doing, doubt)
			}
		}
	}
}

// offTwice asks, and when the answer is off, asks again after the settling
// time. why says what contradicts a first off.
func (m *Machine) offTwice(ctx context.Context, doing string) (off bool, why string, err error) {
	p, err := m.power(ctx, doing)
	if err != nil || p == testbed.On {
		return false, "", err
	}
	half := m.quirks.Settle / 2
	if !pause(ctx, half) { // what was under way on the console arrives
		return false, "", m.unfinished(ctx, doing, "the BMC said off once")
	}
	printed := m.console.printed()
	if !pause(ctx, half) {
		return false, "", m.unfinished(ctx, doing, "the BMC said off once")
	}
	p, err = m.power(ctx, doing)
	switch {
	case err != nil:
		return false, "", err
	case p == testbed.On:
		return false, "the BMC said off and then on again", nil
	case m.console.printed() != printed:
		return false, "the BMC says off, but the machine's console goes on printing", nil
	}
	return true, "", nil
}

// WaitOff implements testbed.OffWaiter.
func (m *Machine) WaitOff(ctx context.Context) error {
	return m.waitOff(ctx, "wait until it is off", nil)
}

// waitOff asks until the machine is off, and calls nudge at times.
func (m *Machine) waitOff(ctx context.Context, doing string, nudge func() error) error {
	pressed := time.Now()
	for failed := 0; ; {
		off, why, err := m.offTwice(ctx, doing)
		switch {
		case ctx.Err() != nil:
			return m.unfinished(ctx, doing, "it is still on")
		case err != nil:
			if failed++; failed > tolerated || kindOf(err) != testbed.Silent {
				return err
			}
		case off:
			return nil
		default:
			failed = 0
		}
		if why == "" && nudge != nil && time.Since(pressed) > pressPace {
			pressed = time.Now()
			if err := nudge(); err != nil && kindOf(err) != testbed.Silent {
				return err
			}
		}
		if !pause(ctx, pollOff) {
			return m.unfinished(ctx, doing, "it is still on")
		}
	}
}

// Shutdown implements testbed.Shutdowner: it presses the power button, and
// again every ten seconds.
func (m *Machine) Shutdown(ctx context.Context) error {
	const doing = "shut down"
	p, err := m.power(ctx, doing)
	if err != nil || p == testbed.Off {
		return err
	}
	if m.quirks.NoShutdown {
		return m.fault(testbed.Unsupported, doing, errors.New("this BMC cannot press the power button"))
	}
	press := func() error { return m.control(ctx, doing, chassis.ChassisControlSoftShutdown) }
	if err := press(); err != nil {
		return err
	}
	return m.waitOff(ctx, doing, press)
}

// Reset implements testbed.Resetter.
func (m *Machine) Reset(ctx context.Context) error {
	const doing = "reset"
	p, err := m.power(ctx, doing)
	if err != nil {
		return err
	}
	if p == testbed.Off {
		return fmt.Errorf("machine %s: reset: it is off", m.name)
	}
	return m.once(ctx, doing, func(ctx context.Context, c *client.Client) error {
		_, err := c.ChassisControl(ctx, chassis.ChassisControlHardReset)
		return err
	})
}

// Cycle is PowerOff and PowerOn. A machine that is off is switched on.
func (m *Machine) Cycle(ctx context.Context) error {
	if err := m.PowerOff(ctx); err != nil {
		return err
	}
	return m.PowerOn(ctx)
}
