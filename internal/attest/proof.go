package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
	"goldsmith/pipeline"
)

// Annotations of what is attached to an image, so that a reader need not open
// it. They prove nothing.
const (
	AnnotationKind   = "vnd.goldsmith.evidence.kind"
	AnnotationResult = "vnd.goldsmith.evidence.result"
	// AnnotationType is the predicate's of a statement.
	AnnotationType = "in-toto.io/predicate-type"
)

// Titles of attached files.
const (
	evidenceTitle = "evidence.json"
	envelopeTitle = "evidence.dsse.json"
	junitTitle    = "junit.xml"
	// Title is that of a statement which is attached by itself.
	Title = "statement.dsse.json"
)

// AttachEvidence attaches evidence to the image it is about: as JSON, as JUnit,
// and as a statement, signed by the keys. It returns the digest of what was
// attached.
func AttachEvidence(l *registry.Layout, e *evidence.Evidence, keys ...*trust.PrivateKey) (string, error) {
	content, err := e.Encode()
	if err != nil {
		return "", err
	}
	junit, err := e.JUnit()
	if err != nil {
		return "", err
	}
	img, err := l.Image(e.Subject)
	if err != nil {
		return "", err
	}
	envelope, err := Make(img.Name, img.Digest, TestResultType, Tested(e, content), keys...)
	if err != nil {
		return "", err
	}
	return l.Attach(e.Subject, registry.EvidenceType,
		map[string]string{AnnotationKind: e.Kind, AnnotationResult: string(e.Result)},
		registry.Blob{Title: evidenceTitle, MediaType: registry.EvidenceType, Content: content},
		registry.Blob{Title: junitTitle, MediaType: "application/xml", Content: junit},
		registry.Blob{Title: envelopeTitle, MediaType: trust.MediaType, Content: envelope})
}

// Attach attaches a statement to an image, signed by the keys, and returns the
// digest of what was attached. The same once more changes nothing.
func Attach(l *registry.Layout, digest, predicateType string, predicate any, keys ...*trust.PrivateKey) (string, error) {
	img, err := l.Image(digest)
	if err != nil {
		return "", err
	}
	envelope, err := Make(img.Name, img.Digest, predicateType, predicate, keys...)
	if err != nil {
		return "", err
	}
	return AttachEnvelope(l, img.Digest, predicateType, envelope)
}

// AttachEnvelope is [Attach] for a statement that was made already.
func AttachEnvelope(l *registry.Layout, digest, predicateType string, envelope []byte) (string, error) {
	return l.Attach(digest, registry.StatementType, map[string]string{AnnotationType: predicateType},
		registry.Blob{Title: Title, MediaType: trust.MediaType, Content: envelope})
}

// Envelope returns the envelope of what is attached, nil when it has none.
func Envelope(l *registry.Layout, r registry.Referrer) ([]byte, error) {
	switch r.ArtifactType {
	case registry.EvidenceType:
		return l.Attached(r.Digest, envelopeTitle)
	case registry.StatementType:
		return l.Attached(r.Digest, Title)
	case registry.SignatureType:
		return l.Attached(r.Digest, trust.Title)
	}
	return nil, nil
}

// Proofs returns the evidence about an image as a gate reads it, in the order
// it was attached. keys are those of a policy's signed-by, by their entries
// there; nil when there are none. What cannot be believed is returned with the
// reason; only what cannot be read is an error.
func Proofs(l *registry.Layout, digest string, keys map[string]*trust.PublicKey) ([]pipeline.Proof, error) {
	refs, err := l.Referrers(digest, registry.EvidenceType)
	if err != nil {
		return nil, err
	}
	h, err := l.Resolve(digest)
	if err != nil {
		return nil, err
	}
	var proofs []pipeline.Proof
	for _, r := range refs {
		p := pipeline.Proof{Digest: r.Digest, Kind: r.Annotations[AnnotationKind]}
		content, err := l.Attached(r.Digest, evidenceTitle)
		if err != nil {
			return nil, err
		}
		envelope, err := Envelope(l, r)
		if err != nil {
			return nil, err
		}
		passed := r.Annotations[AnnotationResult] == string(evidence.Pass)
		if err := fill(&p, h.String(), content, envelope, keys); err != nil {
			p.Refused = err.Error()
		} else if p.Kind != r.Annotations[AnnotationKind] || p.Passed != passed {
			p.Refused = "its annotations say something else"
		}
		proofs = append(proofs, p)
	}
	return proofs, nil
}

// fill takes what evidence says from its statement, and from its JSON form
// where it is from before there were statements.
func fill(p *pipeline.Proof, digest string, content, envelope []byte, keys map[string]*trust.PublicKey) error {
	e := &evidence.Evidence{}
	if err := json.Unmarshal(content, e); err != nil {
		return fmt.Errorf("%s: %w", evidenceTitle, err)
	}
	sum := sha256.Sum256(content)
	hash := hex.EncodeToString(sum[:])
	if envelope == nil {
		if e.Subject != digest {
			return fmt.Errorf("it is about another image, %.80s", e.Subject)
		}
		p.ID, p.Kind, p.Variant, p.Passed = "sha256:"+hash, e.Kind, e.Machine.Firmware, e.Result == evidence.Pass
		p.Rerun, p.At = Rerun(e), e.Ended
		return nil
	}
	s, signers, err := opened(envelope, digest, keys)
	if err != nil {
		return err
	}
	t, err := s.Test()
	if err != nil {
		return err
	}
	if len(t.Configuration) != 1 || t.Configuration[0].Digest["sha256"] != hash {
		return fmt.Errorf("the statement is about another %s", evidenceTitle)
	}
	p.ID, p.Kind, p.Variant, p.Passed = s.ID, t.Goldsmith.Kind, t.Goldsmith.Machine.Firmware, t.Pass()
	p.Rerun, p.At, p.Signers = t.Goldsmith.Rerun, t.Goldsmith.Ended, signers
	return nil
}

// opened reads a statement, and the entries of the keys that signed it. One
// that nobody has signed is returned without; one whose signatures are not
// those of the keys is an error.
func opened(envelope []byte, digest string, keys map[string]*trust.PublicKey) (*Statement, []string, error) {
	if len(keys) == 0 {
		s, err := Read(envelope, digest, nil)
		return s, nil, err
	}
	var all []*trust.PublicKey
	for _, k := range keys {
		all = append(all, k)
	}
	s, err := Read(envelope, digest, trust.NewPolicy(all...))
	if errors.Is(err, trust.ErrUnsigned) {
		s, err = Read(envelope, digest, nil)
	}
	if err != nil {
		return nil, nil, err
	}
	var signers []string
	for entry, k := range keys {
		for _, id := range s.Signers {
			if k.ID == id {
				signers = append(signers, entry)
			}
		}
	}
	slices.Sort(signers)
	return s, signers, nil
}
