// Package inventory keeps the machines of a testbed: what they are, how they
// are, who has them, and what is done on them. It is the state of imgpipe that
// outlives its processes, in the tables of internal/store.
//
// A [Node] is a machine. It is declared in a file ([Load]) or discovered on the
// network. Two things are kept apart: whether it is alive, which is observed
// ([Inventory.Observe]), and whether it may be used, which an operator allows.
// Its [State] says where in its life it is. A whole node is leased at a time
// ([Inventory.Acquire]); the lease's fence number makes sure that nobody who
// lost a node can still change it. What is done on a node are tasks, one at a
// time.
//
// What is decided is decided by pure functions: [Request.Match], [Next],
// [Aliveness], [Ready], [Policy.Decide]. Each change is one transaction and
// leaves an event that says who did what.
package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/testbed"
)

// Inventory is the nodes of one imgpipe. It is safe for several goroutines;
// several processes may have one each on the same database.
type Inventory struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	db  *store.DB
}

// New returns the inventory that is in db.
func New(db *store.DB) *Inventory { return &Inventory{db: db} }

// Shared tells whether processes on other machines may use the same inventory.
func (v *Inventory) Shared() bool { return v.db.Postgres() }

// Time is what the inventory's clock says.
func (v *Inventory) Time() time.Time { return v.now() }

func (v *Inventory) now() time.Time {
	if v.Now != nil {
		return v.Now().UTC()
	}
	return time.Now().UTC()
}

// Node is one machine and how it is.
type Node struct {
	Name     string          `json:"name"`
	Spec     Spec            `json:"spec"`
	Declared bool            `json:"declared"`           // in a file; otherwise it was discovered
	Hardware json.RawMessage `json:"hardware,omitempty"` // what the deploy ramdisk found; nil before that
	State    State           `json:"state"`
	Reason   string          `json:"reason,omitempty"` // why, where the state is a failure
	Since    time.Time       `json:"since"`            // of the state
	Allowed  bool            `json:"allowed"`          // an operator lets it be used

	Alive       bool            `json:"alive"`
	AliveReason string          `json:"alive_reason,omitempty"`
	Wanted      testbed.Power   `json:"wanted_power"` // Unknown: nobody wants anything
	Power       testbed.Power   `json:"power"`        // as observed last; Unknown: never
	PowerAt     time.Time       `json:"power_at"`     // when that was
	Observed    map[Source]Seen `json:"observed,omitempty"`

	Aside *Aside `json:"maintenance,omitempty"` // nil: it is in service
	Image string `json:"image,omitempty"`       // digest of what was deployed last; empty: nothing, or it was wiped
	// Deployment is what was deployed last, or was to be, as Deploying got it: it
	// has secrets. Empty: nothing, or it was wiped.
	Deployment []byte `json:"-"`
	Lease      *Lease `json:"lease,omitempty"` // nil: nobody has it
	Fence      int64  `json:"fence"`           // of the newest lease
}

// Aside says that a node is in maintenance: nothing new begins on it.
type Aside struct {
	Owner  string `json:"owner"` // who put it aside; the program itself for a fault
	Reason string `json:"reason"`
	// Fault is what was observed; empty when a person put the node aside.
	// Only faults heal by themselves.
	Fault testbed.FaultKind `json:"fault,omitempty"`
	Since time.Time         `json:"since"`
}

// ErrUnknown says that there is no node of that name.
var ErrUnknown = errors.New("not in the inventory")

func unknown(name string) error {
	return command.BadInput(fmt.Errorf("node %s: %w", name, ErrUnknown), "'imgpipe node ls' lists the nodes")
}

// Nodes returns all nodes, by name.
func (v *Inventory) Nodes(ctx context.Context) (nodes []*Node, err error) {
	err = v.db.View(ctx, func(tx *store.Tx) error {
		nodes, err = selectNodes(ctx, tx, "")
		return err
	})
	return nodes, err
}

// Node returns one node. The error wraps ErrUnknown when it is not there.
func (v *Inventory) Node(ctx context.Context, name string) (n *Node, err error) {
	err = v.db.View(ctx, func(tx *store.Tx) error {
		n, err = selectNode(ctx, tx, name)
		return err
	})
	return n, err
}

// ByMAC returns the node that has a network card of that address.
func (v *Inventory) ByMAC(ctx context.Context, mac net.HardwareAddr) (*Node, error) {
	nodes, err := v.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if slices.Contains(n.Spec.MACs, mac.String()) {
			return n, nil
		}
	}
	return nil, unknown(mac.String())
}

func selectNode(ctx context.Context, tx *store.Tx, name string) (*Node, error) {
	nodes, err := selectNodes(ctx, tx, name)
	if err == nil && len(nodes) == 0 {
		err = unknown(name)
	}
	if err != nil {
		return nil, err
	}
	return nodes[0], nil
}

// selectNodes reads the node called name, or all when that is empty.
func selectNodes(ctx context.Context, tx *store.Tx, name string) ([]*Node, error) {
	rows, err := tx.Query(ctx, `SELECT name, spec, declared, hardware, state, reason, since, allowed, alive, alive_reason,
		wanted_power, power, power_at, aside_by, aside_why, aside_fault, aside_at, image, deployment, fence FROM node WHERE ?1 = '' OR name = ?1 ORDER BY name`, name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var nodes []*Node
	byName := map[string]*Node{}
	for rows.Next() {
		n, err := scanNode(rows)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
		byName[n.Name] = n
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if err := addObservations(ctx, tx, name, byName); err != nil {
		return nil, err
	}
	leases, err := selectLeases(ctx, tx, `ended = 0 AND (?1 = '' OR node = ?1)`, name)
	for _, l := range leases {
		byName[l.Node].Lease = l
	}
	return nodes, err
}

func scanNode(rows *sql.Rows) (*Node, error) {
	n, a := &Node{Observed: map[Source]Seen{}}, &Aside{}
	var spec, hardware, wanted, power string
	var since, powerAt, asideAt int64
	err := rows.Scan(&n.Name, &spec, &n.Declared, &hardware, &n.State, &n.Reason, &since, &n.Allowed, &n.Alive, &n.AliveReason,
		&wanted, &power, &powerAt, &a.Owner, &a.Reason, &a.Fault, &asideAt, &n.Image, &n.Deployment, &n.Fence)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(spec), &n.Spec); err != nil {
		return nil, fmt.Errorf("node %s: its record is damaged: %w", n.Name, err)
	}
	if hardware != "" {
		n.Hardware = json.RawMessage(hardware)
	}
	n.Since, n.PowerAt = store.Time(since), store.Time(powerAt)
	n.Wanted, n.Power = parsePower(wanted), parsePower(power)
	if a.Owner != "" {
		a.Since = store.Time(asideAt)
		n.Aside = a
	}
	return n, nil
}

func addObservations(ctx context.Context, tx *store.Tx, name string, nodes map[string]*Node) error {
	rows, err := tx.Query(ctx, "SELECT node, source, ok, detail, at, since FROM observation WHERE ?1 = '' OR node = ?1", name)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var node string
		var source Source
		var s Seen
		var at, since int64
		if err := rows.Scan(&node, &source, &s.OK, &s.Detail, &at, &since); err != nil {
			return err
		}
		s.At, s.Since = store.Time(at), store.Time(since)
		nodes[node].Observed[source] = s
	}
	return rows.Err()
}

// powerText is how a power is kept; the reverse of parsePower.
func powerText(p testbed.Power) string {
	if p == testbed.Unknown {
		return ""
	}
	return p.String()
}

func parsePower(s string) testbed.Power {
	switch s {
	case testbed.On.String():
		return testbed.On
	case testbed.Off.String():
		return testbed.Off
	}
	return testbed.Unknown
}

// Event is something that happened.
type Event struct {
	ID   int64     `json:"id"` // grows with time
	Time time.Time `json:"time"`
	Node string    `json:"node,omitempty"`
	Kind string    `json:"kind"` // what the event is about: "state", "lease", "power", "alive", "task", "operator", "recovery"
	Who  string    `json:"who,omitempty"`
	What string    `json:"what"`
}

// Events returns what happened to a node, or to all when node is empty, oldest
// first: at most limit, the newest of them.
func (v *Inventory) Events(ctx context.Context, node string, limit int) (events []Event, err error) {
	err = v.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id, at, node, kind, who, what FROM
			(SELECT * FROM event WHERE ?1 = '' OR node = ?1 ORDER BY id DESC LIMIT ?2) AS newest ORDER BY id`, node, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Event
			var at int64
			if err := rows.Scan(&e.ID, &at, &e.Node, &e.Kind, &e.Who, &e.What); err != nil {
				return err
			}
			e.Time = store.Time(at)
			events = append(events, e)
		}
		return rows.Err()
	})
	return events, err
}

// Note adds an event about a node from outside of the inventory.
func (v *Inventory) Note(ctx context.Context, node, kind, who, what string) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error { return v.event(ctx, tx, node, kind, who, "%s", what) })
}

// maxEvent bounds what others may have said in an event, in bytes.
const maxEvent = 2000

func (v *Inventory) event(ctx context.Context, tx *store.Tx, node, kind, who, format string, args ...any) error {
	what := strings.ToValidUTF8(fmt.Sprintf(format, args...), "?")
	if len(what) > maxEvent {
		what = strings.ToValidUTF8(what[:maxEvent], "") + "…"
	}
	tx.Did(node + ": " + what)
	_, err := tx.Exec(ctx, "INSERT INTO event (at, node, kind, who, what) VALUES (?, ?, ?, ?, ?)", store.Millis(v.now()), node, kind, who, what)
	return err
}
