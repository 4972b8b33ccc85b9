package metal

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
)

// A process that ends in the middle of anything leaves nothing that the next one
// does not find and bring to an end, without waiting for leases to expire.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		state inventory.State
		begin func(r *rig)
	}{
		{"inspecting", inventory.Discovered, func(r *rig) {
			r.boxes["n1"].acts(nil)
			r.ok(r.v.Allow(r.t.Context(), "n1", "test"))
			r.ok(r.keeper.round(r.t.Context()))
			r.eventually("the agent starts", func() bool { p, _ := r.boxes["n1"].Power(r.t.Context()); return p == testbed.On })
		}},
		{"leased", inventory.Leased, func(r *rig) {
			r.ready()
			r.acquire(inventory.Request{})
		}},
		{"deploying", inventory.Deploying, func(r *rig) {
			r.ready()
			r.boxes["n1"].acts(hangs)
			n := r.acquire(inventory.Request{})
			go func() { _ = n.Deploy(context.Background(), deployment()) }()
			r.eventually("the agent starts", func() bool { return r.boxes["n1"].started() == 2 })
		}},
		{"testing", inventory.Testing, func(r *rig) {
			r.ready()
			r.running()
		}},
		{"cleaning", inventory.Cleaning, func(r *rig) {
			r.ready()
			r.ok(r.running().Release(r.t.Context()))
			r.boxes["n1"].acts(hangs)
			r.ok(r.keeper.round(r.t.Context()))
			r.eventually("the agent starts", func() bool { return r.boxes["n1"].started() == 3 })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 1)
			c.begin(r)
			r.is("n1", c.state)
			old := r.node("n1").Lease
			if old == nil {
				t.Fatal("nobody has it")
			}
			dead, keeper := r.site, r.keeper
			r.ok(dead.Close()) // what it does goes on in the background, as if the kill came late
			stale := filepath.Join(r.config.Dir, "boot", "sha256-0")
			r.ok(os.MkdirAll(stale, 0o750))
			r.boxes["n1"].acts(good)
			r.open()
			if n := r.node("n1"); n.Lease != nil {
				t.Errorf("a lease is left: %+v", n.Lease)
			}
			if h := dead.holding("n1"); h != nil {
				h.node.lose(h.node.lost(inventory.ErrLost)) // the next heartbeat
				_ = h.node.Release(t.Context())
			}
			keeper.close()
			for range 3 {
				r.round()
			}
			r.is("n1", inventory.Available)
			r.power("n1", testbed.Off)
			if n := r.node("n1"); n.Lease != nil || n.Wanted != testbed.Off || n.Image != "" {
				t.Errorf("in the end: %+v", n)
			}
			if _, err := os.Stat(stale); err == nil {
				t.Errorf("%s is left", stale)
			}
		})
	}
}

// Power that its holder is changing is not the keeper's to set, although it is
// not as wanted for a moment.
func TestPowerOfHolder(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	n := r.running()
	seen := r.node("n1")
	seen.Wanted = testbed.Off // as the keeper saw it, a moment ago
	r.ok(r.keeper.setPower(t.Context(), seen, true))
	r.power("n1", testbed.On)
	done, err := r.site.takePower(t.Context(), "n1")
	r.ok(err)
	limited, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n.PowerOff(limited); err == nil {
		t.Error("two change its power at once")
	}
	done()
	r.ok(n.Shutdown(t.Context()))
	r.round() // nobody switches it on again
	r.power("n1", testbed.Off)
}

// One node that cannot be served does not keep the others from it.
func TestBrokenImage(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	r.ready()
	f, err := inventory.Load(filepath.Join(r.dir, "inventory.yaml"))
	r.ok(err)
	f.Nodes[0].Boot = inventory.BootNetwork
	r.ok(r.v.Apply(t.Context(), f, "test"))
	n := r.acquire(inventory.Request{Node: "n1"})
	r.ok(n.Deploy(t.Context(), deployment())) // there is no such image
	other := r.acquire(inventory.Request{Node: "n2"})
	r.ok(other.Deploy(t.Context(), deployment()))
	r.is("n2", inventory.Testing)
	// It starts the ramdisk, which cleans it.
	mac, _ := net.ParseMAC(f.Nodes[0].MACs[0])
	if m, ok := r.site.lookup(mac); !ok || m.Boot != nil {
		t.Errorf("a node with a broken image: %v, starts %+v", ok, m.Boot)
	}
}

// Whoever sends packets cannot end us with one.
func FuzzEchoes(f *testing.F) {
	whole, err := (&icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &icmp.Echo{ID: 7, Seq: 1}}).Marshal(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{3, 0})
	f.Add([]byte{3, 0, 0, 0, 1, 2, 3})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if echoes(b, 7) && (len(b) < 8 || b[0] != 0) {
			t.Errorf("%x is taken for an answer", b)
		}
	})
}
