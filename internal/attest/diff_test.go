package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"goldsmith/internal/dpkg"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/osv"
	"goldsmith/internal/registry"
	"goldsmith/internal/sbom"
)

// with puts an image with those packages into the layout, its manifest and its
// bill attached; without bill where version is odd.
func with(t *testing.T, l *registry.Layout, version string, bill bool, packages ...sbom.Package) string {
	t.Helper()
	disk := bytes.Repeat([]byte(version), 4096)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(disk)
	digest, _, err := l.PutImage(t.Context(), path, registry.Image{Name: "demo", Version: version, Arch: "amd64", Size: int64(len(disk)), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	m := imagebuild.Manifest{Name: "demo", Version: version, Arch: "amd64", Release: "bookworm"}
	for _, p := range packages {
		m.Packages = append(m.Packages, p.Package)
	}
	content, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Attach(digest, registry.ManifestType, nil, registry.Blob{Title: "manifest.json", MediaType: registry.ManifestType, Content: content}); err != nil {
		t.Fatal(err)
	}
	if !bill {
		return digest
	}
	var b bytes.Buffer
	if err := sbom.WriteCycloneDX(&b, sbom.Image{Name: "demo", Version: version, Release: "bookworm", Arch: "amd64", Packages: packages}); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(l, digest, CycloneDXType, json.RawMessage(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	return digest
}

// A library's source package has the vulnerability, not the library; what is
// new, what is gone and what stays is told apart.
func TestDiffs(t *testing.T) {
	l, err := registry.Open(filepath.Join(t.TempDir(), "oci"))
	if err != nil {
		t.Fatal(err)
	}
	pkg := func(name, version, source string) sbom.Package {
		return sbom.Package{Package: dpkg.Package{Name: name, Version: version, Arch: "amd64"}, Source: source}
	}
	was := with(t, l, "1", true, pkg("libssl3", "3.0.1", "openssl"), pkg("bash", "5.1", ""), pkg("curl", "7.1", ""))
	is := with(t, l, "2", true, pkg("libssl3", "3.0.2", "openssl"), pkg("bash", "5.1", ""), pkg("zsh", "1", ""))
	packages, err := ComparePackages(l, is, was)
	if err != nil || len(packages.Changes) != 3 || packages.Unchanged != 1 || packages.Against != was {
		t.Errorf("%+v, %v", packages, err)
	}
	file := filepath.Join(t.TempDir(), "db")
	record := func(id, name, fixed string) string {
		return `{"id":"` + id + `","affected":[{"package":{"ecosystem":"Debian:12","name":"` + name + `"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"` + fixed + `"}]}]}]}`
	}
	if err := os.WriteFile(file, []byte(record("A", "openssl", "3.0.2")+record("B", "openssl", "3.0.9")+record("C", "zsh", "2")+record("D", "libssl3", "9")), 0o644); err != nil {
		t.Fatal(err)
	}
	db, err := osv.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	ids := func(v []osv.Vulnerability) (s string) {
		for _, x := range v {
			s += x.ID
		}
		return s
	}
	for _, tt := range []struct{ image, against, fresh, gone, stays string }{
		{is, was, "C", "A", "B"}, {was, "", "AB", "", ""}, {is, is, "", "", "BC"},
	} {
		d, err := CompareVulnerabilities(l, db, tt.image, tt.against)
		if err != nil || ids(d.New) != tt.fresh || ids(d.Gone) != tt.gone || ids(d.Stays) != tt.stays || d.Notes != nil {
			t.Errorf("%+v, %v", d, err)
		}
	}
	bare := with(t, l, "3", false, pkg("libssl3", "3.0.2", "openssl"))
	if d, err := CompareVulnerabilities(l, db, bare, is); err != nil || ids(d.New) != "D" || len(d.Notes) != 1 {
		t.Errorf("without a bill: %+v, %v", d, err)
	}
	if _, err := Attach(l, is, PackageDiffType, packages); err != nil {
		t.Fatal(err)
	}
	items, err := List(l, is, nil)
	if err != nil || len(items) != 2 || items[1].Result != "3 packages differ from "+was[:19] {
		t.Errorf("%+v, %v", items, err)
	}
}
