package inventory

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
)

// Whoever can send packets can be as many machines as there are addresses.
const (
	// maxUndeclared is how many nodes there may be that no file declares.
	maxUndeclared = 256
	// forgetAfter is when one of them that nobody did anything about may make
	// room for others: it has not asked for an address for so long.
	forgetAfter = 24 * time.Hour
	// askedPace is how exactly it is known when a machine asked last.
	askedPace = 10 * time.Minute
)

// Discover adds a node that was seen on the network and that no file declares:
// it has the card's address for a name and can be inspected, nothing else. One
// that is known stays as it is. There are at most 256 such nodes: where that is
// not enough, those that nobody allowed and that have not asked for a day are
// forgotten, or the error has the status Busy.
func (v *Inventory) Discover(ctx context.Context, mac net.HardwareAddr, network string) (n *Node, err error) {
	err = v.db.Tx(ctx, func(tx *store.Tx) error {
		nodes, err := selectNodes(ctx, tx, "")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(nodes, func(n *Node) bool { return slices.Contains(n.Spec.MACs, mac.String()) })
		if i >= 0 {
			n = nodes[i]
			return v.asked(ctx, tx, n)
		}
		if err := v.makeRoom(ctx, tx, nodes); err != nil {
			return err
		}
		s := Spec{Name: "node-" + strings.ReplaceAll(mac.String(), ":", ""), Arch: "amd64", MACs: []string{mac.String()}, Network: network,
			Boot: BootLocal, Storage: Storage{Level: "single"}}
		if err := v.put(ctx, tx, nil, s, false, "network"); err != nil {
			return err
		}
		if n, err = selectNode(ctx, tx, s.Name); err != nil {
			return err
		}
		return v.asked(ctx, tx, n)
	})
	return n, err
}

// asked notes that a node that no file declares asks for an address.
func (v *Inventory) asked(ctx context.Context, tx *store.Tx, n *Node) error {
	now := v.now()
	if seen, ok := n.Observed[AddressSource]; n.Declared || ok && now.Sub(seen.At) < askedPace {
		return nil
	}
	return v.keep(ctx, tx, n, Observation{Source: AddressSource, OK: true, Detail: "it asks for an address"}, now)
}

// makeRoom sees to it that one more node can be added that no file declares.
func (v *Inventory) makeRoom(ctx context.Context, tx *store.Tx, nodes []*Node) error {
	undeclared := slices.DeleteFunc(slices.Clone(nodes), func(n *Node) bool { return n.Declared })
	left := len(undeclared)
	if left < maxUndeclared {
		return nil
	}
	for _, n := range undeclared {
		if !n.forgettable(v.now()) {
			continue
		}
		if err := v.remove(ctx, tx, n, "network"); err != nil {
			return err
		}
		left--
	}
	if left >= maxUndeclared {
		return command.Busy(fmt.Errorf("%d machines that no file declares are known: no more are added", left),
			"declare those that are yours; the others are forgotten when they have not asked for an address for a day")
	}
	return nil
}

// forgettable tells whether nobody knows more about a node than that it asked,
// long ago.
func (n *Node) forgettable(now time.Time) bool {
	last := n.Since
	if seen, ok := n.Observed[AddressSource]; ok {
		last = seen.At
	}
	return !n.Declared && n.State == Discovered && !n.Allowed && n.Aside == nil && n.Lease == nil && now.Sub(last) >= forgetAfter
}
