package metal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
)

// Keeper looks after the nodes of a site: it observes them, does what their
// recovery policies say, inspects those that are new and allowed, and cleans
// those that were given back. It needs no one to be running a test.
type Keeper struct {
	site *Site

	mu     sync.Mutex        // guards the fields below
	asked  map[string]bool   // nodes that are being observed
	busy   map[string]bool   // nodes that something is done about
	told   map[string]string // what people were told last, by node
	bmcs   map[string]*session
	refuse map[string]refusal

	logins turns // by node: who logs in to its controller
	wg     sync.WaitGroup
}

// refusal is a node whose power does not change.
type refusal struct {
	pause time.Duration
	until time.Time // it is tried again
}

// observeEvery is how often nodes are looked at. Three looks must fit into
// inventory.Stale.
const observeEvery = 10 * time.Second

// lookLimit bounds one look at a node.
const lookLimit = 30 * time.Second

// inspectAgain is when a node is inspected again that could not be.
const inspectAgain = 15 * time.Minute

// NewKeeper returns a keeper of the site's nodes. A site has one at a time.
func (s *Site) NewKeeper() *Keeper {
	return &Keeper{site: s, asked: map[string]bool{}, busy: map[string]bool{}, told: map[string]string{}, bmcs: map[string]*session{}, refuse: map[string]refusal{}}
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
	if ctx.Err() != nil { // nobody calls Run, then
		k.close()
	}
	return context.Cause(ctx)
}

// Run looks after the nodes until ctx ends, and has let go of everything when it
// returns.
func (k *Keeper) Run(ctx context.Context) {
	defer k.close()
	tick := time.NewTicker(k.site.limits.look)
	defer tick.Stop()
	for {
		if err := k.round(ctx); err == nil {
			k.tell(ctx, "", "")
		} else if ctx.Err() == nil {
			k.tell(ctx, "", "nodes cannot be looked after: "+err.Error())
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
	for name, b := range k.bmcs {
		k.drop(name, b)
	}
}

// nodes are the site's that have a controller.
func (k *Keeper) nodes(ctx context.Context) ([]*inventory.Node, error) {
	all, err := k.site.cfg.Inventory.Nodes(ctx)
	return slices.DeleteFunc(all, func(n *inventory.Node) bool {
		return n.Spec.Network != k.site.network.Name || n.Spec.BMC.Driver == ""
	}), err
}

// round begins to look at every node that nobody looks at already. One that is
// worked on, which may take hours, is observed all the same: it is not dead.
func (k *Keeper) round(ctx context.Context) error {
	if err := errors.Join(k.site.cfg.Inventory.Review(ctx), k.site.Refresh(ctx)); err != nil {
		return err
	}
	nodes, err := k.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		k.alone(ctx, k.asked, n.Name, func() error {
			if err := k.observe(ctx, n.Name); err != nil {
				return err
			}
			k.alone(ctx, k.busy, n.Name, func() error { return k.look(ctx, n.Name) })
			return nil
		})
	}
	return nil
}

// alone begins f for a node that is not in taken, where it is until f ends.
func (k *Keeper) alone(ctx context.Context, taken map[string]bool, node string, f func() error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if taken[node] {
		return
	}
	taken[node] = true
	k.wg.Go(func() {
		if err := f(); err != nil && ctx.Err() == nil {
			k.tell(ctx, node, err.Error())
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(taken, node)
	})
}

// look does what is to be done about a node that was observed just now.
func (k *Keeper) look(ctx context.Context, name string) error {
	v := k.site.cfg.Inventory
	n, err := v.Node(ctx, name)
	if err != nil {
		return err
	}
	d := n.Policy().Decide(n, v.Time())
	if err := k.act(ctx, n, d); err != nil || d.Do != inventory.LeaveAlone {
		return err
	}
	if n.Lease != nil || n.Aside != nil || !n.Alive {
		return nil
	}
	switch {
	case n.State == inventory.Discovered && n.Allowed,
		n.State == inventory.InspectFailed && n.Allowed && v.Time().Sub(n.Since) > k.site.limits.again:
		return k.site.Inspect(ctx, name)
	case n.State == inventory.Cleaning:
		return k.site.Clean(ctx, name)
	}
	return nil
}

// act does what the policy says.
func (k *Keeper) act(ctx context.Context, n *inventory.Node, d inventory.Decision) error {
	v := k.site.cfg.Inventory
	switch d.Do {
	case inventory.SetPower:
		return k.setPower(ctx, n, true)
	case inventory.PutAside:
		kind := testbed.FaultKind(firstWord(n.Observed[inventory.BMCSource].Detail))
		err := v.SetAside(ctx, n.Name, inventory.Aside{Owner: owner, Reason: d.Reason, Fault: kind})
		return errors.Join(err, k.notify(ctx, n, d))
	case inventory.Return:
		return v.Resume(ctx, n.Name, owner, true)
	case inventory.Notify:
		return k.notify(ctx, n, d)
	case inventory.Redeploy:
		return errors.Join(k.notify(ctx, n, d), k.fence(ctx, n, d.Reason))
	default:
		k.tell(ctx, n.Name, "")
	}
	return nil
}

// longestPause is between two tries to change a power that does not change.
const longestPause = 5 * time.Minute

// setPower makes the power as it is wanted by now. In a hurry it waits for
// nobody: who is about to change the power knows better.
func (k *Keeper) setPower(ctx context.Context, n *inventory.Node, patient bool) error {
	v := k.site.cfg.Inventory
	k.mu.Lock()
	r := k.refuse[n.Name]
	k.mu.Unlock()
	if patient && v.Time().Before(r.until) {
		return nil
	}
	done, err := k.site.takePower(ctx, n.Name)
	if err != nil {
		return err
	}
	defer done()
	if n, err = v.Node(ctx, n.Name); err != nil || n.Wanted == testbed.Unknown {
		return err
	}
	m, used, err := k.bmc(ctx, n)
	if err != nil {
		return err
	}
	defer used()
	do := m.PowerOff
	if n.Wanted == testbed.On {
		do = m.PowerOn
	}
	err = do(ctx)
	k.mu.Lock()
	if delete(k.refuse, n.Name); err != nil {
		r.pause = min(max(2*r.pause, k.site.limits.look), longestPause)
		k.refuse[n.Name] = refusal{r.pause, v.Time().Add(r.pause)}
	}
	k.mu.Unlock()
	o := inventory.Observation{Source: inventory.BMCSource, OK: true, Power: n.Wanted}
	if f, ok := errors.AsType[*testbed.Fault](err); ok {
		o = inventory.Observation{Source: inventory.BMCSource, Detail: string(f.Kind) + ": " + f.Error()}
		if a := n.Aside; a == nil && ctx.Err() == nil {
			// Seen here alone: the next look finds a controller that answers.
			a = &inventory.Aside{Owner: owner, Fault: f.Kind, Reason: f.Error()}
			err = errors.Join(err, v.SetAside(ctx, n.Name, *a))
		}
	} else if err != nil {
		return err
	}
	return errors.Join(err, v.Observe(context.WithoutCancel(ctx), n.Name, o))
}

// fence takes a node from whoever has it, and makes sure that it is off. Then it
// is cleaned, and whoever had it is told that it is lost. One that failed and
// that nobody has gets what it had once more.
func (k *Keeper) fence(ctx context.Context, n *inventory.Node, why string) error {
	v := k.site.cfg.Inventory
	if err := v.Revoke(ctx, n.Name, owner, "fenced: "+why); err != nil {
		return err
	}
	if h := k.site.holding(n.Name); h != nil && n.Lease != nil && h.node.lease.ID == n.Lease.ID {
		h.node.lose(h.node.lost(fmt.Errorf("%w: fenced: %s", inventory.ErrLost, why)))
	}
	if err := v.Want(ctx, n.Name, testbed.Off, owner); err != nil {
		return err
	}
	if err := k.setPower(ctx, n, false); err != nil {
		return err
	}
	failed := n.State == inventory.DeployFailed || n.State == inventory.TestFailed
	if n.Lease == nil && failed && len(n.Deployment) > 0 {
		return k.site.Redeploy(ctx, n.Name)
	}
	return nil
}

func firstWord(s string) string {
	for i, r := range s {
		if r == ':' || r == ' ' {
			return s[:i]
		}
	}
	return s
}
