package ipmi

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"
	"gopkg.in/yaml.v3"
)

func yamlOf(v vendor) ([]byte, error) { return yaml.Marshal(&v.Quirks) }

// recorded keeps what comes through a connection.
type recorded struct {
	net.Conn
	mu  *sync.Mutex
	got *[][]byte
}

func (r recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	*r.got = append(*r.got, append([]byte(nil), p[:n]...))
	r.mu.Unlock()
	return n, err
}

// live is a guard in the middle of a real session, and what the BMC sent in it
// last.
func live(t testing.TB) (*guard, []byte) {
	t.Helper()
	s := fake(t)
	r, err := rehearse(t.Context(), s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Release(context.Background()) })
	var mu sync.Mutex
	var got [][]byte
	err = r.do(t.Context(), "look", func(_ context.Context, c *client.Client) error {
		g := r.session.guard
		g.Conn = recorded{g.Conn, &mu, &got}
		return ping(t.Context(), c)
	})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	g := r.session.guard
	return &guard{expect: g.expect, algorithms: g.algorithms, console: g.console, k1: g.k1, k2: g.k2, active: true}, got[len(got)-1]
}

// TestForged: of a genuine answer no bit may be changed, and none may come
// without signature or from outside the session.
func TestForged(t *testing.T) {
	t.Parallel()
	g, answer := live(t)
	if !g.admit(answer) {
		t.Fatal("the genuine answer is refused")
	}
	for i := range len(answer) * 8 {
		if i/8 == 2 || i/8 < 4 && i/8 != 0 { // RMCP's own header is not signed, and not looked at but for its class
			continue
		}
		b := append([]byte(nil), answer...)
		b[i/8] ^= 1 << (i % 8)
		if g.admit(b) {
			t.Errorf("byte %d, bit %d changed: the answer is taken", i/8, i%8)
		}
	}
	unsigned := append([]byte(nil), answer[:atPayload+int(binary.LittleEndian.Uint16(answer[atLength:]))]...)
	unsigned[atType] &^= flagSigned
	if g.admit(unsigned) {
		t.Error("an unsigned answer is taken")
	}
	if g.admit([]byte{6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0x81, 0x1c, 0x63, 0x20, 0, 1, 0, 0xde}) {
		t.Error("an answer of IPMI 1.5, without a session, is taken")
	}
}

// TestDowngrade: a BMC that answers the login with weaker algorithms than we
// asked for is not followed.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	g := &guard{}
	ask := make([]byte, atPayload+32)
	copy(ask, []byte{6, 0, 0xff, 7, formatPlus, 0x10})
	ask[atPayload+12], ask[atPayload+20], ask[atPayload+28] = 3, 4, 1
	g.sending(ask)
	answer := make([]byte, atPayload+36)
	copy(answer, []byte{6, 0, 0xff, 7, formatPlus, 0x11})
	answer[atLength] = 36
	for _, c := range []struct {
		algorithms [3]byte
		want       bool
	}{{[3]byte{3, 4, 1}, true}, {[3]byte{0, 0, 0}, false}, {[3]byte{3, 4, 0}, false}} {
		answer[atPayload+16], answer[atPayload+24], answer[atPayload+32] = c.algorithms[0], c.algorithms[1], c.algorithms[2]
		if got := g.admit(answer); got != c.want {
			t.Errorf("algorithms %v are taken: %v", c.algorithms, got)
		}
	}
}

// FuzzGuard: whatever comes, nothing falls over, and nothing that is not signed
// gets in.
func FuzzGuard(f *testing.F) {
	g, answer := live(f)
	f.Add(answer, byte(0))
	f.Add(answer[:20], byte(0x11))
	f.Add([]byte{6, 0, 0xff, 7, 6, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0x10}, byte(0x11))
	f.Fuzz(func(t *testing.T, b []byte, expect byte) {
		h := &guard{algorithms: g.algorithms, wanted: g.algorithms, console: g.console, k1: g.k1, k2: g.k2, active: true,
			consoleRandom: make([]byte, 16)}
		switch h.expect = 0; expect {
		case 0x11, 0x13, 0x15:
			h.expect = types.PayloadType(expect)
		}
		if h.admit(b) && h.expect == 0 && string(b[4:]) != string(answer[4:]) {
			t.Errorf("taken: %x", b)
		}
	})
}
