package secureboot

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"
	"unicode/utf16"
)

// A machine's keys, by what firmware calls them: PK signs changes of KEK, KEK
// those of db, and db is what programs are signed with.
const (
	PK  = "PK"
	KEK = "KEK"
	DB  = "db"
)

// guid is a GUID as EFI stores it: the first three fields are little-endian.
type guid [16]byte

var (
	guidGlobal   = guid{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	guidSecurity = guid{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
	guidX509     = guid{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	guidPKCS7    = guid{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}
)

// MakeKeys makes a new set of keys, good for ten years from now on: files by
// name. NAME.key and NAME.crt are PEM; NAME.auth is what systemd-boot enrols
// into firmware that has no keys yet. Only db.key and db.crt are needed to sign;
// the other keys are needed to change a machine's keys later.
func MakeKeys(now time.Time) (map[string][]byte, error) {
	files := map[string][]byte{}
	signers := map[string]*Signer{}
	for _, name := range []string{PK, KEK, DB} {
		key, cert, err := newKey(name, now)
		if err != nil {
			return nil, err
		}
		files[name+".key"], files[name+".crt"] = key, cert
		if signers[name], err = NewSigner(key, cert); err != nil {
			return nil, err
		}
	}
	owner := guid(signers[PK].cert.SubjectKeyId[:16])
	for _, v := range []struct {
		name, by string
		vendor   guid
	}{{PK, PK, guidGlobal}, {KEK, PK, guidGlobal}, {DB, KEK, guidSecurity}} {
		auth, err := signers[v.by].variable(v.name, v.vendor, signatureList(signers[v.name].cert, owner), now)
		if err != nil {
			return nil, err
		}
		files[v.name+".auth"] = auth
	}
	return files, nil
}

func newKey(name string, now time.Time) (key, cert []byte, err error) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	id := make([]byte, 20)
	if _, err := rand.Read(id); err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "goldsmith Secure Boot " + name}, SubjectKeyId: id,
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(10, 0, 0),
		SignatureAlgorithm: x509.SHA256WithRSA, BasicConstraintsValid: true, IsCA: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return nil, nil, err
	}
	p8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), nil
}

// signatureList is an EFI_SIGNATURE_LIST of one certificate.
func signatureList(cert *x509.Certificate, owner guid) []byte {
	b := bytes.Clone(guidX509[:])
	b = le.AppendUint32(b, uint32(28+16+len(cert.Raw))) // of the list
	b = le.AppendUint32(b, 0)                           // of a header, which there is not
	b = le.AppendUint32(b, uint32(16+len(cert.Raw)))    // of each signature
	b = append(b, owner[:]...)
	return append(b, cert.Raw...)
}

// attributes of such variables: kept, for boot services and the running
// system, and written only with a newer time and a signature.
const attributes = 0x01 | 0x02 | 0x04 | 0x20

// variable is an EFI_VARIABLE_AUTHENTICATION_2 and the value that it signs.
func (s *Signer) variable(name string, vendor guid, value []byte, when time.Time) ([]byte, error) {
	when = when.UTC()
	stamp := le.AppendUint16(nil, uint16(when.Year())) // EFI_TIME
	stamp = append(stamp, byte(when.Month()), byte(when.Day()))
	stamp = append(stamp, byte(when.Hour()), byte(when.Minute()), byte(when.Second()))
	stamp = append(stamp, make([]byte, 9)...)
	var signed []byte
	for _, u := range utf16.Encode([]rune(name)) {
		signed = le.AppendUint16(signed, u)
	}
	signed = append(signed, vendor[:]...)
	signed = le.AppendUint32(signed, attributes)
	signed = append(append(signed, stamp...), value...)
	message, err := s.detached(signed)
	if err != nil {
		return nil, err
	}
	b := le.AppendUint32(stamp, uint32(24+len(message))) // WIN_CERTIFICATE_UEFI_GUID
	b = le.AppendUint16(b, 0x0200)                       // revision 2
	b = le.AppendUint16(b, 0x0ef1)                       // WIN_CERT_TYPE_EFI_GUID
	b = append(b, guidPKCS7[:]...)
	return append(append(b, message...), value...), nil
}
