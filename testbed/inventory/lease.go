package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/testbed"
)

// Lease is a whole node in somebody's hands for a time. It ends when its holder
// says so, or is silent until it expires.
type Lease struct {
	ID      int64     `json:"id"`
	Node    string    `json:"node"`
	Holder  string    `json:"holder"` // who has it, in words: "run 12, stage metal-smoke"
	Fence   int64     `json:"fence"`  // grows with each lease of the node
	Granted time.Time `json:"granted"`
	Expires time.Time `json:"expires"`
}

// ErrLost says that the lease is not the holder's any more: it has expired, or
// an operator ended it. Nothing was changed, and nothing more may be done on
// the node.
var ErrLost = errors.New("the lease is lost")

// LeaseTime is how long a lease holds without a heartbeat; BeatEvery is how
// often holders send one.
const (
	LeaseTime = 60 * time.Second
	BeatEvery = 15 * time.Second
)

// Acquire grants a node that fits, for LeaseTime. The error is a *Refused when
// none does.
func (v *Inventory) Acquire(ctx context.Context, r Request, holder string) (*Lease, error) {
	var l *Lease
	err := v.db.Tx(ctx, func(tx *store.Tx) error {
		if err := v.expire(ctx, tx); err != nil {
			return err
		}
		nodes, err := selectNodes(ctx, tx, "")
		if err != nil {
			return err
		}
		n, err := r.pick(nodes)
		if err != nil {
			return err
		}
		l, err = v.grant(ctx, tx, n, holder)
		return err
	})
	if refused, ok := errors.AsType[*Refused](err); ok {
		return nil, command.Busy(refused, "'imgpipe node ls' shows all nodes")
	}
	return l, err
}

// Borrow leases a node that nobody has, to do something with it that its state
// asks for: inspecting, cleaning, recovering. The state stays as it is. A node
// that a person put aside is not touched.
func (v *Inventory) Borrow(ctx context.Context, name, holder string) (*Lease, error) {
	var l *Lease
	err := v.db.Tx(ctx, func(tx *store.Tx) error {
		if err := v.expire(ctx, tx); err != nil {
			return err
		}
		n, err := selectNode(ctx, tx, name)
		switch {
		case err != nil:
			return err
		case n.Lease != nil:
			return command.Busy(fmt.Errorf("node %s: %s has it", name, n.Lease.Holder), "wait for it, or 'imgpipe node release "+name+"'")
		case n.Aside != nil && n.Aside.Fault == "":
			return command.Busy(fmt.Errorf("node %s: in maintenance by %s: %s", name, n.Aside.Owner, n.Aside.Reason), "'imgpipe node resume "+name+"' ends that")
		}
		l, err = v.hand(ctx, tx, n, holder)
		return err
	})
	return l, err
}

func (v *Inventory) grant(ctx context.Context, tx *store.Tx, n *Node, holder string) (*Lease, error) {
	l, err := v.hand(ctx, tx, n, holder)
	if err != nil {
		return nil, err
	}
	return l, v.move(ctx, tx, n, Leased, holder, "")
}

// hand makes a lease.
func (v *Inventory) hand(ctx context.Context, tx *store.Tx, n *Node, holder string) (*Lease, error) {
	now := v.now().Truncate(time.Millisecond)
	l := &Lease{Node: n.Name, Holder: holder, Fence: n.Fence + 1, Granted: now, Expires: now.Add(LeaseTime)}
	if err := tx.One(ctx, "UPDATE node SET fence = ? WHERE name = ?", l.Fence, n.Name); err != nil {
		return nil, err
	}
	var err error
	l.ID, err = tx.Insert(ctx, "INSERT INTO lease (node, holder, fence, granted, expires) VALUES (?, ?, ?, ?, ?)",
		l.Node, l.Holder, l.Fence, store.Millis(l.Granted), store.Millis(l.Expires))
	if err != nil {
		return nil, err
	}
	return l, v.event(ctx, tx, n.Name, "lease", holder, "granted, fence %d", l.Fence)
}

func selectLeases(ctx context.Context, tx *store.Tx, where string, args ...any) ([]*Lease, error) {
	// +id keeps SQLite from reading all that there ever were in their order: those
	// that have not ended have an index of their own.
	rows, err := tx.Query(ctx, "SELECT id, node, holder, fence, granted, expires FROM lease WHERE "+where+" ORDER BY +id", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var leases []*Lease
	for rows.Next() {
		l := &Lease{}
		var granted, expires int64
		if err := rows.Scan(&l.ID, &l.Node, &l.Holder, &l.Fence, &granted, &expires); err != nil {
			return nil, err
		}
		l.Granted, l.Expires = store.Time(granted), store.Time(expires)
		leases = append(leases, l)
	}
	return leases, rows.Err()
}

// held calls f when the lease still holds; otherwise the error is ErrLost. A
// lease that has expired is lost, also when nobody has noticed yet.
func (v *Inventory) held(ctx context.Context, l *Lease, f func(tx *store.Tx, n *Node) error) error {
	return v.change(ctx, l.Node, func(tx *store.Tx, n *Node) error {
		if n.Lease == nil || n.Lease.ID != l.ID || !v.now().Before(n.Lease.Expires) {
			return fmt.Errorf("node %s: %w", l.Node, ErrLost)
		}
		return f(tx, n)
	})
}

// Beat prolongs a lease.
func (v *Inventory) Beat(ctx context.Context, l *Lease) error {
	return v.held(ctx, l, func(tx *store.Tx, _ *Node) error {
		l.Expires = v.now().Add(LeaseTime).Truncate(time.Millisecond)
		return tx.One(ctx, "UPDATE lease SET expires = ? WHERE id = ?", store.Millis(l.Expires), l.ID)
	})
}

// Keep beats until ctx ends, and returns a context that ends with ErrLost when
// the lease is lost or cannot be prolonged in time. stop ends the beats.
func (v *Inventory) Keep(ctx context.Context, l *Lease) (held context.Context, stop func()) {
	held, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	mine := *l // Beat changes it
	go func() {
		defer close(done)
		tick := time.NewTicker(BeatEvery)
		defer tick.Stop()
		for {
			select {
			case <-held.Done():
				return
			case <-tick.C:
			}
			// A database that hangs must not keep a holder at work beyond its lease.
			beat, done := context.WithTimeout(held, mine.Expires.Sub(v.now())-BeatEvery/3)
			err := v.Beat(beat, &mine)
			done()
			if errors.Is(err, ErrLost) || err != nil && v.now().After(mine.Expires.Add(-BeatEvery)) {
				cancel(fmt.Errorf("%w (%w)", ErrLost, err))
				return
			}
		}
	}()
	return held, func() { cancel(context.Canceled); <-done }
}

// Move changes the state of a leased node: what its holder does with it.
func (v *Inventory) Move(ctx context.Context, l *Lease, to State, reason string) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error {
		if !to.held() && to != DeployFailed && to != TestFailed {
			return fmt.Errorf("node %s: a lease's holder cannot make it %s", n.Name, to)
		}
		return v.move(ctx, tx, n, to, l.Holder, reason)
	})
}

// Deploying says that an image is being written to a leased node, and keeps what
// is written, so that it can be written again: deployment is the holder's own.
func (v *Inventory) Deploying(ctx context.Context, l *Lease, deployment []byte) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error {
		if err := tx.One(ctx, "UPDATE node SET deployment = ? WHERE name = ?", string(deployment), n.Name); err != nil {
			return err
		}
		return v.move(ctx, tx, n, Deploying, l.Holder, "")
	})
}

// Deployed notes which image is on a leased node's disk, by digest.
func (v *Inventory) Deployed(ctx context.Context, l *Lease, image string) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error {
		if err := tx.One(ctx, "UPDATE node SET image = ? WHERE name = ?", image, n.Name); err != nil {
			return err
		}
		return v.event(ctx, tx, n.Name, "state", l.Holder, "%s is deployed", image)
	})
}

// Power says how the holder wants a leased node's power.
func (v *Inventory) Power(ctx context.Context, l *Lease, p testbed.Power) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error { return v.want(ctx, tx, n, p, l.Holder) })
}

// End gives a node back. It is to be off and cleaned then, unless it is in a
// state of failure that says why.
func (v *Inventory) End(ctx context.Context, l *Lease) error {
	return v.held(ctx, l, func(tx *store.Tx, n *Node) error { return v.end(ctx, tx, n, l.Holder, "given back") })
}

// Revoke ends a node's lease whoever has it.
func (v *Inventory) Revoke(ctx context.Context, name, who, why string) error {
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error {
		if n.Lease == nil {
			return nil
		}
		return v.end(ctx, tx, n, who, "revoked: "+why)
	})
}

// Abandon ends the leases of a network's nodes, whose holders have all gone: who
// calls it is the only one who gives them out.
func (v *Inventory) Abandon(ctx context.Context, network, who, why string) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error {
		nodes, err := selectNodes(ctx, tx, "")
		for _, n := range nodes {
			if n.Lease == nil || n.Spec.Network != network {
				continue
			}
			if err := v.end(ctx, tx, n, who, why); err != nil {
				return err
			}
		}
		return err
	})
}

func (v *Inventory) end(ctx context.Context, tx *store.Tx, n *Node, who, why string) error {
	if err := tx.One(ctx, "UPDATE lease SET ended = ?, why = ? WHERE id = ?", store.Millis(v.now()), why, n.Lease.ID); err != nil {
		return err
	}
	if err := v.event(ctx, tx, n.Name, "lease", who, "%s's lease has ended: %s", n.Lease.Holder, why); err != nil {
		return err
	}
	if err := v.failTasks(ctx, tx, n.Name, why); err != nil {
		return err
	}
	if err := v.block(ctx, tx); err != nil { // what needs them waits for this node no more
		return err
	}
	if err := v.want(ctx, tx, n, testbed.Off, who); err != nil {
		return err
	}
	n.Lease = nil
	if n.State.held() {
		return v.move(ctx, tx, n, Cleaning, who, "")
	}
	return nil
}

// Expire ends the leases whose time is over and returns the nodes.
func (v *Inventory) Expire(ctx context.Context) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error { return v.expire(ctx, tx) })
}

func (v *Inventory) expire(ctx context.Context, tx *store.Tx) error {
	late, err := selectLeases(ctx, tx, "ended = 0 AND expires <= ?", store.Millis(v.now()))
	if err != nil {
		return err
	}
	for _, l := range late {
		n, err := selectNode(ctx, tx, l.Node)
		if err != nil {
			return err
		}
		if err := v.end(ctx, tx, n, "imgpipe", "it expired"); err != nil {
			return err
		}
	}
	return nil
}
