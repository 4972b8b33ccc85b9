// Package attest says things about images as in-toto statements
// (https://in-toto.io/Statement/v1) in DSSE envelopes, and reads what was
// said: how an image was built, how its tests ended, what is in it, how it
// differs from another, and that it was promoted.
//
// A statement is about one image, by the digest of its OCI manifest. It is
// believed when its form is right and it is about the image that was asked
// for; whose word it is, is a second question, which the reader asks by a
// [trust.Policy]. Package trust has the keys and makes the signatures.
//
// Where a predicate is another project's, its specification is named beside
// it; our own have types below https://goldsmith.invalid/, a name that leads
// nowhere and is nobody else's.
package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"goldsmith/internal/trust"
)

// Types of predicates.
const (
	ProvenanceType  = "https://slsa.dev/provenance/v1"
	TestResultType  = "https://in-toto.io/attestation/test-result/v0.1"
	SPDXType        = "https://spdx.dev/Document/v2.3" // in-toto/attestation, spec/predicates/spdx.md
	CycloneDXType   = "https://cyclonedx.org/bom/v1.6" // the same, cyclonedx.md
	PackageDiffType = "https://goldsmith.invalid/package-diff/v1"
	VulnDiffType    = "https://goldsmith.invalid/vulnerability-diff/v1"
	PromotionType   = "https://goldsmith.invalid/promotion/v1"
)

// MaxSize bounds an envelope, in bytes.
const MaxSize = 4 << 20

const statementType = "https://in-toto.io/Statement/v1"

// Statement is what an envelope says.
type Statement struct {
	Image     string          // digest of the image that it is about
	Type      string          // of the predicate
	Predicate json.RawMessage //
	ID        string          // "sha256:…" of the statement's bytes: the same for what says the same
	// Signers are the IDs of the policy's keys whose signature is good; none
	// without a policy.
	Signers []string
}

type wire struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

var digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Make returns an envelope with a statement about the image called name with
// that manifest digest, signed by each of the keys; without keys it is nobody's
// word. The same input gives the same bytes.
func Make(name, digest, predicateType string, predicate any, keys ...*trust.PrivateKey) ([]byte, error) {
	if !digestRE.MatchString(digest) {
		return nil, fmt.Errorf("%q is no digest", digest)
	}
	p, err := json.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(wire{statementType, []subject{{name, map[string]string{"sha256": strings.TrimPrefix(digest, "sha256:")}}}, predicateType, p})
	if err != nil {
		return nil, err
	}
	envelope, err := trust.Seal(payload, keys...)
	if err == nil && len(envelope) > MaxSize {
		err = fmt.Errorf("%s: more than %d bytes", predicateType, MaxSize)
	}
	return envelope, err
}

// Read returns what an envelope says of the image with that digest, and
// nothing of any other image. With a policy, one of its keys must have signed
// it; without one it is nobody's word.
func Read(envelope []byte, digest string, policy *trust.Policy) (*Statement, error) {
	var payload []byte
	var signers []string
	var err error
	if policy == nil {
		payload, err = trust.Unseal(envelope, MaxSize)
	} else {
		payload, signers, err = policy.Open(envelope, MaxSize)
	}
	if err != nil {
		return nil, err
	}
	var w wire
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	switch {
	case w.Type != statementType:
		return nil, fmt.Errorf("statement: %.80q is no in-toto statement", w.Type)
	case len(w.Subject) != 1:
		return nil, fmt.Errorf("statement: %d subjects, expected one", len(w.Subject))
	case "sha256:"+w.Subject[0].Digest["sha256"] != digest:
		return nil, fmt.Errorf("statement: it is about another image, sha256:%.64s", w.Subject[0].Digest["sha256"])
	case len(w.Predicate) == 0:
		return nil, errors.New("statement: no predicate")
	}
	sum := sha256.Sum256(payload)
	return &Statement{Image: digest, Type: w.PredicateType, Predicate: w.Predicate,
		ID: "sha256:" + hex.EncodeToString(sum[:]), Signers: signers}, nil
}

// Decode reads the predicate into v if it is of that type.
func (s *Statement) Decode(predicateType string, v any) error {
	if s.Type != predicateType {
		return fmt.Errorf("statement: predicate %.80q, expected %s", s.Type, predicateType)
	}
	if err := json.Unmarshal(s.Predicate, v); err != nil {
		return fmt.Errorf("statement: %s: %w", s.Type, err)
	}
	return nil
}
