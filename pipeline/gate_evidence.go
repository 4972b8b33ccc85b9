package pipeline

import (
	"fmt"
	"strings"
)

// standing is what the evidence of one kind says.
type standing struct {
	reason  Reason // empty: it is a pass
	digests []string
	detail  string // what else is to be said, in words
}

// evidence checks one requirement: one of its kinds must be a pass.
func (g *gate) evidence(r Requirement) {
	var worst standing
	var said []string
	for _, kind := range r {
		v := g.judge(kind)
		if v.reason == "" {
			g.d.Evidence = append(g.d.Evidence, v.digests...)
			g.met("%s passed%s", kind, v.detail)
			return
		}
		text := fmt.Sprintf("%s %s", kind, strings.TrimPrefix(string(v.reason), "evidence-"))
		if v.detail != "" {
			text += " (" + v.detail + ")"
		}
		said = append(said, text)
		if worst.reason == "" || worst.reason == EvidenceMissing {
			worst = v
		}
	}
	if worst.reason == "" { // a requirement without kinds
		worst.reason = EvidenceMissing
	}
	g.unmet(Unmet{Reason: worst.reason, What: r.String(), Text: strings.Join(said, "; ")})
}

// judge says how an image stands in one kind of evidence: on every variant of
// the machine the newest must be a pass.
func (g *gate) judge(kind string) standing {
	variants := map[string][]Proof{}
	var order []string
	unsigned, refused := 0, ""
	seen := map[string]bool{}
	for _, p := range g.facts.Proofs {
		if p.Kind != kind && p.Kind+"-"+p.Variant != kind {
			continue
		}
		switch {
		case p.Refused != "":
			refused = short(p.Digest) + " refused: " + p.Refused
			continue
		case len(g.c.SignedBy) > 0 && len(p.Signers) == 0:
			unsigned++
			continue
		case p.ID != "" && seen[p.ID]:
			continue
		}
		seen[p.ID] = true
		if variants[p.Variant] == nil {
			order = append(order, p.Variant)
		}
		variants[p.Variant] = append(variants[p.Variant], p)
	}
	switch {
	case len(order) == 0 && unsigned > 0:
		return standing{reason: EvidenceUnsigned, detail: refused}
	case len(order) == 0:
		return standing{reason: EvidenceMissing, detail: refused}
	}
	v := standing{}
	for _, name := range order {
		p := variants[name][len(variants[name])-1]
		switch {
		case !p.Passed:
			return standing{reason: EvidenceFailed, detail: name}
		case p.Rerun && g.c.Reruns == "refuse":
			v.reason, v.detail = EvidenceRerun, name
		case p.Rerun && v.reason == "":
			v.detail = ", but only when run again"
		}
		v.digests = append(v.digests, p.Digest)
	}
	return v
}
