package metal

import (
	"context"

	"goldsmith/testbed/inventory"
	"goldsmith/testbed/ipmi"
)

// session is a session with a controller that a keeper keeps. Controllers have
// few: who looks at a node and who changes its power share one.
type session struct {
	*ipmi.Machine
	spec inventory.BMC
	// Both are guarded by the keeper's mu.
	users   int  // so many ask it something
	dropped bool // nobody gets it any more: the last of them ends it
}

// bmc is a session with the controller that the node has by now. The caller calls
// done when it asks no more. One at a time logs in to a node's controller.
func (k *Keeper) bmc(ctx context.Context, n *inventory.Node) (b *session, done func(), err error) {
	next, err := k.logins.take(ctx, n.Name)
	if err != nil {
		return nil, nil, err
	}
	defer next()
	k.mu.Lock()
	b = k.bmcs[n.Name]
	same := b != nil && b.spec == n.Spec.BMC
	if same {
		b.users++
	}
	k.mu.Unlock()
	switch {
	case same:
		return b, func() { k.done(b) }, nil
	case b != nil:
		k.drop(n.Name, b)
	}
	m, err := k.site.machine(ctx, n, false)
	if err != nil {
		return nil, nil, err
	}
	b = &session{Machine: m, spec: n.Spec.BMC, users: 1}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bmcs[n.Name] = b
	return b, func() { k.done(b) }, nil
}

// done says that one who used a session does not any more.
func (k *Keeper) done(b *session) {
	k.mu.Lock()
	b.users--
	end := b.dropped && b.users == 0
	k.mu.Unlock()
	if end {
		_ = b.Disconnect()
	}
}

// drop keeps a session no more. It ends when nobody uses it.
func (k *Keeper) drop(node string, b *session) {
	k.mu.Lock()
	end := !b.dropped && b.users == 0
	b.dropped = true
	if k.bmcs[node] == b {
		delete(k.bmcs, node)
	}
	k.mu.Unlock()
	if end {
		_ = b.Disconnect()
	}
}
