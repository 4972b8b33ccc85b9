package step

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
)

// put stores an image of a few bytes.
func put(t *testing.T, s *Store, name, version string, elements ...string) string {
	t.Helper()
	content := []byte(name + version + strings.Join(elements, ","))
	content = append(content, make([]byte, 512)...)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	digest, _, err := s.Images.PutImage(t.Context(), path, registry.Image{Name: name, Version: version, Arch: "amd64",
		Elements: elements, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// What an upgrade does when there is nothing to update from, or from which no
// machine could be updated: before any machine is taken.
func TestWhatToUpgradeFrom(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"imgupdate", "ssh-server"}
	img := put(t, s, "demo", "2", all...)
	const channels = "channels:\n- {name: c}\n- {name: d}\n"
	for _, tt := range []struct {
		name, with string
		in         string // what is in channel c; "" is nothing
		want       string // an error's text, or "" for evidence
		result     evidence.Result
	}{
		{"the first image", "{}", "", "", evidence.Pass},
		{"the first image, and none is expected", "{first: fail}", "",
			"1 failed: upgrade/first: nothing is in c yet, and with.first says that this is a failure", evidence.Fail},
		{"the same image", "{}", img, "", ""},
		{"another name", "{}", put(t, s, "other", "1", all...), "image other cannot be updated to demo: they have different names", ""},
		{"the same version", "{}", put(t, s, "demo", "2", "imgupdate", "ssh-server", "x"), "image demo: two images have version 2", ""},
		{"it cannot be updated", "{}", put(t, s, "demo", "1", "ssh-server"), "image demo 1 has no element imgupdate", ""},
		{"it cannot be asked", fmt.Sprintf("{from: %s}", put(t, s, "demo", "1", "imgupdate")), "", "image demo 1 has no element ssh-server", ""},
	} {
		if tt.in != "" {
			if err := s.Images.Tag(tt.in, "c"); err != nil {
				t.Fatal(err)
			}
		}
		before, err := s.Proofs(img)
		if err != nil {
			t.Fatal(err)
		}
		_, steps, err := load(t, s, "stages:\n- {name: s, uses: upgrade, with: "+tt.with+"}\n"+channels)
		if err != nil {
			t.Fatal(err)
		}
		out, err := steps["s"].Run(t.Context(), job(t, img))
		if got := fmt.Sprint(err); tt.want != "" && !strings.Contains(got, tt.want) || tt.want == "" && err != nil {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
		if tt.name == "the same image" && (out == nil || !strings.Contains(out.Notes[0], "c holds this image already")) {
			t.Errorf("%s: %+v", tt.name, out)
		}
		proofs, err := s.Proofs(img)
		if err != nil {
			t.Fatal(err)
		}
		more := proofs[len(before):]
		if (len(more) == 1) != (tt.result != "") || len(more) == 1 && more[0].Passed != (tt.result == evidence.Pass) {
			t.Errorf("%s: evidence %v; want %q", tt.name, more, tt.result)
		}
	}
}

func TestSuiteParameters(t *testing.T) {
	s, _ := store(t, "x")
	for text, want := range map[string]string{
		"stages:\n- {name: s, uses: build, with: {definition: step.go, sign: no.key}}":                                       "p.yaml:4: stage s: with.sign: open no.key: no such file or directory",
		"stages:\n- {name: s, uses: upgrade}":                                                                                "p.yaml:4: stage s: with.from is missing, and the file has no channels: name what to update from",
		"stages:\n- {name: s, uses: upgrade, with: {from: sha256:0, cpus: 1, metadata: {redis: {password: x, port: 6380}}}}": "",
		"stages:\n- {name: s, uses: upgrade, with: {from: x}}":                                                               `p.yaml:4: stage s: with.from "x" is neither one of the file's channels nor a digest`,
		"stages:\n- {name: s, uses: upgrade, with: {from: sha256:0, first: perhaps}}":                                        `p.yaml:4: stage s: with.first "perhaps": expected pass or fail`,
		"stages:\n- {name: s, uses: upgrade, with: {from: sha256:0, restart: soft}}":                                         `p.yaml:4: stage s: with.restart "soft": expected reboot or kexec`,
		"stages:\n- {name: s, uses: upgrade, with: {from: sha256:0, load: redis}}": "p.yaml:4: stage s: with.load redis: with.metadata.redis.password is missing; " +
			"without one the server listens on the loopback only",
		"stages:\n- {name: s, uses: broken-upgrade}":                            "p.yaml:4: stage s: with.broken is missing: name an image that cannot prove itself, or its definition",
		"stages:\n- {name: s, uses: broken-upgrade, with: {broken: no.yaml}}":   "p.yaml:4: stage s: image definition no.yaml is not there\np.yaml:4: stage s: with.sign is missing: machines take no update without a signature",
		"stages:\n- {name: s, uses: broken-upgrade, with: {broken: x}}":         `p.yaml:4: stage s: with.broken "x" is neither a digest, nor one of the file's channels, nor a .yaml file`,
		"stages:\n- {name: s, uses: reboots, with: {times: 0}}":                 "p.yaml:4: stage s: with.times is 0: expected 1 to 1000",
		"stages:\n- {name: s, uses: power-cycle, with: {times: 2, seed: 9}}":    "",
		"stages:\n- {name: s, uses: power-cycle, with: {memory: 64, tines: 2}}": `p.yaml:4: unknown field "tines"`,
	} {
		_, _, err := load(t, s, text)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s\ngives %q; want %q", text, got, want)
		}
	}
}

// What is signed is what machines verify; signing again changes nothing.
func TestSign(t *testing.T) {
	s, digest := store(t, "x")
	key, err := trust.NewKey(false)
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "release.key")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.sign(digest, file); err != nil {
			t.Fatal(err)
		}
	}
	refs, err := s.Images.Referrers(digest, registry.SignatureType)
	if err != nil || len(refs) != 1 {
		t.Fatalf("signatures: %v, %v; want one", refs, err)
	}
	envelope, err := s.Images.Attached(refs[0].Digest, trust.Title)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := trust.NewPolicy(key.Public).Verify(envelope, digest); err != nil || p.Name != "tiny" || p.Version != "1" {
		t.Errorf("verified: %+v, %v", p, err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.sign(digest, file); command.Status(err) != command.StatusUsage {
		t.Errorf("a key that is none: %v", err)
	}
}
