package pipeline

import (
	"fmt"
	"strings"
)

// Proof is one piece of evidence about an image, as far as a gate cares.
type Proof struct {
	Kind   string // such as libvirt-smoke
	Passed bool
}

// Refusal says why an image may not enter a channel.
type Refusal struct {
	Image   string   // its digest
	Channel string   //
	Missing []string // kinds of evidence that are not there
	Failed  []string // kinds whose newest evidence is a failure
}

func (e *Refusal) Error() string {
	var parts []string
	if len(e.Missing) > 0 {
		parts = append(parts, "missing evidence: "+strings.Join(e.Missing, ", "))
	}
	if len(e.Failed) > 0 {
		parts = append(parts, "failed evidence: "+strings.Join(e.Failed, ", "))
	}
	return fmt.Sprintf("%s refused for %s: %s", short(e.Image), e.Channel, strings.Join(parts, "; "))
}

// Gate decides whether an image with these proofs, oldest first, may enter a
// channel: nil, or a *Refusal that names everything that is missing. Of each
// kind the newest counts: a failure is not forgiven by an older success.
func (c *Channel) Gate(image string, proofs []Proof) error {
	newest := map[string]bool{}
	known := map[string]bool{}
	for _, p := range proofs {
		newest[p.Kind], known[p.Kind] = p.Passed, true
	}
	r := &Refusal{Image: image, Channel: c.Name}
	for _, kind := range c.Requires {
		switch {
		case !known[kind]:
			r.Missing = append(r.Missing, kind)
		case !newest[kind]:
			r.Failed = append(r.Failed, kind)
		}
	}
	if len(r.Missing)+len(r.Failed) > 0 {
		return r
	}
	return nil
}

// short is the beginning of a digest, enough for people.
func short(digest string) string {
	if len(digest) > 19 {
		return digest[:19]
	}
	return digest
}
