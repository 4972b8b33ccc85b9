package metal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
)

// observe asks the controller, and the machine where it should be up.
func (k *Keeper) observe(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	v := k.site.cfg.Inventory
	n, err := v.Node(ctx, name)
	if err != nil {
		return err
	}
	seen := inventory.Observation{Source: inventory.BMCSource, OK: true}
	p, err := k.power(ctx, n)
	if f, ok := errors.AsType[*testbed.Fault](err); ok {
		seen.OK, seen.Detail = false, string(f.Kind)+": "+f.Error()
	} else if err != nil {
		return err
	}
	seen.Power = p
	all := []inventory.Observation{seen}
	if n.State == inventory.Testing {
		a, err := v.Addresses(ctx, name)
		if err != nil {
			return err
		}
		o := inventory.Observation{Source: inventory.NetworkSource, OK: true}
		if err := k.ping(a.IPv4); err != nil {
			o.OK, o.Detail = false, err.Error()
		}
		all = append(all, o)
		if d := time.Since(k.site.called(a.IPv4)); d < inventory.Stale {
			all = append(all, inventory.Observation{Source: inventory.AgentSource, OK: true, Detail: "the installed system calls"})
		}
	}
	if h := k.site.holding(name); h != nil {
		all = append(all, h.observe()...)
	}
	return v.Observe(context.WithoutCancel(ctx), name, all...)
}

// observe is what the machine's agent, or the machine itself, lets us know.
func (h *holding) observe() (all []inventory.Observation) {
	if h.health != nil {
		all = append(all, *h.health)
	}
	if h.agent == nil {
		return all
	}
	s, err := h.agent.Session()
	if err != nil || s.Closed {
		return all
	}
	o := inventory.Observation{Source: inventory.AgentSource, OK: true, Detail: "the deploy ramdisk calls"}
	switch {
	case s.Seen.IsZero():
		o.OK, o.Detail = false, "the deploy ramdisk has not called yet"
	case time.Since(s.Seen) > inventory.Stale:
		o.OK, o.Detail = false, fmt.Sprintf("the deploy ramdisk has not called for %v", time.Since(s.Seen).Round(time.Second))
	}
	return append(all, o)
}

// power asks a node's controller, over a session that is kept.
func (k *Keeper) power(ctx context.Context, n *inventory.Node) (testbed.Power, error) {
	m, done, err := k.bmc(ctx, n)
	if err != nil {
		return testbed.Unknown, err
	}
	defer done()
	p, err := m.Power(ctx)
	if err != nil {
		k.drop(n.Name, m)
	}
	return p, err
}

// pingLimit is how long a machine may take to answer.
const pingLimit = 3 * time.Second

// ping asks a machine whether it is there (ICMP echo, RFC 792).
func (k *Keeper) ping(a netip.Addr) error {
	return k.site.cfg.Where.Do(func() error {
		c, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		if err != nil {
			return err
		}
		defer c.Close()
		id := os.Getpid() & 0xffff
		msg := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("goldsmith")}}
		b, err := msg.Marshal(nil)
		if err != nil {
			return err
		}
		if err := c.SetDeadline(time.Now().Add(k.site.limits.ping)); err != nil {
			return err
		}
		if _, err := c.WriteTo(b, &net.IPAddr{IP: a.AsSlice()}); err != nil {
			return err
		}
		buf := make([]byte, 1500)
		for {
			size, from, err := c.ReadFrom(buf)
			if err != nil {
				return fmt.Errorf("%v does not answer within %v", a, k.site.limits.ping)
			}
			if from.String() == a.String() && echoes(buf[:size], id) {
				return nil
			}
		}
	})
}

// echoes tells whether a packet answers our ping. Everybody's packets arrive
// here, whole or not.
func echoes(b []byte, id int) bool {
	m, err := icmp.ParseMessage(1, b)
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
		return false
	}
	e, ok := m.Body.(*icmp.Echo)
	return ok && e.ID == id
}
