// Package secureboot signs EFI programs with one's own keys, and makes such
// keys with what firmware needs to trust them.
//
// Signatures are Authenticode: a PKCS #7 message behind the program, over a
// hash of the program. The same program, key and time give the same bytes: RSA
// by PKCS #1 v1.5, the time of the signature from the caller.
//
// Formats: UEFI Specification 2.10, chapter 32; Microsoft's "Windows
// Authenticode Portable Executable Signature Format"; RFC 2315 (PKCS #7).
package secureboot

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Signer is a key that firmware trusts, by its certificate.
type Signer struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// NewSigner reads a key and its certificate, both PEM. The key is RSA with 2048
// bits at least, in PKCS #8 or PKCS #1, not encrypted.
func NewSigner(key, certificate []byte) (*Signer, error) {
	block, _ := pem.Decode(certificate)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("the certificate is not a PEM file with a CERTIFICATE")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if block, _ = pem.Decode(key); block == nil {
		return nil, errors.New("the key is not a PEM file")
	}
	s := &Signer{cert: cert}
	switch block.Type {
	case "RSA PRIVATE KEY":
		s.key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		var k any
		if k, err = x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			var ok bool
			if s.key, ok = k.(*rsa.PrivateKey); !ok {
				err = errors.New("not an RSA key: firmware knows no other")
			}
		}
	default:
		err = fmt.Errorf("a PEM file with %q: want PRIVATE KEY", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if s.key.N.BitLen() < 2048 {
		return nil, fmt.Errorf("key: %d bits, want 2048 at least", s.key.N.BitLen())
	}
	if pub, ok := cert.PublicKey.(*rsa.PublicKey); !ok || !pub.Equal(s.key.Public()) {
		return nil, errors.New("key and certificate do not belong together")
	}
	return s, nil
}

// Fingerprint is the SHA-256 of the certificate, in hexadecimal.
func (s *Signer) Fingerprint() string {
	sum := sha256.Sum256(s.cert.Raw)
	return hex.EncodeToString(sum[:])
}

var le = binary.LittleEndian

// Sign returns the program with a signature behind it. A signature that it has
// already is replaced.
func (s *Signer) Sign(program []byte, when time.Time) ([]byte, error) {
	p, err := parse(program)
	if err != nil {
		return nil, fmt.Errorf("sign EFI program: %w", err)
	}
	clear(p.b[p.dir : p.dir+8])
	p.b = append(p.b, make([]byte, -len(p.b)&7)...)
	message, err := s.authenticode(p.digest(), when)
	if err != nil {
		return nil, err
	}
	size := (8 + len(message) + 7) &^ 7
	le.PutUint32(p.b[p.dir:], uint32(len(p.b)))
	le.PutUint32(p.b[p.dir+4:], uint32(size))
	entry := make([]byte, size) // WIN_CERTIFICATE
	le.PutUint32(entry, uint32(size))
	le.PutUint16(entry[4:], 0x0200) // revision 2
	le.PutUint16(entry[6:], 0x0002) // PKCS #7
	copy(entry[8:], message)
	return append(p.b, entry...), nil
}

// portable is a PE32+ file as far as signatures need it.
type portable struct {
	b        []byte // without a signature
	checksum int    // offset of the header's CheckSum
	dir      int    // offset of the data directory's entry for signatures
}

func parse(program []byte) (*portable, error) {
	b := bytes.Clone(program)
	if len(b) < 0x40 || b[0] != 'M' || b[1] != 'Z' {
		return nil, errors.New("no MZ header")
	}
	sig := int64(le.Uint32(b[0x3c:]))
	if sig < 0x40 || sig+24+112+5*8 > int64(len(b)) || string(b[sig:sig+4]) != "PE\x00\x00" {
		return nil, errors.New("no PE header")
	}
	opt := int(sig) + 24
	if le.Uint16(b[opt:]) != 0x20b || le.Uint32(b[opt+108:]) < 5 {
		return nil, errors.New("not PE32+ with a place for a signature")
	}
	p := &portable{b: b, checksum: opt + 64, dir: opt + 112 + 4*8}
	if at, size := int64(le.Uint32(b[p.dir:])), int64(le.Uint32(b[p.dir+4:])); size > 0 {
		if at+size != int64(len(b)) {
			return nil, errors.New("it has a signature that is not at its end")
		}
		if at < int64(p.dir+8) {
			return nil, errors.New("it has a signature over its headers")
		}
		p.b = b[:at]
	}
	return p, p.contiguous(opt)
}

// contiguous refuses files of which the digest below would not be firmware's:
// that takes the sections by their headers, one after the other.
func (p *portable) contiguous(opt int) error {
	table := opt + int(le.Uint16(p.b[opt-4:]))
	next := int64(le.Uint32(p.b[opt+60:])) // SizeOfHeaders
	for i := range int(le.Uint16(p.b[opt-18:])) {
		h := table + i*40
		if h+40 > len(p.b) {
			return errors.New("its headers are cut off")
		}
		size, at := int64(le.Uint32(p.b[h+16:])), int64(le.Uint32(p.b[h+20:]))
		if size == 0 {
			continue
		}
		if at != next {
			return fmt.Errorf("section %d does not begin where the one before it ends", i+1)
		}
		next = at + size
	}
	if next > int64(len(p.b)) {
		return errors.New("it is cut off")
	}
	return nil
}

// digest is the hash of everything but the checksum, the place of the
// signature and the signature.
func (p *portable) digest() []byte {
	h := sha256.New()
	h.Write(p.b[:p.checksum])
	h.Write(p.b[p.checksum+4 : p.dir])
	h.Write(p.b[p.dir+8:])
	return h.Sum(nil)
}

// sign is the signature of data.
func (s *Signer) sign(data []byte) ([]byte, error) {
	sum := sha256.Sum256(data)
	return rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, sum[:])
}
