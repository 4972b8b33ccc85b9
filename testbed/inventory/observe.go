package inventory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"goldsmith/internal/store"
	"goldsmith/testbed"
)

// Source is where something about a node was observed.
type Source string

// The sources.
const (
	BMCSource     Source = "bmc"     // the management controller: does it answer
	NetworkSource Source = "network" // the machine: does it answer a ping
	AgentSource   Source = "agent"   // the deploy ramdisk, or the installed system: does it call
	HealthSource  Source = "health"  // the installed system: is it well by its own checks
	AddressSource Source = "address" // DHCP: when a machine that no file declares asked for an address
)

// Seen is the newest observation from one source.
type Seen struct {
	OK     bool      `json:"ok"`
	Detail string    `json:"detail,omitempty"` // in words, or a testbed.FaultKind first for the controller
	At     time.Time `json:"at"`               // when it was observed
	Since  time.Time `json:"since"`            // since when it has been so: well, or ill in this way
}

// kind is what rules tell apart where a source is not well: a controller's
// testbed.FaultKind. Others have one kind, "".
func (s Seen) kind(from Source) string {
	if s.OK || from != BMCSource {
		return ""
	}
	kind, _, _ := strings.Cut(s.Detail, ":")
	return kind
}

// Observation is one thing observed now.
type Observation struct {
	Source Source
	OK     bool
	Detail string
	// Power is what the controller says; Unknown says nothing.
	Power testbed.Power
}

// Stale is how old an observation may be before it counts for nothing.
const Stale = 3 * time.Minute

// fresh returns what a source says, when that is not stale.
func (n *Node) fresh(s Source, now time.Time) (Seen, bool) {
	seen, ok := n.Observed[s]
	return seen, ok && now.Sub(seen.At) < Stale
}

// Aliveness decides from what was observed whether a node can be worked with:
// its controller answers, or it itself does. The controller counts less than
// the machine: one that is silent while the machine answers is a fault of its
// own (see Policy).
func Aliveness(n *Node, now time.Time) (alive bool, reason string) {
	for _, s := range []Source{AgentSource, NetworkSource, BMCSource} {
		if seen, ok := n.fresh(s, now); ok && seen.OK {
			return true, string(s) + " answers"
		}
	}
	if seen, ok := n.fresh(BMCSource, now); ok {
		return false, "bmc: " + seen.Detail
	}
	return false, fmt.Sprintf("nothing was heard of it for %v", Stale)
}

// Observe keeps observations, and draws the conclusions: when a node dies, its
// tasks and all that depend on them are blocked in the same transaction, and
// the other way round when it is back.
func (v *Inventory) Observe(ctx context.Context, name string, observed ...Observation) error {
	return v.change(ctx, name, func(tx *store.Tx, n *Node) error {
		now := v.now()
		for _, o := range observed {
			if err := v.keep(ctx, tx, n, o, now); err != nil {
				return err
			}
		}
		return v.conclude(ctx, tx, n, now)
	})
}

func (v *Inventory) keep(ctx context.Context, tx *store.Tx, n *Node, o Observation, now time.Time) error {
	s := Seen{OK: o.OK, Detail: o.Detail, At: now, Since: now}
	if old, ok := n.Observed[o.Source]; ok && old.OK == o.OK && old.kind(o.Source) == s.kind(o.Source) {
		s.Since = old.Since
	}
	n.Observed[o.Source] = s
	_, err := tx.Exec(ctx, `INSERT INTO observation (node, source, ok, detail, at, since) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (node, source) DO UPDATE SET ok = excluded.ok, detail = excluded.detail, at = excluded.at, since = excluded.since`,
		n.Name, o.Source, o.OK, o.Detail, store.Millis(s.At), store.Millis(s.Since))
	if err != nil || o.Power == testbed.Unknown {
		return err
	}
	if err := tx.One(ctx, "UPDATE node SET power = ?, power_at = ? WHERE name = ?", powerText(o.Power), store.Millis(now), n.Name); err != nil {
		return err
	}
	if o.Power == n.Power {
		return nil
	}
	n.Power = o.Power
	return v.event(ctx, tx, n.Name, "power", "bmc", "observed %s", o.Power)
}

func (v *Inventory) conclude(ctx context.Context, tx *store.Tx, n *Node, now time.Time) error {
	alive, reason := Aliveness(n, now)
	if alive == n.Alive && (alive || reason == n.AliveReason) {
		return nil
	}
	if err := tx.One(ctx, "UPDATE node SET alive = ?, alive_reason = ? WHERE name = ?", alive, reason, n.Name); err != nil {
		return err
	}
	if alive == n.Alive {
		return nil
	}
	word := "dead"
	if alive {
		word = "alive"
	}
	if err := v.event(ctx, tx, n.Name, "alive", "imgpipe", "%s: %s", word, reason); err != nil {
		return err
	}
	return v.block(ctx, tx)
}

// Review draws the conclusions again for all nodes: what nobody observes any
// more grows stale. Leases whose time is over end.
func (v *Inventory) Review(ctx context.Context) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error {
		if err := v.expire(ctx, tx); err != nil {
			return err
		}
		nodes, err := selectNodes(ctx, tx, "")
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if err := v.conclude(ctx, tx, n, v.now()); err != nil {
				return err
			}
		}
		return nil
	})
}
