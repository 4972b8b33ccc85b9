package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// ErrUnsigned says that an envelope has no signature at all.
var ErrUnsigned = errors.New("signature: 0 signatures in one envelope: nobody has signed it")

// Seal returns a DSSE envelope around an in-toto statement, signed by each of
// the keys; without keys it says nothing of who made it. The same input gives
// the same bytes.
func Seal(statement []byte, keys ...*PrivateKey) ([]byte, error) {
	e := dsse.Envelope{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(statement),
		Signatures: []dsse.Signature{}}
	for _, k := range keys {
		sig, err := k.sign(dsse.PAE(payloadType, statement))
		if err != nil {
			return nil, fmt.Errorf("signing with key %s: %w", k.Public.ID, err)
		}
		e.Signatures = append(e.Signatures,
			dsse.Signature{KeyID: k.Public.ID, Sig: base64.StdEncoding.EncodeToString(sig)})
	}
	return json.Marshal(e)
}

// Unseal returns the statement in an envelope of at most max bytes, whoever
// signed it, if anybody did.
func Unseal(envelope []byte, max int) (statement []byte, err error) {
	_, statement, err = parse(envelope, max)
	return statement, err
}

// Open returns the statement in an envelope of at most max bytes, and the IDs
// of the policy's keys that signed it, of which there is one at least.
func (p *Policy) Open(envelope []byte, max int) (statement []byte, signers []string, err error) {
	e, statement, err := parse(envelope, max)
	if err != nil {
		return nil, nil, err
	}
	if len(e.Signatures) == 0 {
		return nil, nil, ErrUnsigned
	}
	var all []error
	for _, s := range e.Signatures {
		err := p.check(s, dsse.PAE(e.PayloadType, statement))
		if err == nil {
			signers = append(signers, s.KeyID)
		}
		all = append(all, err)
	}
	if len(signers) == 0 {
		return nil, nil, errors.Join(all...)
	}
	return statement, signers, nil
}

func parse(envelope []byte, max int) (*dsse.Envelope, []byte, error) {
	if len(envelope) > max {
		return nil, nil, fmt.Errorf("signature: more than %d bytes", max)
	}
	var e dsse.Envelope
	if err := json.NewDecoder(bytes.NewReader(envelope)).Decode(&e); err != nil {
		return nil, nil, fmt.Errorf("signature: %w", err)
	}
	statement, err := e.DecodeB64Payload()
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("signature: %w", err)
	case e.PayloadType != payloadType:
		return nil, nil, fmt.Errorf("signature: payload %q is not %s", e.PayloadType, payloadType)
	case len(e.Signatures) > maxSignatures:
		return nil, nil, fmt.Errorf("signature: %d signatures in one envelope", len(e.Signatures))
	}
	return &e, statement, nil
}

// check is nil for a signature that counts.
func (p *Policy) check(s dsse.Signature, message []byte) error {
	if !keyForm.MatchString(s.KeyID) {
		return fmt.Errorf("signature: %.80q is no key ID", s.KeyID)
	}
	sig, err := base64.StdEncoding.DecodeString(s.Sig)
	key := p.keys[s.KeyID]
	switch {
	case p.revoked[s.KeyID]:
		return fmt.Errorf("signed by key %s, which is revoked", s.KeyID)
	case key == nil:
		return fmt.Errorf("signed by key %s, which is not trusted", s.KeyID)
	case err != nil || !key.verify(message, sig):
		return fmt.Errorf("the signature of key %s is wrong", s.KeyID)
	}
	return nil
}
