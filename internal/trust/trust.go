// Package trust signs releases and decides which signatures count.
//
// What is signed is an in-toto statement (https://in-toto.io/Statement/v1)
// whose subject is the digest of an image's OCI manifest, in a DSSE envelope
// (https://github.com/secure-systems-lab/dsse). The digest covers everything:
// the disk, and the release description.
//
// A machine trusts what the verified root says that it runs: a directory of
// public keys with two lists beside them, [Load]. A new image brings the keys,
// revocations and oldest version that count from then on; so keys are changed
// by an image that the old key signs and that brings the new one.
//
// Keys do not expire: a machine that was off for years would otherwise refuse
// its next image, and its clock is not to be trusted. They are revoked.
package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/release"
)

// MediaType of an encoded envelope.
const MediaType = "application/vnd.dsse.envelope.v1+json"

// Title is the file name of an envelope among what is attached to an image.
const Title = "release.dsse.json"

// MaxEnvelope bounds an envelope, in bytes.
const MaxEnvelope = 64 << 10

const (
	payloadType   = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://goldsmith.invalid/release/v1"
	maxSignatures = 16
)

// Predicate is what is said of the subject.
type Predicate struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
}

// Matches is an error unless the predicate is that of the release.
func (p Predicate) Matches(r *release.Release) error {
	if want := (Predicate{r.Name, r.Version, r.Arch}); p != want {
		return fmt.Errorf("the signature is for %s %s (%s), the image is %s %s (%s)",
			p.Name, p.Version, p.Arch, want.Name, want.Version, want.Arch)
	}
	return nil
}

type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Sign returns an envelope that says p of the image with that manifest digest
// ("sha256:…"), signed by each of the keys. The same input gives the same
// bytes.
func Sign(digest string, p Predicate, keys ...*PrivateKey) ([]byte, error) {
	if !digestForm.MatchString(digest) {
		return nil, fmt.Errorf("%q is no digest", digest)
	}
	payload, err := json.Marshal(statement{
		Type: statementType, PredicateType: predicateType, Predicate: p,
		Subject: []subject{{p.Name, map[string]string{"sha256": strings.TrimPrefix(digest, "sha256:")}}},
	})
	if err != nil {
		return nil, err
	}
	return Seal(payload, keys...)
}

// Verify returns what the envelope says of the image with that manifest
// digest, if one of its signatures is of a trusted key that is not revoked,
// the digest is not revoked, and the version is not below the oldest allowed
// one. Whether it is older than what runs is the caller's to ask
// (bootentry.CompareVersions).
func (p *Policy) Verify(envelope []byte, digest string) (*Predicate, error) {
	switch {
	case !digestForm.MatchString(digest):
		return nil, fmt.Errorf("%q is no digest", digest)
	case p.revoked[digest]:
		return nil, fmt.Errorf("image %s is revoked", digest)
	}
	payload, err := p.open(envelope)
	if err != nil {
		return nil, err
	}
	var s statement
	if err := json.Unmarshal(payload, &s); err != nil {
		return nil, fmt.Errorf("signed statement: %w", err)
	}
	switch {
	case s.Type != statementType || s.PredicateType != predicateType:
		return nil, fmt.Errorf("signed statement: %q about %q is none about a release", s.Type, s.PredicateType)
	case len(s.Subject) != 1 || "sha256:"+s.Subject[0].Digest["sha256"] != digest:
		return nil, fmt.Errorf("signed statement: it is not about image %s", digest)
	}
	if p.minimum != "" && bootentry.CompareVersions(s.Predicate.Version, p.minimum) < 0 {
		return nil, fmt.Errorf("version %s is older than %s, the oldest that is allowed",
			s.Predicate.Version, p.minimum)
	}
	return &s.Predicate, nil
}

// VerifyAny is Verify with the first of several envelopes that it takes.
func (p *Policy) VerifyAny(envelopes [][]byte, digest string) (*Predicate, error) {
	if len(envelopes) == 0 {
		return nil, fmt.Errorf("image %s is not signed", digest)
	}
	var all []error
	for _, e := range envelopes {
		s, err := p.Verify(e, digest)
		if err == nil {
			return s, nil
		}
		all = append(all, err)
	}
	return nil, errors.Join(all...)
}

// open returns the payload of an envelope with one good signature.
func (p *Policy) open(envelope []byte) ([]byte, error) {
	payload, _, err := p.Open(envelope, MaxEnvelope)
	return payload, err
}
