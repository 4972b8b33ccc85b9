package ipmi

import (
	"context"
	"errors"
	"flag"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
	"goldsmith/testbed/vbmc"
)

// TestMain runs more tests at a time than there are processors: they wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// quick makes waits short enough for tests.
func quick(q *Quirks) {
	q.CipherSuites = []int{17, 3}
	q.RequestWait = 3 * time.Second
	q.Settle = 100 * time.Millisecond
	q.SOLPause = 300 * time.Millisecond
}

// server is the fake machine as a BMC sees one: it stays on for a moment after
// it was switched on, even if its guest switches off at once.
type server struct {
	*testbedtest.Fake

	mu   sync.Mutex // guards till
	till time.Time  // on at least until then
}

// moment is longer than a client needs to ask.
const moment = 300 * time.Millisecond

func newServer(ctx context.Context, spec testbedtest.Spec) (*server, error) {
	m, err := testbedtest.NewFake(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &server{Fake: m.(*testbedtest.Fake)}, nil
}

func (s *server) Power(ctx context.Context) (testbed.Power, error) {
	p, err := s.Fake.Power(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == testbed.Off && time.Now().Before(s.till) {
		p = testbed.On
	}
	return p, err
}

func (s *server) PowerOn(ctx context.Context) error {
	p, err := s.Power(ctx)
	if err != nil || p == testbed.On {
		return err
	}
	s.mu.Lock()
	s.till = time.Now().Add(moment)
	s.mu.Unlock()
	return s.Fake.PowerOn(ctx)
}

func (s *server) PowerOff(ctx context.Context) error {
	s.mu.Lock()
	s.till = time.Time{}
	s.mu.Unlock()
	return s.Fake.PowerOff(ctx)
}

func (s *server) Shutdown(ctx context.Context) error { return s.PowerOff(ctx) }

// bootable is a server that takes every device and firmware.
type bootable struct {
	*server
	boot *testbed.Boot
}

func (b bootable) SetBoot(_ context.Context, boot testbed.Boot) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	*b.boot = boot
	return nil
}

func (b bootable) BootOrder(context.Context) (testbed.Boot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.boot, nil
}

func (b bootable) PowerOn(ctx context.Context) error {
	b.mu.Lock()
	if b.boot.Once {
		*b.boot = testbed.Boot{}
	}
	b.mu.Unlock()
	return b.server.PowerOn(ctx)
}

// rehearsed is a machine behind our own BMC, as Open sees it, that takes both
// along when it is released.
type rehearsed struct {
	*Machine
	inner testbed.Machine
	bmc   *vbmc.BMC
}

func (r *rehearsed) Release(ctx context.Context) error {
	return errors.Join(r.Machine.Release(ctx), r.bmc.Close(), r.inner.Release(ctx))
}

const (
	user     = "admin"
	password = "secret, long enough"
)

// rehearse puts a BMC before a machine and opens it.
func rehearse(ctx context.Context, inner testbed.Machine, dir string) (*rehearsed, error) {
	b, err := vbmc.Start(ctx, vbmc.Config{Machine: inner, Delay: 2 * moment,
		Users: []vbmc.User{{Name: user, Password: password}, {Name: "oper", Password: "also", Operator: true}}})
	if err != nil {
		return nil, err
	}
	m, err := Open(ctx, Config{Name: inner.Name(), Addr: b.Addr(), User: user, Password: password,
		Console: filepath.Join(dir, "sol.log"), Adjust: quick})
	if err != nil {
		return nil, errors.Join(err, b.Close(), inner.Release(context.Background()))
	}
	return &rehearsed{m, inner, b}, nil
}
