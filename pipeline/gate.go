package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Proof is one piece of evidence about an image, as far as a gate cares.
type Proof struct {
	Digest string `json:"digest"` // of what is attached to the image
	// ID is the same for what says the same. What is attached once more counts
	// where it was attached first; empty: it is like no other.
	ID      string    `json:"id,omitempty"`
	Kind    string    `json:"kind"`              // such as libvirt-smoke
	Variant string    `json:"variant,omitempty"` // the machine's firmware
	Passed  bool      `json:"passed"`
	Rerun   bool      `json:"rerun,omitempty"` // it passed only when it was run again
	At      time.Time `json:"at,omitzero"`     // when the test ended, as the evidence says
	// Signers are the entries of the policy's signed-by whose signature on it
	// is good.
	Signers []string `json:"signers,omitempty"`
	// Refused says why it is not believed, whatever else it says: a wrong
	// signature, another image. Empty means that it is.
	Refused string `json:"refused,omitempty"`
}

// Stay is one stretch of time in which a channel held an image.
type Stay struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"` // zero: it does still
	// RolledBack tells that it ended because the channel was rolled back.
	RolledBack bool `json:"rolled_back,omitempty"`
}

// Stop is an operator's word that keeps images out: a hold of a channel or an
// image, or a freeze.
type Stop struct {
	What  string    `json:"what"` // hold, rollback or freeze
	On    string    `json:"on"`   // the channel, the image, or "all"
	Who   string    `json:"who"`
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"` // zero: until somebody ends it
}

// Approval is one person's word for an image in a channel.
type Approval struct {
	Who string    `json:"who"`
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"`
}

// Facts are everything that a gate knows about an image and a channel.
type Facts struct {
	Image     string     `json:"image"`               // its digest
	Proofs    []Proof    `json:"proofs,omitempty"`    // in the order they were attached
	Stays     []Stay     `json:"stays,omitempty"`     // of the image in the channel's From
	Stops     []Stop     `json:"stops,omitempty"`     // that concern the image or the channel
	Approvals []Approval `json:"approvals,omitempty"` // of the image for the channel, not withdrawn
	Authors   []string   `json:"authors,omitempty"`   // who made it: of the commit, of the runs
}

// Reason is which part of a policy is not satisfied.
type Reason string

// The reasons.
const (
	EvidenceMissing  Reason = "evidence-missing"
	EvidenceFailed   Reason = "evidence-failed"
	EvidenceUnsigned Reason = "evidence-unsigned" // there is some, but nobody who counts has signed it
	EvidenceRerun    Reason = "evidence-rerun"    // it passed only when run again, and that does not count
	NotFrom          Reason = "from"              // the image was never in the channel before
	Soaking          Reason = "soak"
	ApprovalMissing  Reason = "approval"
	AuthorUnknown    Reason = "author"
	Frozen           Reason = "freeze"
	Held             Reason = "hold"
)

// Unmet is one criterion that is not satisfied.
type Unmet struct {
	Reason Reason    `json:"reason"`
	What   string    `json:"what"`           // which: kinds of evidence, a channel, who held it
	Text   string    `json:"text"`           // in words, one line
	Since  time.Time `json:"since,omitzero"` // since when it is so
	Until  time.Time `json:"until,omitzero"` // when it ends by itself; zero: it does not
}

// Decision is what a gate says.
type Decision struct {
	Image     string     `json:"image"`
	Channel   string     `json:"channel"`
	At        time.Time  `json:"at"` // the time that it was asked about
	Open      bool       `json:"open"`
	Unmet     []Unmet    `json:"unmet,omitempty"`
	Met       []string   `json:"met,omitempty"`       // the criteria that are satisfied, in words
	Evidence  []string   `json:"evidence,omitempty"`  // digests of the evidence that counted
	Approvals []Approval `json:"approvals,omitempty"` // that counted
}

// Refusal is the error of a decision that is not open.
type Refusal struct{ Decision Decision }

func (e *Refusal) Error() string {
	words := []struct {
		Reason
		text string
	}{{EvidenceMissing, "missing evidence"}, {EvidenceFailed, "failed evidence"}, {EvidenceUnsigned, "evidence that nobody who counts has signed"}, {EvidenceRerun, "evidence that passed only when run again"}}
	var parts []string
	for _, w := range words {
		var what []string
		for _, u := range e.Decision.Unmet {
			if u.Reason == w.Reason {
				what = append(what, u.What)
			}
		}
		if len(what) > 0 {
			parts = append(parts, w.text+": "+strings.Join(what, ", "))
		}
	}
	for _, u := range e.Decision.Unmet {
		if !strings.HasPrefix(string(u.Reason), "evidence-") {
			parts = append(parts, u.Text)
		}
	}
	return fmt.Sprintf("%s refused for %s: %s", short(e.Decision.Image), e.Decision.Channel, strings.Join(parts, "; "))
}

// Err is nil for a decision that is open, otherwise a *[Refusal].
func (d Decision) Err() error {
	if d.Open {
		return nil
	}
	return &Refusal{d}
}

// gate collects a decision.
type gate struct {
	c     *Channel
	facts Facts
	now   time.Time
	d     Decision
}

// Gate decides whether an image may enter a channel at a time: it depends on
// nothing but its arguments and changes none. The decision names every
// criterion that is not satisfied. Of each kind of evidence the newest counts:
// a failure is not forgiven by an older success, nor by one that is attached
// once more.
func Gate(c *Channel, facts Facts, now time.Time) Decision {
	g := &gate{c: c, facts: facts, now: now, d: Decision{Image: facts.Image, Channel: c.Name, At: now}}
	for _, r := range c.Requires {
		g.evidence(r)
	}
	g.from()
	g.approvals()
	g.stops()
	slices.Sort(g.d.Evidence)
	g.d.Evidence = slices.Compact(g.d.Evidence)
	g.d.Open = len(g.d.Unmet) == 0
	return g.d
}

func (g *gate) unmet(u Unmet)               { g.d.Unmet = append(g.d.Unmet, u) }
func (g *gate) met(format string, a ...any) { g.d.Met = append(g.d.Met, fmt.Sprintf(format, a...)) }

// from checks that the image was where it must have been, for long enough. A
// stay that ended with a rollback does not count, nor does one from before it.
func (g *gate) from() {
	if g.c.From == "" {
		return
	}
	var longest time.Duration
	var stay *Stay
	for i := range g.facts.Stays {
		s := &g.facts.Stays[i]
		if s.RolledBack {
			longest, stay = 0, nil
			continue
		}
		until := s.Until
		if until.IsZero() || until.After(g.now) {
			until = g.now
		}
		if d := until.Sub(s.Since); stay == nil || d >= longest {
			longest, stay = d, s
		}
	}
	soak := g.c.soak()
	switch {
	case stay == nil:
		g.unmet(Unmet{Reason: NotFrom, What: g.c.From, Text: "it was not in " + g.c.From})
	case longest < soak && stay.Until.IsZero():
		until := stay.Since.Add(soak)
		g.unmet(Unmet{Reason: Soaking, What: g.c.From, Since: stay.Since, Until: until,
			Text: fmt.Sprintf("soaked %s of %s in %s, until %s", coarse(longest), g.c.Soak, g.c.From, stamp(until))})
	case longest < soak:
		g.unmet(Unmet{Reason: Soaking, What: g.c.From, Since: stay.Since,
			Text: fmt.Sprintf("soaked %s of %s in %s, which it has left", coarse(longest), g.c.Soak, g.c.From)})
	case soak > 0:
		g.met("soaked %s in %s", g.c.Soak, g.c.From)
	default:
		g.met("was in %s", g.c.From)
	}
}

// approvals counts people who may approve, each once, without the authors.
func (g *gate) approvals() {
	a := g.c.Approvals
	if a == nil {
		return
	}
	expires, _ := span(a.Expires)
	same := func(x, y string) bool { return strings.EqualFold(strings.TrimSpace(x), strings.TrimSpace(y)) }
	in := func(list []string, who string) bool {
		return slices.ContainsFunc(list, func(x string) bool { return same(x, who) })
	}
	if len(g.facts.Authors) == 0 {
		g.unmet(Unmet{Reason: AuthorUnknown, What: "author", Text: "nobody knows who made it, so that its author could approve it"})
	}
	var counted []string
	for _, p := range g.facts.Approvals {
		expired := expires > 0 && g.now.Sub(p.At) >= expires
		if in(a.People, p.Who) && !in(g.facts.Authors, p.Who) && !in(counted, p.Who) && !expired {
			counted = append(counted, p.Who)
			g.d.Approvals = append(g.d.Approvals, p)
		}
	}
	if n := a.Count - len(counted); n > 0 || a.Count < 1 {
		var may []string
		for _, p := range a.People {
			if !in(g.facts.Authors, p) && !in(counted, p) {
				may = append(may, p)
			}
		}
		text := fmt.Sprintf("%d of %d approvals", len(counted), a.Count)
		if len(may) > 0 {
			text += ", missing one of " + strings.Join(may, ", ")
		} else {
			text += ", and nobody is left who may give one: not its author"
		}
		g.unmet(Unmet{Reason: ApprovalMissing, What: strings.Join(may, ", "), Text: text})
		return
	}
	g.met("approved by %s", strings.Join(counted, ", "))
}

// stops are windows of the policy, and what operators have stopped.
func (g *gate) stops() {
	for _, w := range g.c.Freeze {
		if since, until, frozen := w.at(g.now); frozen {
			g.unmet(Unmet{Reason: Frozen, What: w.text(), Since: since, Until: until,
				Text: fmt.Sprintf("frozen until %s (%s)", stamp(until), w.text())})
		}
	}
	for _, s := range slices.SortedStableFunc(slices.Values(g.facts.Stops), func(a, b Stop) int { return cmp.Compare(a.On, b.On) }) {
		if !s.Until.IsZero() && !g.now.Before(s.Until) {
			continue
		}
		reason, word, end := Held, "held", "until it is released"
		switch s.What {
		case "freeze":
			reason, word, end = Frozen, "frozen", "until it is thawed"
		case "rollback":
			word = "rolled back"
		}
		if !s.Until.IsZero() {
			end = "until " + stamp(s.Until)
		}
		g.unmet(Unmet{Reason: reason, What: s.On, Since: s.Since, Until: s.Until,
			Text: fmt.Sprintf("%s %s by %s %s: %s", short(s.On), word, s.Who, end, s.Why)})
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// coarse is a duration to the minute, or to the second below one.
func coarse(d time.Duration) string {
	if d < time.Minute {
		return d.Truncate(time.Second).String()
	}
	return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
}

// short is the beginning of a digest, enough for people.
func short(digest string) string {
	if strings.HasPrefix(digest, "sha256:") && len(digest) > 19 {
		return digest[:19]
	}
	return digest
}
