package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxKey bounds a key in PEM, in bytes.
const MaxKey = 16 << 10

// PublicKey is a key that signatures are verified with: Ed25519 or ECDSA on
// P-256.
type PublicKey struct {
	ID  string // hexadecimal SHA-256 of the DER SubjectPublicKeyInfo
	key crypto.PublicKey
	der []byte
}

// PEM renders the key.
func (k *PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.der})
}

var errKind = errors.New("the key is neither Ed25519 nor ECDSA on P-256")

func newPublicKey(key crypto.PublicKey) (*PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errKind
		}
	default:
		return nil, errKind
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &PublicKey{ID: hex.EncodeToString(sum[:]), key: key, der: der}, nil
}

// ParsePublic reads a public key in PEM ("PUBLIC KEY", RFC 7468).
func ParsePublic(text []byte) (*PublicKey, error) {
	der, err := decode(text, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	return newPublicKey(key)
}

// verify reports whether sig is the key's signature of message: of its SHA-256
// in ASN.1 for ECDSA.
func (k *PublicKey) verify(message, sig []byte) bool {
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, sum[:], sig)
	}
	return false
}

// PrivateKey is a key that signs.
type PrivateKey struct {
	Public *PublicKey
	signer crypto.Signer
}

// NewKey makes a key: ECDSA on P-256 if p256, otherwise Ed25519.
func NewKey(p256 bool) (*PrivateKey, error) {
	if p256 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return newPrivateKey(key)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return newPrivateKey(key)
}

func newPrivateKey(s crypto.Signer) (*PrivateKey, error) {
	public, err := newPublicKey(s.Public())
	if err != nil {
		return nil, err
	}
	return &PrivateKey{public, s}, nil
}

// ParsePrivate reads a private key in PEM ("PRIVATE KEY", PKCS #8, not
// encrypted).
func ParsePrivate(text []byte) (*PrivateKey, error) {
	der, err := decode(text, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, errKind
	}
	return newPrivateKey(s)
}

// PEM renders the key in PKCS #8.
func (k *PrivateKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// sign signs message. The same key and message give the same signature: RFC
// 6979 for ECDSA, which a nil source of randomness asks for.
func (k *PrivateKey) sign(message []byte) ([]byte, error) {
	if _, ok := k.signer.(ed25519.PrivateKey); ok {
		return k.signer.Sign(nil, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return k.signer.Sign(nil, sum[:], crypto.SHA256)
}

func decode(text []byte, kind string) ([]byte, error) {
	if len(text) > MaxKey {
		return nil, fmt.Errorf("more than %d bytes", MaxKey)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no PEM block %q in it", kind)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("something follows the key: write one key into each file")
	}
	if block.Type != kind {
		return nil, fmt.Errorf("a PEM block %q where %q is needed", block.Type, kind)
	}
	return block.Bytes, nil
}
