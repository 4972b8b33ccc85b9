package attest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	testresult "github.com/in-toto/attestation/go/predicates/test_result/v0"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"goldsmith/internal/dpkg"
	"goldsmith/internal/evidence"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/testenv"
	"goldsmith/internal/trust"
)

var (
	image = "sha256:" + strings.Repeat("0a", 32)
	other = "sha256:" + strings.Repeat("0b", 32)
)

func newKey(t testing.TB, p256 bool) *trust.PrivateKey {
	t.Helper()
	k, err := trust.NewKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sample() *evidence.Evidence {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	return &evidence.Evidence{Kind: "libvirt-smoke", Subject: image, Result: evidence.Pass, Run: "7", Stage: "smoke", Attempt: 1,
		Started: at, Ended: at.Add(time.Minute), Machine: evidence.Machine{Driver: "libvirt", Firmware: "uefi"},
		Tests: []evidence.Test{{Name: "a", Element: "redis", Result: evidence.Pass, Attempts: 2},
			{Name: "b", Result: evidence.Fail, Snoozed: "https://example.org/1"}, {Name: "c", Result: evidence.Skip}}}
}

// built is provenance.
func built() Provenance {
	m := &imagebuild.Manifest{Name: "demo", Version: "1", Release: "bookworm", Arch: "amd64", Elements: []string{"base"},
		Packages: []dpkg.Package{{Name: "bash", Version: "5.2.15-2+b2", Arch: "amd64"}}}
	return Built(m, ExternalParameters{Definition: Resource{Name: "image.yaml", Digest: map[string]string{"sha256": strings.Repeat("1", 64)}},
		Inputs: map[string]string{"commit": "abc"}, Authors: []string{"eva", "adam", "eva"}}, "run 7")
}

// The statements are what in-toto's own library and schemas take.
func TestInToto(t *testing.T) {
	for _, tt := range []struct {
		kind      string
		said      any
		predicate proto.Message
	}{
		{TestResultType, Tested(sample(), []byte("{}")), &testresult.TestResult{}},
		{ProvenanceType, built(), &provenance.Provenance{}},
	} {
		envelope, err := Make("demo", image, tt.kind, tt.said)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := trust.Unseal(envelope, MaxSize)
		if err != nil {
			t.Fatal(err)
		}
		s := &intoto.Statement{}
		if err := protojson.Unmarshal(payload, s); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(); err != nil || s.PredicateType != tt.kind {
			t.Errorf("%s: %v", tt.kind, err)
		}
		var w wire
		if err := json.Unmarshal(payload, &w); err != nil {
			t.Fatal(err)
		}
		// What is ours beside a predicate's fields is passed over.
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(w.Predicate, tt.predicate); err != nil {
			t.Fatalf("%s: %v\n%s", tt.kind, err, w.Predicate)
		}
		if v, ok := tt.predicate.(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				t.Errorf("%s: %v", tt.kind, err)
			}
		}
	}
}

// Package URLs are those of the bills of materials.
func TestProvenance(t *testing.T) {
	b := built().BuildDefinition
	want := []Resource{{Name: "bash", URI: "pkg:deb/debian/bash@5.2.15-2%2Bb2?arch=amd64&distro=debian-12"}, {Name: "base", URI: "goldsmith:element/base"}}
	if d := cmp.Diff(want, b.ResolvedDependencies); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"adam", "eva"}, b.ExternalParameters.Authors); d != "" {
		t.Error(d)
	}
}

func TestTested(t *testing.T) {
	got := Tested(sample(), []byte("x"))
	if got.Result != "WARNED" || len(got.Passed) != 1 || got.Passed[0] != "redis/a" || len(got.Warned) != 1 || !got.Goldsmith.Rerun || !slices.Equal(got.Goldsmith.Reruns, []string{"redis/a"}) || !got.Pass() {
		t.Errorf("%+v", got)
	}
	e := sample()
	e.Result, e.Tests[1].Snoozed = evidence.Fail, ""
	if got := Tested(e, nil); got.Result != "FAILED" || got.Pass() || len(got.Failed) != 1 {
		t.Errorf("%+v", got)
	}
}

// The same input gives the same bytes, with either kind of key.
func TestReproducible(t *testing.T) {
	for _, p256 := range []bool{true, false} {
		k := newKey(t, p256)
		a, err := Make("demo", image, ProvenanceType, built(), k)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Make("demo", image, ProvenanceType, built(), k)
		if err != nil || string(a) != string(b) {
			t.Errorf("p256 %v: the second differs, %v", p256, err)
		}
	}
}

// What is forged, replayed, revoked or malformed is refused, with the reason.
func TestRefused(t *testing.T) {
	k, stranger := newKey(t, true), newKey(t, false)
	policy := trust.NewPolicy(k.Public)
	seal := func(statement string, keys ...*trust.PrivateKey) []byte {
		e, err := trust.Seal([]byte(statement), keys...)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	good, err := Make("demo", image, TestResultType, Tested(sample(), nil), k)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Read(good, image, policy); err != nil || len(s.Signers) != 1 || s.Signers[0] != k.Public.ID {
		t.Fatalf("%+v, %v", s, err)
	}
	tampered := strings.Replace(string(good), base64.StdEncoding.EncodeToString([]byte(`{"_type":"http`))[:12], base64.StdEncoding.EncodeToString([]byte(`{ "_type":"htt`))[:12], 1)
	digest := strings.TrimPrefix(image, "sha256:")
	form := func(typ, digest, more string) string {
		return `{"_type":"` + typ + `","subject":[{"name":"demo","digest":{"sha256":"` + digest + `"}}],"predicateType":"x","predicate":{}` + more + `}`
	}
	for name, tt := range map[string]struct {
		envelope []byte
		image    string
		want     string
	}{
		"another image's":  {good, other, "it is about another image, " + image},
		"a stranger's":     {mustMake(t, stranger), image, "which is not trusted"},
		"nobody's":         {mustMake(t), image, "nobody has signed it"},
		"changed":          {[]byte(tampered), image, "is wrong"},
		"no envelope":      {[]byte("hello"), image, "invalid character"},
		"too large":        {make([]byte, MaxSize+1), image, "more than 4194304 bytes"},
		"no statement":     {seal("[]", k), image, "cannot unmarshal array"},
		"another type":     {seal(form("https://example.org", digest, ""), k), image, "is no in-toto statement"},
		"unknown fields":   {seal(form(statementType, digest, `,"x":1`), k), image, "unknown field"},
		"no subject":       {seal(`{"_type":"`+statementType+`","subject":[],"predicate":{}}`, k), image, "0 subjects"},
		"no predicate":     {seal(`{"_type":"`+statementType+`","subject":[{"digest":{"sha256":"`+digest+`"}}]}`, k), image, "no predicate"},
		"a release's":      {mustRelease(t, k), image, ""},
		"a digest's start": {seal(form(statementType, digest[:12], ""), k), image, "another image"},
	} {
		_, err := Read(tt.envelope, tt.image, policy)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	s, err := Read(mustRelease(t, k), image, policy)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Test(); err == nil || !strings.Contains(err.Error(), "release/v1") {
		t.Errorf("a release as a test: %v", err)
	}
	if _, err := policy.Verify(good, image); err == nil {
		t.Error("a machine takes a test result for a release")
	}
}

func mustMake(t *testing.T, keys ...*trust.PrivateKey) []byte {
	t.Helper()
	e, err := Make("demo", image, TestResultType, Tested(sample(), nil), keys...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustRelease(t *testing.T, k *trust.PrivateKey) []byte {
	t.Helper()
	e, err := trust.Sign(image, trust.Predicate{Name: "demo", Version: "1", Arch: "amd64"}, k)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// openssl and, where it is installed, cosign verify what we have signed, and
// not what was changed.
func TestOthersVerify(t *testing.T) {
	testenv.Need(t, "openssl")
	k := newKey(t, true)
	envelope := mustMake(t, k)
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pub := write("k.pub", k.Public.PEM())
	var e struct {
		PayloadType, Payload string
		Signatures           []struct{ Sig string }
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	payload, perr := base64.StdEncoding.DecodeString(e.Payload)
	sig, serr := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err := errors.Join(perr, serr); err != nil {
		t.Fatal(err)
	}
	openssl := func(payload []byte) error {
		// DSSE's pre-authentication encoding (protocol.md).
		pae := "DSSEv1 " + num(len(e.PayloadType)) + " " + e.PayloadType + " " + num(len(payload)) + " " + string(payload)
		return exec.Command("openssl", "dgst", "-sha256", "-verify", pub, "-signature", write("sig", sig), write("pae", []byte(pae))).Run()
	}
	if err := openssl(payload); err != nil {
		t.Errorf("openssl: %v", err)
	}
	if openssl(append(payload, ' ')) == nil {
		t.Error("openssl verifies anything")
	}
	cosign, err := exec.LookPath("cosign")
	if err != nil {
		t.Log("cosign is not installed (ci/cosign.sh builds it)")
		return
	}
	verify := func(digest string) ([]byte, error) {
		c := exec.Command(cosign, "verify-blob-attestation", "--key", pub, "--signature", write("e.json", envelope), "--insecure-ignore-tlog",
			"--type", TestResultType, "--new-bundle-format=false", "--digest", strings.TrimPrefix(digest, "sha256:"), "--digestAlg", "sha256")
		c.Env = append(os.Environ(), "HOME="+dir)
		return c.CombinedOutput()
	}
	if out, err := verify(image); err != nil {
		t.Errorf("cosign: %v\n%s", err, out)
	}
	if out, err := verify(other); err == nil {
		t.Errorf("cosign verifies another image's\n%s", out)
	}
}

func num(n int) string { b, _ := json.Marshal(n); return string(b) }
