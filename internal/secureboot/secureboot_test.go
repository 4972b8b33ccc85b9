package secureboot

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/testenv"
)

var when = time.Unix(1700000000, 0)

// keyFiles are made once: that takes a while.
var keyFiles = func() map[string][]byte {
	files, err := MakeKeys(time.Now())
	if err != nil {
		panic(err)
	}
	return files
}()

func signer(t testing.TB) *Signer {
	t.Helper()
	s, err := NewSigner(keyFiles["db.key"], keyFiles["db.crt"])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	testenv.Need(t, args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sbverify takes our signature, and takes none of another key or of a changed
// program.
func TestSign(t *testing.T) {
	s := signer(t)
	for name, p := range map[string][]byte{"plain": testenv.EFIProgram(), "odd length": append(testenv.EFIProgram(), 1, 2, 3)} {
		signed, err := s.Sign(p, when)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := s.Sign(p, when); !bytes.Equal(signed, again) {
			t.Errorf("%s: two signatures differ", name)
		}
		if again, err := s.Sign(signed, when); err != nil || !bytes.Equal(signed, again) {
			t.Errorf("%s: signing twice is not the same; %v", name, err)
		}
		damaged := bytes.Clone(signed)
		damaged[0x410] ^= 1
		dir := write(t, map[string][]byte{"signed": signed, "damaged": damaged, "plain": p,
			"db.crt": keyFiles["db.crt"], "KEK.crt": keyFiles["KEK.crt"]})
		for _, c := range []struct {
			file, cert string
			good       bool
		}{{"signed", "db.crt", true}, {"signed", "KEK.crt", false}, {"damaged", "db.crt", false}, {"plain", "db.crt", false}} {
			out, err := run(t, dir, "sbverify", "--cert", c.cert, c.file)
			if (err == nil) != c.good {
				t.Errorf("%s: sbverify %s by %s: %v\n%s", name, c.file, c.cert, err, out)
			}
		}
	}
}

// A program that sbsign signed has the digest that we would sign.
func TestDigest(t *testing.T) {
	dir := write(t, map[string][]byte{"plain": testenv.EFIProgram(), "db.crt": keyFiles["db.crt"], "db.key": keyFiles["db.key"]})
	if out, err := run(t, dir, "sbsign", "--key", "db.key", "--cert", "db.crt", "--output", "signed", "plain"); err != nil {
		t.Fatalf("sbsign: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "signed"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b[len(p.b):], indirectData(p.digest())) {
		t.Error("sbsign signed something else")
	}
}

// efitools reads what firmware is given.
func TestAuth(t *testing.T) {
	dir := write(t, keyFiles)
	for _, name := range []string{PK, KEK, DB} {
		auth := keyFiles[name+".auth"]
		list := auth[16+le.Uint32(auth[16:]):]
		if err := os.WriteFile(filepath.Join(dir, "list"), list, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := run(t, dir, "sig-list-to-certs", "list", name+".der"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		got, err := os.ReadFile(filepath.Join(dir, name+".der-0.der"))
		block, _ := pem.Decode(keyFiles[name+".crt"])
		if err != nil || !bytes.Equal(got, block.Bytes) {
			t.Errorf("%s: another certificate; %v", name, err)
		}
	}
	// Made of the same list by efitools, the header is the same but for the
	// signature's own bytes.
	for _, args := range [][]string{
		{"cert-to-efi-sig-list", "-g", "00010203-0405-0607-0809-0a0b0c0d0e0f", "PK.crt", "PK.esl"},
		{"sign-efi-sig-list", "-t", "2026-01-02 03:04:05", "-k", "PK.key", "-c", "PK.crt", "PK", "PK.esl", "PK.theirs"},
	} {
		if out, err := run(t, dir, args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	theirs, err := os.ReadFile(filepath.Join(dir, "PK.theirs"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(keyFiles["PK.key"], keyFiles["PK.crt"])
	if err != nil {
		t.Fatal(err)
	}
	owner := guid{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15}
	ours, err := s.variable(PK, guidGlobal, signatureList(s.cert, owner), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	list := func(b []byte) []byte { return b[16+le.Uint32(b[16:]):] }
	if !bytes.Equal(ours[:16], theirs[:16]) || !bytes.Equal(ours[20:40], theirs[20:40]) || !bytes.Equal(list(ours), list(theirs)) {
		t.Errorf("header and list:\n%x\n%x", ours[:40], theirs[:40])
	}
	if key := s.key; !bytes.Equal(signatureOf(ours, key), signatureOf(theirs, key)) {
		t.Error("the signatures differ: something else is signed")
	}
}

// signatureOf is the last bytes of the message: the signature, which is the
// same when the same is signed by the same key.
func signatureOf(auth []byte, key *rsa.PrivateKey) []byte {
	message := auth[40 : 16+le.Uint32(auth[16:])]
	return message[len(message)-key.Size():]
}

func TestRefusals(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(small)})
	for want, c := range map[string][2][]byte{
		"belong together":          {keyFiles["PK.key"], keyFiles["db.crt"]},
		"key is not a PEM":         {[]byte("x"), keyFiles["db.crt"]},
		"certificate is not a PEM": {keyFiles["db.key"], keyFiles["db.key"]},
		`"CERTIFICATE": want PRIV`: {keyFiles["db.crt"], keyFiles["db.crt"]},
		"1024 bits":                {weak, keyFiles["db.crt"]},
	} {
		if _, err := NewSigner(c[0], c[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"no MZ":   func(b []byte) []byte { b[0] = 0; return b },
		"no PE":   func(b []byte) []byte { b[0x80] = 0; return b },
		"PE32":    func(b []byte) []byte { b[0x99] = 1; return b },
		"no room": func(b []byte) []byte { b[0x98+108] = 4; return b },
		"gap":     func(b []byte) []byte { b[0x98+240+21] = 5; return b },
		"cut":     func(b []byte) []byte { return b[:0x500] },
		"signature inside": func(b []byte) []byte {
			b[0x98+112+33], b[0x98+112+36] = 4, 8
			return b
		},
		"signature over the headers": func(b []byte) []byte {
			le.PutUint32(b[0x98+112+32:], 0x40)
			le.PutUint32(b[0x98+112+36:], uint32(len(b)-0x40))
			return b
		},
	} {
		if _, err := signer(t).Sign(change(testenv.EFIProgram()), when); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzSign(f *testing.F) {
	f.Add(testenv.EFIProgram())
	s := signer(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if signed, err := s.Sign(b, when); err == nil {
			if again, err := s.Sign(signed, when); err != nil || !bytes.Equal(again, signed) {
				t.Errorf("signed again: %v", err)
			}
		}
	})
}
