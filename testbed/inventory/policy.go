package inventory

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"goldsmith/testbed"
)

// Action is what is done about a node.
type Action string

// The actions.
const (
	LeaveAlone Action = "leave-alone"
	Notify     Action = "notify"    // tell people, change nothing
	SetPower   Action = "set-power" // make the power as it is wanted
	PutAside   Action = "set-aside" // maintenance for the fault, which heals when the fault does
	Return     Action = "return"    // end the maintenance that a fault caused
	// Redeploy fences the node: it is taken from who has it, whose work fails as
	// the testbed's fault, and is off until the controller has confirmed that.
	// Then it is cleaned. One that nobody has, and that failed, gets what it was
	// deployed with once more before that: it has shown then that it works again.
	Redeploy Action = "fence-and-redeploy"
)

// Rule is one line of a recovery policy: when everything that it names is so,
// its action is taken. Of several the first counts.
type Rule struct {
	BMC     string   `json:"bmc,omitempty"`                  // "ok", "silent", "denied", … (testbed.FaultKind); empty: whatever
	Power   string   `json:"power,omitempty"`                // "as-wanted", "not-as-wanted"
	Network string   `json:"network,omitempty"`              // "ok" or "silent"
	Agent   string   `json:"agent,omitempty"`                // "ok" or "silent"
	Health  string   `json:"health,omitempty"`               // "ok" or "failing"
	States  []State  `yaml:"states" json:"states,omitempty"` // one of them; nil: whatever
	For     Duration `json:"for,omitempty"`                  // it has been so for that long
	Do      Action   `json:"do"`
}

// Duration is a time.Duration that files and records write as "90s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 90s or 5m", b)
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Policy is what is done about a node, by what is observed.
type Policy []Rule

// DefaultPolicy is that of nodes without rules of their own. What only looks
// dead is left alone for a while: a machine that starts is silent for minutes.
var DefaultPolicy = Policy{
	{BMC: "ok", Power: "not-as-wanted", Do: SetPower},
	{BMC: "silent", Network: "ok", For: Duration(5 * time.Minute), Do: Notify},
	{BMC: "silent", Do: PutAside},
	{BMC: "denied", Do: PutAside},
	{BMC: "unconfirmed", Do: PutAside},
	{BMC: "broken", Do: PutAside},
	{BMC: "ok", Network: "silent", Agent: "silent", States: []State{Testing}, For: Duration(10 * time.Minute), Do: Redeploy},
	{Health: "failing", States: []State{Testing}, For: Duration(5 * time.Minute), Do: Notify},
}

// Decision is what a policy says about a node, and why.
type Decision struct {
	Do     Action
	Rule   int // number of the rule, from 1 on; 0: none, or the policy's own rules of conduct
	Reason string
}

func (r Rule) check() error {
	one := func(key, value string, of ...string) error {
		if value == "" || slices.Contains(of, value) {
			return nil
		}
		return fmt.Errorf("%s %q: expected %s", key, value, strings.Join(of, ", "))
	}
	for _, err := range []error{
		one("bmc", r.BMC, "ok", string(testbed.Silent), string(testbed.Denied), string(testbed.Unconfirmed), string(testbed.Broken), string(testbed.Stolen)),
		one("power", r.Power, "as-wanted", "not-as-wanted"),
		one("network", r.Network, "ok", "silent"),
		one("agent", r.Agent, "ok", "silent"),
		one("health", r.Health, "ok", "failing"),
	} {
		if err != nil {
			return err
		}
	}
	for _, s := range r.States {
		if _, ok := next[s]; !ok {
			return fmt.Errorf("states: there is no state %q", s)
		}
	}
	if r.Do == Redeploy && r.For < Duration(time.Minute) {
		return fmt.Errorf("do %q: for must be 1m at least: a machine that starts is silent, too", r.Do)
	}
	switch r.Do {
	case LeaveAlone, Notify, SetPower, PutAside, Redeploy:
		return nil
	}
	return fmt.Errorf("do %q: expected %s, %s, %s, %s or %s", r.Do, LeaveAlone, Notify, SetPower, PutAside, Redeploy)
}

// Decide says what is to be done about a node now. It depends on nothing but
// its arguments. Maintenance by a person always stands; maintenance that a
// fault caused ends when the controller is well again.
func (p Policy) Decide(n *Node, now time.Time) Decision {
	bmc, known := n.fresh(BMCSource, now)
	if n.Aside != nil && n.Aside.Fault == "" {
		return Decision{LeaveAlone, 0, "in maintenance by " + n.Aside.Owner}
	}
	if n.Aside != nil && known && bmc.OK && n.healed() {
		return Decision{Return, 0, fmt.Sprintf("the controller is well again (was: %s)", n.Aside.Fault)}
	}
	for i, r := range p {
		reason, ok := r.matches(n, now)
		if !ok {
			continue
		}
		if r.Do == PutAside && n.Aside != nil {
			return Decision{LeaveAlone, i + 1, "set aside already: " + reason}
		}
		return Decision{r.Do, i + 1, reason}
	}
	return Decision{LeaveAlone, 0, "no rule is about what is observed"}
}

// healed tells whether the fault that put a node aside is gone once its
// controller answers. One that did not do as it was told has done it by now.
func (n *Node) healed() bool { return n.Aside.Fault != testbed.Unconfirmed || n.asWanted() }

func (n *Node) asWanted() bool { return n.Wanted == testbed.Unknown || n.Wanted == n.Power }

// matches tells whether everything that the rule names is so, and for long
// enough, and says it in words.
func (r Rule) matches(n *Node, now time.Time) (string, bool) {
	since := n.Since // the youngest of what must have been so
	var said []string
	is := func(source Source, want string, got string, seen Seen) bool {
		if want == "" {
			return true
		}
		if got != want {
			return false
		}
		if seen.Since.After(since) {
			since = seen.Since
		}
		said = append(said, string(source)+" "+got)
		return true
	}
	state := func(s Source, bad string) (string, Seen) {
		seen, ok := n.fresh(s, now)
		switch {
		case !ok && (s == BMCSource || s == HealthSource):
			return "", seen // not known: no rule is about it
		case !ok: // silent since then, or always
			return bad, Seen{Since: n.Observed[s].At}
		case seen.OK:
			return "ok", seen
		case s == BMCSource:
			return seen.kind(s), seen
		}
		return bad, seen
	}
	for _, c := range []struct {
		source    Source
		want, bad string
	}{{BMCSource, r.BMC, ""}, {NetworkSource, r.Network, "silent"}, {AgentSource, r.Agent, "silent"}, {HealthSource, r.Health, "failing"}} {
		got, seen := state(c.source, c.bad)
		if !is(c.source, c.want, got, seen) {
			return "", false
		}
	}
	if r.Power != "" {
		if (r.Power == "as-wanted") != n.asWanted() {
			return "", false
		}
		said = append(said, fmt.Sprintf("power %v, wanted %v", n.Power, n.Wanted))
	}
	if r.States != nil && !slices.Contains(r.States, n.State) {
		return "", false
	}
	if r.For > 0 && now.Sub(since) < time.Duration(r.For) {
		return "", false
	}
	return fmt.Sprintf("%s (%s)", strings.Join(said, ", "), n.State), true
}

// Policy returns the rules that count for the node.
func (n *Node) Policy() Policy {
	if n.Spec.Recovery != nil {
		return n.Spec.Recovery
	}
	return DefaultPolicy
}
