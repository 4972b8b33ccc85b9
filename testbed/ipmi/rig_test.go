package ipmi

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
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
	if len(os.Args) > 1 && os.Args[1] == chassisVerb {
		os.Exit(chassisProgram(os.Args[2], os.Args[3:]))
	}
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
// it was switched on, and remembers what to start from.
type server struct {
	testbed.Machine // a testbedtest.Fake

	mu   sync.Mutex // guards the fields below
	till time.Time  // on at least until then
	boot testbed.Boot
}

// moment is longer than a client needs to ask.
const moment = 300 * time.Millisecond

func newServer(ctx context.Context, name, dir, image string) (*server, error) {
	m, err := testbedtest.NewFake(ctx, name, dir, image)
	return &server{Machine: m}, err
}

func (s *server) Power(ctx context.Context) (testbed.Power, error) {
	p, err := s.Machine.Power(ctx)
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
	s.used()
	s.mu.Unlock()
	return s.Machine.PowerOn(ctx)
}

func (s *server) PowerOff(ctx context.Context) error {
	s.mu.Lock()
	s.till = time.Time{}
	s.mu.Unlock()
	return s.Machine.PowerOff(ctx)
}

func (s *server) Shutdown(ctx context.Context) error { return s.PowerOff(ctx) }

// Reset prints again what the machine prints at a start.
func (s *server) Reset(ctx context.Context) error {
	return errors.Join(s.Machine.PowerOff(ctx), s.Machine.PowerOn(ctx))
}

// used forgets what is for one start only. mu is held.
func (s *server) used() {
	if s.boot.Once {
		s.boot = testbed.Boot{}
	}
}

func (s *server) SetBoot(_ context.Context, b testbed.Boot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boot = b
	return nil
}

func (s *server) BootOrder(context.Context) (testbed.Boot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boot, nil
}

// Console implements testbed.Consoled.
func (s *server) Console() *testbed.Console { return s.Machine.(testbed.Consoled).Console() }

// echoing is a server that prints what is typed.
type echoing struct{ *server }

func (e echoing) OpenSerial(context.Context) (io.ReadWriteCloser, error) {
	ours, theirs := net.Pipe()
	go func() {
		_, _ = io.Copy(theirs, theirs)
		_ = theirs.Close()
	}()
	return ours, nil
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
