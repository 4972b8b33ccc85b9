package ipmi

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
	"goldsmith/testbed/vbmc"
)

// generous bounds what must end by itself long before.
const generous = time.Minute

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), generous)
	t.Cleanup(cancel)
	return ctx
}

// fake makes a server that is off and prints "hello" when it starts.
func fake(t testing.TB) *server {
	t.Helper()
	return fakeGuest(t, testbedtest.Guest{Text: "hello"})
}

func fakeGuest(t testing.TB, g testbedtest.Guest) *server {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, g.BIOSDisk(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newServer(t.Context(), testbedtest.Spec{Name: "m", Dir: filepath.Join(dir, "m"), Disks: []string{image}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open puts a machine behind a BMC and logs in.
func open(t *testing.T, inner testbed.Machine) *rehearsed {
	t.Helper()
	r, err := rehearse(bounded(t), inner, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.set(t)
		if err := r.Release(context.Background()); err != nil {
			t.Errorf("Release: %v", err)
		}
	})
	return r
}

func (r *rehearsed) set(t *testing.T, f ...vbmc.Fault) {
	t.Helper()
	if err := r.bmc.SetFaults(f...); err != nil {
		t.Fatal(err)
	}
}

// want checks the kind of a fault and what is said of it; and that it was not
// our patience that ended it.
func want(t *testing.T, ctx context.Context, err error, kind testbed.FaultKind, says string) {
	t.Helper()
	if kindOf(err) != kind || !strings.Contains(err.Error(), says) {
		t.Errorf("error: %v; want a fault of kind %s that says %q", err, kind, says)
	}
	if err != nil && strings.Contains(err.Error(), password) {
		t.Errorf("the error shows the password: %v", err)
	}
	if ctx.Err() != nil {
		t.Error("it took longer than a minute")
	}
}

func TestLoginFaults(t *testing.T) {
	t.Parallel()
	r := open(t, fake(t))
	mute, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	addr := r.bmc.Addr()
	for _, c := range []struct {
		name string
		Config
		kind testbed.FaultKind
		says string
	}{
		{"wrong password", Config{Addr: addr, User: user, Password: "x"}, testbed.Denied, addr + " refuses user \"admin\": wrong password"},
		{"unknown user", Config{Addr: addr, User: "nobody", Password: password}, testbed.Denied, "refuses user \"nobody\""},
		{"not an administrator", Config{Addr: addr, User: "oper", Password: "also"}, testbed.Denied, "oper"},
		{"no answer", Config{Addr: mute.LocalAddr().String(), User: user, Password: password}, testbed.Silent,
			"no answer from " + mute.LocalAddr().String() + " within 2"},
		{"nobody there", Config{Addr: gone.LocalAddr().String(), User: user, Password: password}, testbed.Silent, "nothing listens at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.Name, c.Adjust = "m", func(q *Quirks) { quick(q); q.RequestWait = time.Second }
			ctx := bounded(t)
			m, err := Open(ctx, c.Config)
			if m != nil {
				t.Error("a machine was opened")
			}
			want(t, ctx, err, c.kind, c.says)
		})
	}
	m, err := Open(t.Context(), Config{Name: "m", Addr: addr, User: "oper", Password: "also", Operator: true, Adjust: quick})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := m.Power(t.Context()); p != testbed.Off || err != nil {
		t.Errorf("Power as an operator = %v, %v", p, err)
	}
	if err := m.Disconnect(); err != nil {
		t.Error(err)
	}
}

// TestBMCFails: what was in order goes wrong, is told for what it is, and works
// again when the BMC does.
func TestBMCFails(t *testing.T) {
	t.Parallel()
	for f, w := range map[vbmc.Fault]struct {
		kind testbed.FaultKind
		says string
	}{
		vbmc.Silent:        {testbed.Silent, "no answer from 127.0.0.1:"},
		vbmc.WrongPassword: {testbed.Denied, "wrong password"},
		vbmc.Garbage:       {testbed.Broken, "not IPMI"},
	} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			r := open(t, fake(t))
			r.quirks.RequestWait = time.Second
			r.set(t, f)
			ctx := bounded(t)
			_, err := r.Power(ctx)
			want(t, ctx, err, w.kind, w.says)
			r.set(t)
			if p, err := r.Power(ctx); p != testbed.Off || err != nil {
				t.Errorf("afterwards: Power = %v, %v", p, err)
			}
		})
	}
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		r := open(t, fake(t))
		r.quirks.RequestWait = 2 * time.Second
		r.set(t, vbmc.Slow)
		if p, err := r.Power(bounded(t)); p != testbed.Off || err != nil {
			t.Errorf("Power = %v, %v", p, err)
		}
		m, err := Open(bounded(t), Config{Name: "m", Addr: r.bmc.Addr(), User: user, Password: password, Adjust: quick})
		if err != nil {
			t.Fatal(err)
		}
		r.set(t)
		_ = m.Disconnect()
	})
}

func TestPowerFaults(t *testing.T) {
	t.Parallel()
	s := fake(t)
	r := open(t, s)
	r.quirks.OffWait = 8 * moment
	on := func() {
		t.Helper()
		r.set(t)
		if err := r.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	truth := func(want testbed.Power) {
		t.Helper()
		if p, err := s.Power(t.Context()); p != want || err != nil {
			t.Errorf("the machine is %v, %v; want %v", p, err, want)
		}
	}

	on()
	r.set(t, vbmc.IgnoreOff)
	ctx := bounded(t)
	want(t, ctx, r.PowerOff(ctx), testbed.Unconfirmed, "still says on")
	truth(testbed.On)

	on()
	r.set(t, vbmc.EarlyOff)
	r.quirks.Settle = moment + moment/3 // longer than it lies, and over before it does what it was told
	if err := r.PowerOff(ctx); err != nil {
		t.Error(err)
	}
	truth(testbed.Off)

	// A BMC that lies and goes on lying is seen through by what the machine
	// prints.
	on()
	r.set(t, vbmc.FalseOff)
	quiet := make(chan struct{})
	go chatter(t, s, quiet)
	want(t, ctx, r.PowerOff(ctx), testbed.Unconfirmed, "goes on printing")
	close(quiet)
	truth(testbed.On)
}

// chatter has a machine print until quiet is closed.
func chatter(t *testing.T, s *server, quiet chan struct{}) {
	port, err := s.OpenSerial(context.Background())
	if err != nil {
		t.Error(err)
		return
	}
	defer port.Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-quiet:
			return
		case <-tick.C:
			_, _ = port.Write([]byte("still here\r\n"))
		}
	}
}

// TestCallerGivesUp: a caller's cancellation is not the BMC's fault.
func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	r := open(t, fake(t))
	r.set(t, vbmc.Silent)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := r.Power(ctx); !errors.Is(err, context.Canceled) || kindOf(err) != "" {
		t.Errorf("Power = %v; want the context's error", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.Power(short); !errors.Is(err, context.DeadlineExceeded) || kindOf(err) != testbed.Silent {
		t.Errorf("Power = %v; want silence until the deadline", err)
	}
}
