package attest

import (
	"encoding/json"
	"fmt"

	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
)

// Item is one statement that is attached to an image.
type Item struct {
	Digest  string   `json:"digest"`            // of what is attached
	Type    string   `json:"type"`              // of the predicate; empty where it has no statement
	Kind    string   `json:"kind,omitempty"`    // of a test: libvirt-smoke; of a promotion: the channel
	Result  string   `json:"result,omitempty"`  // of a test: PASSED, WARNED or FAILED; otherwise one line
	Run     string   `json:"run,omitempty"`     // the run that made it
	Signers []string `json:"signers,omitempty"` // IDs of the policy's keys that signed it
	Refused string   `json:"refused,omitempty"` // why it is not believed

	Predicate json.RawMessage `json:"predicate,omitempty"`
}

// List returns what is said of an image, in the order it was attached. With a
// policy, what none of its keys signed is refused.
func List(l *registry.Layout, digest string, policy *trust.Policy) ([]Item, error) {
	h, err := l.Resolve(digest)
	if err != nil {
		return nil, err
	}
	refs, err := l.Referrers(h.String(), "")
	if err != nil {
		return nil, err
	}
	var out []Item
	for _, r := range refs {
		envelope, err := Envelope(l, r)
		if err != nil {
			return nil, err
		}
		it := Item{Digest: r.Digest, Type: r.Annotations[AnnotationType], Kind: r.Annotations[AnnotationKind]}
		switch {
		case envelope != nil:
			it.read(envelope, h.String(), policy)
		case r.ArtifactType == registry.EvidenceType && policy != nil:
			it.Refused = "it is not signed: it is from before there were statements"
		case r.ArtifactType != registry.EvidenceType:
			continue // the build's manifest
		}
		out = append(out, it)
	}
	return out, nil
}

// read fills an item with what its envelope says.
func (it *Item) read(envelope []byte, digest string, policy *trust.Policy) {
	s, err := Read(envelope, digest, policy)
	if err == nil {
		it.Type, it.Signers, it.Predicate = s.Type, s.Signers, s.Predicate
		err = it.summary(s)
	}
	if err != nil {
		it.Refused = err.Error()
	}
}

// summary says in few words what a statement says.
func (it *Item) summary(s *Statement) error {
	switch s.Type {
	case TestResultType:
		t, err := s.Test()
		if err != nil {
			return err
		}
		it.Kind, it.Result, it.Run = t.Goldsmith.Kind, t.Result, t.Goldsmith.Run
	case PromotionType:
		var p Promotion
		if err := s.Decode(PromotionType, &p); err != nil {
			return err
		}
		it.Kind, it.Result = p.Channel, fmt.Sprintf("%s by %s: %s", p.Kind, p.Who, p.Why)
	case ProvenanceType:
		var p Provenance
		if err := s.Decode(ProvenanceType, &p); err != nil {
			return err
		}
		it.Result = fmt.Sprintf("%s, %d inputs", p.BuildDefinition.ExternalParameters.Definition.Name, len(p.BuildDefinition.ResolvedDependencies))
		it.Run = p.RunDetails.Metadata.InvocationID
	case PackageDiffType:
		var d PackageDiff
		if err := s.Decode(PackageDiffType, &d); err != nil {
			return err
		}
		it.Result = fmt.Sprintf("%d packages differ from %.19s", len(d.Changes), d.Against)
	case VulnDiffType:
		var d VulnDiff
		if err := s.Decode(VulnDiffType, &d); err != nil {
			return err
		}
		it.Result = fmt.Sprintf("%d new, %d gone, %d stay", len(d.New), len(d.Gone), len(d.Stays))
	}
	return nil
}
