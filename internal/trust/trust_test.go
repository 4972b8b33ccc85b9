package trust

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"goldsmith/internal/release"
	"goldsmith/internal/testenv"
)

var (
	image = "sha256:" + strings.Repeat("0a", 32)
	other = "sha256:" + strings.Repeat("0b", 32)
	demo  = Predicate{"demo", "2", "amd64"}
)

func newKey(t testing.TB, p256 bool) *PrivateKey {
	t.Helper()
	k, err := NewKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, digest string, p Predicate, keys ...*PrivateKey) []byte {
	t.Helper()
	e, err := Sign(digest, p, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// policy writes a policy's files, NAME.pub for each key, and loads it.
func policy(t testing.TB, revoked, minimum string, keys ...*PrivateKey) *Policy {
	t.Helper()
	dir := t.TempDir()
	var err error
	for _, k := range keys {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, k.Public.ID[:8]+".pub"), k.Public.PEM(), 0o644))
	}
	if revoked != "" {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "revoked"), []byte(revoked), 0o644))
	}
	if minimum != "" {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "minimum-version"), []byte(minimum), 0o644))
	}
	p, lerr := Load(dir)
	if err := errors.Join(err, lerr); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSignAndVerify(t *testing.T) {
	for _, p256 := range []bool{false, true} {
		k := newKey(t, p256)
		text, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		read, err := ParsePrivate(text)
		if err != nil {
			t.Fatal(err)
		}
		e := sign(t, image, demo, k)
		if again := sign(t, image, demo, read); string(again) != string(e) {
			t.Errorf("a second signature differs:\n%s\n%s", e, again)
		}
		got, err := policy(t, "", "", k).Verify(e, image)
		if err != nil || *got != demo {
			t.Errorf("Verify = %v, %v", got, err)
		}
	}
}

// What is refused says why, and which key it was.
func TestRefusals(t *testing.T) {
	k, l, p256 := newKey(t, false), newKey(t, false), newKey(t, true)
	forged := strings.Replace(string(sign(t, image, demo, l)), l.Public.ID, k.Public.ID, 1)
	wrap := func(payload, kind string) []byte {
		sig, err := k.sign(dsse.PAE(kind, []byte(payload)))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(dsse.Envelope{
			PayloadType: kind, Payload: base64.StdEncoding.EncodeToString([]byte(payload)),
			Signatures: []dsse.Signature{{KeyID: k.Public.ID, Sig: base64.StdEncoding.EncodeToString(sig)}},
		})
		return b
	}
	for _, tt := range []struct {
		name     string
		policy   *Policy
		envelope []byte
		digest   string
		want     string
	}{
		{"unknown key", policy(t, "", "", k), sign(t, image, demo, l), image,
			"key " + l.Public.ID + ", which is not trusted"},
		{"revoked key", policy(t, k.Public.ID, "", k), sign(t, image, demo, k), image,
			"key " + k.Public.ID + ", which is revoked"},
		{"revoked image", policy(t, "# bad\n"+image+" # it burns\n", "", k), sign(t, image, demo, k), image,
			image + " is revoked"},
		{"downgrade", policy(t, "", "10\n", k), sign(t, image, demo, k), image, "version 2 is older than 10"},
		{"another image", policy(t, "", "", k), sign(t, image, demo, k), other, "not about image " + other},
		{"another's signature", policy(t, "", "", k), []byte(forged), image,
			"signature of key " + k.Public.ID + " is wrong"},
		{"no ECDSA signature", policy(t, "", "", p256), []byte(strings.Replace(forged, k.Public.ID, p256.Public.ID, 1)),
			image, "is wrong"},
		{"nobody's", policy(t, "", "", k), sign(t, image, demo), image, "0 signatures"},
		{"no key ID", policy(t, "", "", k), []byte(strings.Replace(forged, k.Public.ID, "", 1)), image, "no key ID"},
		{"no envelope", policy(t, "", "", k), []byte("{}"), image, "payload"},
		{"not JSON", policy(t, "", "", k), []byte("signed"), image, "signature:"},
		{"too large", policy(t, "", "", k), make([]byte, MaxEnvelope+1), image, "more than"},
		{"another payload", policy(t, "", "", k), wrap("{}", "text/plain"), image, "text/plain"},
		{"another statement", policy(t, "", "", k), wrap("{}", payloadType), image, "none about a release"},
		{"no image", policy(t, "", "", k),
			wrap(`{"_type":"`+statementType+`","predicateType":"`+predicateType+`","subject":[{}]}`,
				payloadType), "sha256:", "no digest"},
	} {
		got, err := tt.policy.Verify(tt.envelope, tt.digest)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, %v; want an error with %q", tt.name, got, err, tt.want)
		}
	}
}

// One good signature suffices, in one envelope or several.
func TestOneGoodSignatureSuffices(t *testing.T) {
	good, revoked, unknown := newKey(t, false), newKey(t, true), newKey(t, false)
	p := policy(t, revoked.Public.ID, "1", good, revoked)
	if _, err := p.Verify(sign(t, image, demo, unknown, revoked, good), image); err != nil {
		t.Error(err)
	}
	bad := [][]byte{[]byte("x"), sign(t, image, demo, unknown), sign(t, image, demo, revoked),
		sign(t, other, demo, good)}
	if _, err := p.VerifyAny(append(bad, sign(t, image, demo, good)), image); err != nil {
		t.Error(err)
	}
	_, err := p.VerifyAny(bad, image)
	for _, want := range []string{unknown.Public.ID + ", which is not trusted",
		revoked.Public.ID + ", which is revoked", "not about"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("four bad ones: %v; want %q in it", err, want)
		}
	}
	if _, err := p.VerifyAny(nil, image); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("none: %v", err)
	}
}

// A key is changed by an image that the old key signs and that brings the new
// one; the image after it no longer has the old.
func TestRotation(t *testing.T) {
	first, second := newKey(t, false), newKey(t, true)
	v1, v2, v3 := policy(t, "", "", first), policy(t, "", "", first, second), policy(t, "", "", second)
	for _, tt := range []struct {
		name string
		runs *Policy
		key  *PrivateKey
		ok   bool
	}{
		{"v1 takes v2, signed by the old key", v1, first, true},
		{"v1 does not take v3, signed by the new key", v1, second, false},
		{"v2 takes v3", v2, second, true},
		{"v2 takes what the old key signs", v2, first, true},
		{"v3 does not take what the old key signs", v3, first, false},
		{"v3 takes v4", v3, second, true},
	} {
		if _, err := tt.runs.Verify(sign(t, image, demo, tt.key), image); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// openssl makes keys that are read, and verifies what we sign.
func TestOpenSSL(t *testing.T) {
	testenv.Need(t, "openssl")
	dir := t.TempDir()
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	for kind, options := range map[string][]string{"ed25519": nil, "EC": {"-pkeyopt", "ec_paramgen_curve:P-256"}} {
		run(append([]string{"genpkey", "-algorithm", kind, "-out", "key"}, options...)...)
		private, err := os.ReadFile(filepath.Join(dir, "key"))
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParsePrivate(private)
		if err != nil {
			t.Fatal(err)
		}
		public, err := ParsePublic(run("pkey", "-in", "key", "-pubout"))
		if err != nil || public.ID != k.Public.ID {
			t.Fatalf("%s: key %v, %v; want %s", kind, public, err, k.Public.ID)
		}
		message := []byte("message")
		sig, err := k.sign(message)
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"pub": k.Public.PEM(), "message": message, "sig": sig} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if kind == "EC" {
			run("dgst", "-sha256", "-verify", "pub", "-signature", "sig", "message")
		} else {
			run("pkeyutl", "-verify", "-pubin", "-inkey", "pub", "-rawin", "-in", "message", "-sigfile", "sig")
		}
	}
	run("genpkey", "-algorithm", "RSA", "-out", "rsa")
	private, _ := os.ReadFile(filepath.Join(dir, "rsa"))
	if _, err := ParsePrivate(private); err == nil {
		t.Error("an RSA key was taken")
	}
}

// A policy that is not wholly there and well trusts nobody.
func TestBadPolicies(t *testing.T) {
	pub := string(newKey(t, false).Public.PEM())
	outside := filepath.Join(t.TempDir(), "outside.pub")
	if err := os.WriteFile(outside, []byte(pub), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file, text string
		want             string
	}{
		{"no keys", "README", "x", "no trusted key"},
		{"not a key", "a.pub", "x", "a.pub: no PEM"},
		{"a private key", "a.pub", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
			`"PUBLIC KEY" is needed`},
		{"two keys", "a.pub", pub + pub, "one key into each file"},
		{"revoked nonsense", "revoked", "\nall\n", "line 2"},
		{"no version", "minimum-version", "\n", "no version"},
		{"two versions", "minimum-version", "1\n2\n", "no version"},
		{"large", "revoked", strings.Repeat("#", maxList+1), "more than"},
		{"a link out", "a.pub", "->" + outside, "escapes"},
		{"a pipe", "a.pub", "|", "regular"},
		{"a directory", "a.pub", "/", "regular"},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, tt.file)
		var err error
		switch to, link := strings.CutPrefix(tt.text, "->"); {
		case link:
			err = os.Symlink(to, file)
		case tt.text == "|":
			err = syscall.Mkfifo(file, 0o644)
		case tt.text == "/":
			err = os.Mkdir(file, 0o755)
		default:
			err = os.WriteFile(file, []byte(tt.text), 0o644)
		}
		if err == nil && tt.name != "no keys" {
			err = os.WriteFile(filepath.Join(dir, "good.pub"), []byte(pub), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a directory that is not there is a policy")
	}
}

func TestMatches(t *testing.T) {
	r := &release.Release{Name: "demo", Version: "2", Arch: "amd64"}
	if err := demo.Matches(r); err != nil {
		t.Error(err)
	}
	r.Version = "3"
	if err := demo.Matches(r); err == nil || !strings.Contains(err.Error(), "demo 3") {
		t.Errorf("another version: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	k := newKey(f, false)
	e := sign(f, image, demo, k)
	f.Add(e)
	p := NewPolicy(k.Public)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := p.Verify(b, image); err == nil && *got != demo {
			t.Errorf("%q says %v", b, got)
		}
	})
}
