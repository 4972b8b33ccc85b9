package secureboot

import (
	"crypto/sha256"
	"encoding/asn1"
	"slices"
	"time"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningTime   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}  // SPC_INDIRECT_DATA_OBJID
	oidImageData     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15} // SPC_PE_IMAGE_DATAOBJ
)

var (
	context0 = der.Tag(0).ContextSpecific()
	explicit = context0.Constructed()
)

func sequence(b *cryptobyte.Builder, f cryptobyte.BuilderContinuation) { b.AddASN1(der.SEQUENCE, f) }
func set(b *cryptobyte.Builder, f cryptobyte.BuilderContinuation)      { b.AddASN1(der.SET, f) }

func algorithm(b *cryptobyte.Builder, oid asn1.ObjectIdentifier) {
	sequence(b, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1NULL()
	})
}

// authenticode is the PKCS #7 message that signs a program's digest.
func (s *Signer) authenticode(digest []byte, when time.Time) ([]byte, error) {
	content := indirectData(digest)
	sum := sha256.Sum256(content)
	attributes := s.attributes(sum[:], when)
	// What is signed are the attributes as a SET OF, though they are stored
	// with another tag (RFC 2315, 9.3).
	var tbs cryptobyte.Builder
	set(&tbs, func(b *cryptobyte.Builder) { b.AddBytes(attributes) })
	signature, err := s.sign(tbs.BytesOrPanic())
	if err != nil {
		return nil, err
	}
	var out cryptobyte.Builder
	sequence(&out, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		b.AddASN1(explicit, func(b *cryptobyte.Builder) {
			s.signedData(b, signature, attributes, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidIndirectData)
				b.AddASN1(explicit, func(b *cryptobyte.Builder) {
					sequence(b, func(b *cryptobyte.Builder) { b.AddBytes(content) })
				})
			})
		})
	})
	return out.Bytes()
}

// detached is the SignedData of a signature over data that is elsewhere.
func (s *Signer) detached(data []byte) ([]byte, error) {
	signature, err := s.sign(data)
	if err != nil {
		return nil, err
	}
	var out cryptobyte.Builder
	s.signedData(&out, signature, nil, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidData) })
	return out.Bytes()
}

// signedData is RFC 2315's SignedData with one signer. attributes are the
// contents of a SET OF; nil leaves them out.
func (s *Signer) signedData(
	b *cryptobyte.Builder, signature, attributes []byte, content cryptobyte.BuilderContinuation,
) {
	sequence(b, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		set(b, func(b *cryptobyte.Builder) { algorithm(b, oidSHA256) })
		sequence(b, content)
		b.AddASN1(explicit, func(b *cryptobyte.Builder) { b.AddBytes(s.cert.Raw) })
		set(b, func(b *cryptobyte.Builder) {
			sequence(b, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				sequence(b, func(b *cryptobyte.Builder) {
					b.AddBytes(s.cert.RawIssuer)
					b.AddASN1BigInt(s.cert.SerialNumber)
				})
				algorithm(b, oidSHA256)
				if attributes != nil {
					b.AddASN1(explicit, func(b *cryptobyte.Builder) { b.AddBytes(attributes) })
				}
				algorithm(b, oidRSA)
				b.AddASN1OctetString(signature)
			})
		})
	})
}

// attributes are what the signer vouches for beside the digest, sorted as DER
// wants the members of a set.
func (s *Signer) attributes(digest []byte, when time.Time) []byte {
	one := func(oid asn1.ObjectIdentifier, value cryptobyte.BuilderContinuation) []byte {
		var b cryptobyte.Builder
		sequence(&b, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			set(b, value)
		})
		return b.BytesOrPanic()
	}
	all := [][]byte{
		one(oidContentType, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidIndirectData) }),
		one(oidSigningTime, func(b *cryptobyte.Builder) { b.AddASN1UTCTime(when.UTC()) }),
		one(oidMessageDigest, func(b *cryptobyte.Builder) { b.AddASN1OctetString(digest) }),
	}
	slices.SortFunc(all, slices.Compare)
	return slices.Concat(all...)
}

// indirectData is the contents of Authenticode's SpcIndirectDataContent.
func indirectData(digest []byte) []byte {
	var b cryptobyte.Builder
	sequence(&b, func(b *cryptobyte.Builder) { // SpcAttributeTypeAndOptionalValue
		b.AddASN1ObjectIdentifier(oidImageData)
		sequence(b, func(b *cryptobyte.Builder) { // SpcPeImageData
			b.AddASN1BitString(nil)                           // flags
			b.AddASN1(explicit, func(b *cryptobyte.Builder) { // file, a link that nobody follows
				b.AddASN1(der.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					b.AddASN1(context0, func(b *cryptobyte.Builder) {
						for _, u := range utf16.Encode([]rune("<<<Obsolete>>>")) {
							b.AddUint16(u)
						}
					})
				})
			})
		})
	})
	sequence(&b, func(b *cryptobyte.Builder) { // DigestInfo
		algorithm(b, oidSHA256)
		b.AddASN1OctetString(digest)
	})
	return b.BytesOrPanic()
}
