package metal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/testbedtest"
	"goldsmith/testbed/vbmc"
)

// A node that somebody has is a machine as any driver's.
func TestSuite(t *testing.T) {
	t.Parallel()
	testbedtest.Run(t, testbedtest.Driver{ShellDisk: testbedtest.FakeShellDisk, NewWith: func(ctx context.Context, spec testbedtest.Spec) (testbed.Machine, error) {
		r := newRig(t, 0)
		m, err := testbedtest.NewFake(ctx, spec)
		if err != nil {
			return nil, err
		}
		b, err := vbmc.Start(ctx, vbmc.Config{Machine: m, Network: r.lan, Delay: 600 * time.Millisecond, Users: []vbmc.User{{Name: user, Password: password}}})
		if err != nil {
			return nil, errors.Join(err, m.Release(ctx))
		}
		t.Cleanup(func() { _ = errors.Join(b.Close(), m.Release(context.Background())) })
		file := filepath.Join(r.dir, "inventory.yaml")
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		text = fmt.Appendf(text, "  - {name: %s, macs: ['52:54:00:00:00:01'], bmc: {driver: ipmi, address: '%s', user: %s, password-file: pw}}\n", spec.Name, b.Addr(), user)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, err
		}
		n, err := r.known(ctx, file, spec.Name)
		if err != nil && ctx.Err() != nil { // a database's error has no cause
			return nil, errors.Join(context.Cause(ctx), err)
		}
		if err != nil {
			return nil, err
		}
		return n, nil
	}})
}

// known has a node without an agent: its hardware is said to be known.
func (r *rig) known(ctx context.Context, file, name string) (*Node, error) {
	f, err := inventory.Load(file)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(r.v.Apply(ctx, f, "test"), r.v.Allow(ctx, name, "test"), r.keeper.Survey(ctx)); err != nil {
		return nil, err
	}
	l, err := r.v.Borrow(ctx, name, "test")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(r.v.SetHardware(ctx, l, []byte("{}")), r.v.End(ctx, l)); err != nil {
		return nil, err
	}
	return r.site.Acquire(ctx, inventory.Request{}, "test")
}
