package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
)

// stored is a layout with an image.
func stored(t *testing.T) (*registry.Layout, string) {
	t.Helper()
	l, err := registry.Open(filepath.Join(t.TempDir(), "oci"))
	if err != nil {
		t.Fatal(err)
	}
	disk := bytes.Repeat([]byte("x"), 4096)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(disk)
	digest, _, err := l.PutImage(t.Context(), path, registry.Image{Name: "demo", Version: "1", Arch: "amd64", Size: int64(len(disk)), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	return l, digest
}

// What is attached reads back as what was said, and what is forged as such.
func TestProofs(t *testing.T) {
	l, digest := stored(t)
	ours, theirs := newKey(t, true), newKey(t, false)
	keys := map[string]*trust.PublicKey{"ours.pub": ours.Public}
	e := sample()
	e.Subject = digest
	attach := func(kind, result string, content, envelope []byte) {
		t.Helper()
		blobs := []registry.Blob{{Title: evidenceTitle, MediaType: registry.EvidenceType, Content: content}}
		if envelope != nil {
			blobs = append(blobs, registry.Blob{Title: envelopeTitle, MediaType: trust.MediaType, Content: envelope})
		}
		if _, err := l.Attach(digest, registry.EvidenceType, map[string]string{AnnotationKind: kind, AnnotationResult: result}, blobs...); err != nil {
			t.Fatal(err)
		}
	}
	content, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	made := func(said TestResult, about string, keys ...*trust.PrivateKey) []byte {
		t.Helper()
		envelope, err := Make("demo", about, TestResultType, said, keys...)
		if err != nil {
			t.Fatal(err)
		}
		return envelope
	}
	if _, err := AttachEvidence(l, e, ours); err != nil {
		t.Fatal(err)
	}
	attach(e.Kind, "pass", content, made(Tested(e, content), digest))                      // 1: nobody's
	attach(e.Kind, "pass", content, made(Tested(e, content), digest, theirs))              // 2: a stranger's
	attach("metal-smoke", "pass", content, made(Tested(e, content), digest, ours))         // 3: another kind
	attach(e.Kind, "pass", []byte(`{"kind":"x"}`), made(Tested(e, content), digest, ours)) // 4: other JSON
	attach(e.Kind, "pass", content, made(Tested(e, content), image, ours))                 // 5: another image's
	attach(e.Kind, "pass", content, nil)                                                   // 6: from before
	failed := *e
	failed.Result = evidence.Fail
	bad, err := failed.Encode()
	if err != nil {
		t.Fatal(err)
	}
	attach(e.Kind, "pass", bad, nil)                                      // 7: the annotation lies
	attach(e.Kind, "pass", bad, made(Tested(&failed, bad), digest, ours)) // 8: the same, signed
	attach(e.Kind, "pass", []byte("x"), nil)                              // 9: no JSON
	proofs, err := Proofs(l, digest, keys)
	if err != nil || len(proofs) != 10 {
		t.Fatalf("%d proofs, %v", len(proofs), err)
	}
	for i, want := range []string{"", "", "not trusted", "annotations", "another evidence.json", "another image", "", "annotations", "annotations", "invalid character"} {
		p := proofs[i]
		if (p.Refused == "") != (want == "") || !strings.Contains(p.Refused, want) {
			t.Errorf("%d: refused %q; want %q", i, p.Refused, want)
		}
		if signed := len(p.Signers) == 1 && p.Signers[0] == "ours.pub"; p.Refused == "" && signed != (i == 0) {
			t.Errorf("%d: signers %v", i, p.Signers)
		}
	}
	if p := proofs[0]; p.Kind != "libvirt-smoke" || p.Variant != "uefi" || !p.Passed || !p.Rerun || !p.At.Equal(e.Ended) || p.ID != proofs[1].ID {
		t.Errorf("%+v", p)
	}
	items, err := List(l, digest, trust.NewPolicy(ours.Public))
	if err != nil || len(items) != 10 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, it := range items {
		if refused := i == 1 || i == 2 || i == 5 || i == 6 || i == 7 || i == 9; refused != (it.Refused != "") {
			t.Errorf("%d: %+v", i, it)
		}
	}
}
