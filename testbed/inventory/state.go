package inventory

import (
	"context"
	"fmt"
	"slices"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/testbed"
)

// State is where in its life a node is.
type State string

// The states. A state of failure says why in Node.Reason, and waits for a
// person or a recovery to have the node cleaned.
const (
	Discovered    State = "discovered"     // known, and nothing is known about it
	Inspected     State = "inspected"      // its hardware is known; not to be used
	Available     State = "available"      // clean, and an operator allows its use
	Leased        State = "leased"         // somebody has it
	Deploying     State = "deploying"      // an image is being written
	Testing       State = "testing"        // the image runs
	Cleaning      State = "cleaning"       // its disks are to be wiped
	InspectFailed State = "inspect-failed" //
	DeployFailed  State = "deploy-failed"  //
	TestFailed    State = "test-failed"    // the machine failed, not the image
	CleanFailed   State = "clean-failed"   //
)

// Failure tells whether the state is one of failure.
func (s State) Failure() bool {
	return s == InspectFailed || s == DeployFailed || s == TestFailed || s == CleanFailed
}

// held tells whether the state is one that only a lease's holder brings about.
func (s State) held() bool { return s == Leased || s == Deploying || s == Testing }

// next are the states that may follow each.
var next = map[State][]State{
	Discovered:    {Inspected, InspectFailed},
	InspectFailed: {Inspected, Discovered},
	Inspected:     {Available, Discovered},
	Available:     {Inspected, Leased, Cleaning, Discovered},
	Leased:        {Deploying, Testing, Cleaning},
	Deploying:     {Testing, DeployFailed, Cleaning},
	Testing:       {Deploying, TestFailed, Cleaning},
	DeployFailed:  {Deploying, Cleaning},
	TestFailed:    {Deploying, Cleaning},
	Cleaning:      {Available, Inspected, CleanFailed},
	CleanFailed:   {Cleaning},
}

// Next tells whether a node may go from one state to another.
func Next(from, to State) bool { return slices.Contains(next[from], to) }

// move changes the state in a transaction.
func (v *Inventory) move(ctx context.Context, tx *store.Tx, n *Node, to State, who, reason string) error {
	if !Next(n.State, to) {
		return command.Busy(fmt.Errorf("node %s is %s: it cannot become %s", n.Name, n.State, to), "'imgpipe node show "+n.Name+"' says what happened to it")
	}
	if err := tx.One(ctx, "UPDATE node SET state = ?, reason = ?, since = ? WHERE name = ?", to, reason, store.Millis(v.now()), n.Name); err != nil {
		return err
	}
	n.State, n.Reason = to, reason
	if reason != "" {
		reason = ": " + reason
	}
	return v.event(ctx, tx, n.Name, "state", who, "%s%s", to, reason)
}

// change loads a node in a writing transaction and calls f.
func (v *Inventory) change(ctx context.Context, name string, f func(tx *store.Tx, n *Node) error) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error {
		n, err := selectNode(ctx, tx, name)
		if err != nil {
			return err
		}
		return f(tx, n)
	})
}

// SetHardware keeps what the deploy ramdisk found on a leased node, and with that
// it is inspected; one that is allowed is then available.
func (v *Inventory) SetHardware(ctx context.Context, l *Lease, hardware []byte) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error {
		if err := tx.One(ctx, "UPDATE node SET hardware = ? WHERE name = ?", string(hardware), n.Name); err != nil {
			return err
		}
		if n.State != Discovered && n.State != InspectFailed {
			return v.event(ctx, tx, n.Name, "state", "agent", "inspected again")
		}
		if err := v.move(ctx, tx, n, Inspected, "agent", ""); err != nil {
			return err
		}
		return v.offer(ctx, tx, n, "agent")
	})
}

// InspectionFailed notes why nothing is known about a leased node. One whose
// hardware became known before that stays as it is.
func (v *Inventory) InspectionFailed(ctx context.Context, l *Lease, reason string) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error {
		if n.State != Discovered && n.State != InspectFailed {
			return v.event(ctx, tx, n.Name, "state", "imgpipe", "inspected, but: %s", reason)
		}
		return v.move(ctx, tx, n, InspectFailed, "imgpipe", reason)
	})
}

// Inspect asks for a node's hardware to be looked at again: after a failure, or
// when it was changed.
func (v *Inventory) Inspect(ctx context.Context, name, who string) error {
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error {
		if n.State == Discovered {
			return nil
		}
		return v.move(ctx, tx, n, Discovered, who, "")
	})
}

// offer makes an inspected node available when it is allowed.
func (v *Inventory) offer(ctx context.Context, tx *store.Tx, n *Node, who string) error {
	if n.State != Inspected || !n.Allowed {
		return nil
	}
	return v.move(ctx, tx, n, Available, who, "")
}

// Allow lets a node be used.
func (v *Inventory) Allow(ctx context.Context, name, who string) error {
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error {
		if n.Allowed {
			return nil
		}
		n.Allowed = true
		if err := tx.One(ctx, "UPDATE node SET allowed = 1 WHERE name = ?", name); err != nil {
			return err
		}
		if err := v.event(ctx, tx, name, "operator", who, "allowed"); err != nil {
			return err
		}
		return v.offer(ctx, tx, n, who)
	})
}

// Withdraw keeps a node from being used again; who has it keeps it.
func (v *Inventory) Withdraw(ctx context.Context, name, who string) error {
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error {
		if !n.Allowed {
			return nil
		}
		if err := tx.One(ctx, "UPDATE node SET allowed = 0 WHERE name = ?", name); err != nil {
			return err
		}
		if err := v.event(ctx, tx, name, "operator", who, "withdrawn"); err != nil {
			return err
		}
		if n.State == Available {
			return v.move(ctx, tx, n, Inspected, who, "")
		}
		return nil
	})
}

// Clean asks for a node's disks to be wiped: one that failed, or that nobody
// has.
func (v *Inventory) Clean(ctx context.Context, name, who string) error {
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error {
		if n.Lease != nil {
			return command.Busy(fmt.Errorf("node %s: %s has it", name, n.Lease.Holder), "end the lease first")
		}
		return v.move(ctx, tx, n, Cleaning, who, "")
	})
}

// Cleaned notes that a leased node's disks are empty, or why not: an empty reason
// is success. The node is then available again, when it is allowed.
func (v *Inventory) Cleaned(ctx context.Context, l *Lease, reason string) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error {
		name := n.Name
		if reason != "" {
			return v.move(ctx, tx, n, CleanFailed, "imgpipe", reason)
		}
		if err := tx.One(ctx, "UPDATE node SET image = '', deployment = '' WHERE name = ?", name); err != nil {
			return err
		}
		if err := v.move(ctx, tx, n, Inspected, "imgpipe", ""); err != nil {
			return err
		}
		return v.offer(ctx, tx, n, "imgpipe")
	})
}

// SetAside puts a node into maintenance. With a fault it is the program that
// does it, and a person's word stands: it is not changed by a fault.
func (v *Inventory) SetAside(ctx context.Context, name string, a Aside) error {
	if a.Owner == "" || a.Reason == "" {
		return command.Usage("maintenance needs an owner and a reason", "")
	}
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error {
		if n.Aside != nil && a.Fault != "" {
			return nil
		}
		err := tx.One(ctx, "UPDATE node SET aside_by = ?, aside_why = ?, aside_fault = ?, aside_at = ? WHERE name = ?",
			a.Owner, a.Reason, a.Fault, store.Millis(v.now()), name)
		if err != nil {
			return err
		}
		return v.event(ctx, tx, name, "operator", a.Owner, "in maintenance: %s", a.Reason)
	})
}

// Resume ends maintenance. heal is true when it is not a person who ends it:
// then only what a fault caused is ended.
func (v *Inventory) Resume(ctx context.Context, name, who string, heal bool) error {
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error {
		if n.Aside == nil || heal && n.Aside.Fault == "" {
			return nil
		}
		if err := tx.One(ctx, "UPDATE node SET aside_by = '', aside_why = '', aside_fault = '', aside_at = 0 WHERE name = ?", name); err != nil {
			return err
		}
		return v.event(ctx, tx, name, "operator", who, "in service again")
	})
}

// Want says how a node's power is to be. Those who hold its power make it so,
// and again when it changes by itself.
func (v *Inventory) Want(ctx context.Context, name string, p testbed.Power, who string) error {
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error { return v.want(ctx, tx, n, p, who) })
}

func (v *Inventory) want(ctx context.Context, tx *store.Tx, n *Node, p testbed.Power, who string) error {
	if n.Wanted == p {
		return nil
	}
	n.Wanted = p
	if err := tx.One(ctx, "UPDATE node SET wanted_power = ? WHERE name = ?", powerText(p), n.Name); err != nil {
		return err
	}
	return v.event(ctx, tx, n.Name, "power", who, "wanted %s", p)
}
