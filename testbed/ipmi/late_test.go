package ipmi

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	"goldsmith/testbed"
)

// late is the address of a BMC on a host that is busy: it answers the second
// step of the first logins so late that the step is sent again, and both answers
// arrive, the second one lost on its way.
func late(t *testing.T, bmc string, logins int) string {
	t.Helper()
	ours, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := net.Dial("udp", bmc)
	if err != nil {
		t.Fatal(err)
	}
	var client net.Addr
	var mu sync.Mutex // guards client
	var tasks sync.WaitGroup
	t.Cleanup(func() {
		_, _ = ours.Close(), theirs.Close()
		tasks.Wait()
	})
	tasks.Go(func() {
		for b := make([]byte, 2048); ; {
			n, from, err := ours.ReadFrom(b)
			if err != nil {
				return
			}
			mu.Lock()
			client = from
			mu.Unlock()
			_, _ = theirs.Write(b[:n])
		}
	})
	tasks.Go(func() {
		var held []byte
		for b := make([]byte, 2048); ; {
			n, err := theirs.Read(b)
			if err != nil {
				return
			}
			p := append([]byte(nil), b[:n]...)
			if logins > 0 && len(p) > atType && types.PayloadType(p[atType]&0x3f) == types.PayloadTypeRAKPMessage2 {
				if held == nil {
					held = p
					continue
				}
				p, held = held, nil
				logins--
			}
			mu.Lock()
			to := client
			mu.Unlock()
			_, _ = ours.WriteTo(p, to)
		}
	})
	return ours.LocalAddr().String()
}

// A login is not refused because a step of it came twice; one that is refused
// for good is told so.
func TestLateLogin(t *testing.T) {
	t.Parallel()
	r := open(t, fake(t))
	c := Config{Name: "m", User: user, Password: password, Adjust: func(q *Quirks) { quick(q); q.RequestWait = 600 * time.Millisecond }}
	c.Addr = late(t, r.bmc.Addr(), loginTries-1)
	m, err := Open(bounded(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := m.Power(t.Context()); p != testbed.Off || err != nil {
		t.Errorf("Power = %v, %v", p, err)
	}
	if err := m.Disconnect(); err != nil {
		t.Error(err)
	}
	c.Addr = late(t, r.bmc.Addr(), 1000)
	ctx := bounded(t)
	_, err = Open(ctx, c)
	want(t, ctx, err, testbed.Denied, "refuses user")
}
