package metal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/ipmi"
)

// Keeper looks after the nodes of a site: it observes them, does what their
// recovery policies say, inspects those that are new and allowed, and cleans
// those that were given back. It needs no one to be running a test.
type Keeper struct {
	site *Site

	mu   sync.Mutex // guards the fields below
	busy map[string]bool
	told map[string]string // what people were told last, by node
	bmcs map[string]*ipmi.Machine

	wg sync.WaitGroup
}

// observeEvery is how often nodes are looked at. Three looks must fit into
// inventory.Stale.
const observeEvery = 10 * time.Second

// lookLimit bounds one look at a node.
const lookLimit = 30 * time.Second

// NewKeeper returns a keeper of the site's nodes.
func (s *Site) NewKeeper() *Keeper {
	return &Keeper{site: s, busy: map[string]bool{}, told: map[string]string{}, bmcs: map[string]*ipmi.Machine{}}
}

// Survey observes every node once, and does nothing else.
func (k *Keeper) Survey(ctx context.Context) error {
	nodes, err := k.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		k.wg.Go(func() {
			if err := k.observe(ctx, n.Name); err != nil {
				k.tell(ctx, n.Name, err.Error())
			}
		})
	}
	k.wg.Wait()
	return context.Cause(ctx)
}

// Run looks after the nodes until ctx ends, and has let go of everything when it
// returns.
func (k *Keeper) Run(ctx context.Context) {
	defer k.close()
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		if err := k.round(ctx); err != nil && ctx.Err() == nil {
			_ = k.site.cfg.Inventory.Note(ctx, "", "recovery", "imgpipe", "nodes cannot be looked after: "+err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *Keeper) close() {
	k.wg.Wait()
	for _, m := range k.bmcs {
		_ = m.Disconnect()
	}
}

// nodes are the site's that have a controller.
func (k *Keeper) nodes(ctx context.Context) ([]*inventory.Node, error) {
	all, err := k.site.cfg.Inventory.Nodes(ctx)
	return slices.DeleteFunc(all, func(n *inventory.Node) bool {
		return n.Spec.Network != k.site.network.Name || n.Spec.BMC.Driver == ""
	}), err
}

// round begins to look at every node that nobody looks at already.
func (k *Keeper) round(ctx context.Context) error {
	if err := errors.Join(k.site.cfg.Inventory.Review(ctx), k.site.Refresh(ctx)); err != nil {
		return err
	}
	nodes, err := k.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if !k.take(n.Name) {
			continue
		}
		k.wg.Go(func() {
			defer k.give(n.Name)
			if err := k.look(ctx, n.Name); err != nil && ctx.Err() == nil {
				k.tell(ctx, n.Name, err.Error())
			}
		})
	}
	return nil
}

func (k *Keeper) take(node string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[node] {
		return false
	}
	k.busy[node] = true
	return true
}

func (k *Keeper) give(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.busy, node)
}

// tell notes something for people, once until it changes.
func (k *Keeper) tell(ctx context.Context, node, what string) {
	k.mu.Lock()
	same := k.told[node] == what
	k.told[node] = what
	k.mu.Unlock()
	if !same && what != "" {
		_ = k.site.cfg.Inventory.Note(ctx, node, "recovery", "imgpipe", what)
	}
}

// look observes a node and does what is to be done about it.
func (k *Keeper) look(ctx context.Context, name string) error {
	v := k.site.cfg.Inventory
	if err := k.observe(ctx, name); err != nil {
		return err
	}
	n, err := v.Node(ctx, name)
	if err != nil {
		return err
	}
	d := n.Policy().Decide(n, time.Now())
	if err := k.act(ctx, n, d); err != nil || d.Do != inventory.LeaveAlone {
		return err
	}
	if n.Lease != nil || n.Aside != nil || !n.Alive {
		return nil
	}
	switch {
	case n.State == inventory.Discovered && n.Allowed:
		return k.site.Inspect(ctx, name)
	case n.State == inventory.Cleaning:
		return k.site.Clean(ctx, name)
	}
	return nil
}

// observe asks the controller, and the machine where it should be up.
func (k *Keeper) observe(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	n, err := k.site.cfg.Inventory.Node(ctx, name)
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
		o := inventory.Observation{Source: inventory.NetworkSource, OK: true}
		if err := k.ping(ctx, n); err != nil {
			o.OK, o.Detail = false, err.Error()
		}
		all = append(all, o)
	}
	return k.site.cfg.Inventory.Observe(context.WithoutCancel(ctx), name, all...)
}

// power asks a node's controller, over a session that is kept.
func (k *Keeper) power(ctx context.Context, n *inventory.Node) (testbed.Power, error) {
	m, err := k.bmc(ctx, n)
	if err != nil {
		return testbed.Unknown, err
	}
	p, err := m.Power(ctx)
	if err != nil {
		k.drop(n.Name)
	}
	return p, err
}

func (k *Keeper) bmc(ctx context.Context, n *inventory.Node) (*ipmi.Machine, error) {
	k.mu.Lock()
	m := k.bmcs[n.Name]
	k.mu.Unlock()
	if m != nil {
		return m, nil
	}
	m, err := k.site.machine(ctx, n, false)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bmcs[n.Name] = m
	return m, nil
}

func (k *Keeper) drop(node string) {
	k.mu.Lock()
	m := k.bmcs[node]
	delete(k.bmcs, node)
	k.mu.Unlock()
	if m != nil {
		_ = m.Disconnect()
	}
}

// act does what the policy says.
func (k *Keeper) act(ctx context.Context, n *inventory.Node, d inventory.Decision) error {
	v := k.site.cfg.Inventory
	switch d.Do {
	case inventory.SetPower:
		return k.setPower(ctx, n)
	case inventory.PutAside:
		kind := testbed.FaultKind(firstWord(n.Observed[inventory.BMCSource].Detail))
		return v.SetAside(ctx, n.Name, inventory.Aside{Owner: "imgpipe", Reason: d.Reason, Fault: kind})
	case inventory.Return:
		return v.Resume(ctx, n.Name, "imgpipe", true)
	case inventory.Notify:
		k.tell(ctx, n.Name, "needs a person: "+d.Reason)
	case inventory.Redeploy:
		return k.fence(ctx, n, d.Reason)
	default:
		k.tell(ctx, n.Name, "")
	}
	return nil
}

// setPower makes the power as it is wanted. Who holds the node does that itself:
// only what it has not done a while later is done here.
func (k *Keeper) setPower(ctx context.Context, n *inventory.Node) error {
	m, err := k.bmc(ctx, n)
	if err != nil {
		return err
	}
	do := m.PowerOff
	if n.Wanted == testbed.On {
		do = m.PowerOn
	}
	err = do(ctx)
	o := inventory.Observation{Source: inventory.BMCSource, OK: true, Power: n.Wanted}
	if f, ok := errors.AsType[*testbed.Fault](err); ok {
		o = inventory.Observation{Source: inventory.BMCSource, Detail: string(f.Kind) + ": " + f.Error()}
	} else if err != nil {
		return err
	}
	return errors.Join(err, k.site.cfg.Inventory.Observe(ctx, n.Name, o))
}

// fence takes a node from whoever has it, and makes sure that it is off before
// anything else happens to it: it is then cleaned, and whoever had it deploys
// anew, as its lease is lost.
func (k *Keeper) fence(ctx context.Context, n *inventory.Node, why string) error {
	v := k.site.cfg.Inventory
	if err := v.Revoke(ctx, n.Name, "imgpipe", "fenced: "+why); err != nil {
		return err
	}
	n.Wanted = testbed.Off
	return k.setPower(ctx, n)
}

func firstWord(s string) string {
	for i, r := range s {
		if r == ':' || r == ' ' {
			return s[:i]
		}
	}
	return s
}

// pingLimit is how long a machine may take to answer.
const pingLimit = 3 * time.Second

// ping asks a machine whether it is there (ICMP echo, RFC 792).
func (k *Keeper) ping(ctx context.Context, n *inventory.Node) error {
	a, err := k.site.cfg.Inventory.Addresses(ctx, n.Name)
	if err != nil {
		return err
	}
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
		if err := c.SetDeadline(time.Now().Add(pingLimit)); err != nil {
			return err
		}
		if _, err := c.WriteTo(b, &net.IPAddr{IP: a.IPv4.AsSlice()}); err != nil {
			return err
		}
		buf := make([]byte, 1500)
		for {
			size, from, err := c.ReadFrom(buf)
			if err != nil {
				return fmt.Errorf("%v does not answer within %v", a.IPv4, pingLimit)
			}
			reply, err := icmp.ParseMessage(1, buf[:size])
			if e, ok := reply.Body.(*icmp.Echo); err == nil && ok && reply.Type == ipv4.ICMPTypeEchoReply && e.ID == id && from.String() == a.IPv4.String() {
				return nil
			}
		}
	})
}
