package sbom

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
	"github.com/xeipuuv/gojsonschema"

	"goldsmith/internal/dpkg"
	"goldsmith/internal/tree"
)

const status = `Package: libstdc++6
Status: install ok installed
Maintainer: Debian GCC Maintainers <debian-gcc@lists.debian.org>
Architecture: amd64
Source: gcc-12 (12.2.0-14+deb12u1)
Version: 12.2.0-14
Homepage: http://gcc.gnu.org/
Description: GNU Standard C++ Library v3
 Long text.

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: hello
Status: install ok installed
Maintainer: Jane <Doe> "x" <jane@example.org>
Architecture: all
Version: 1:2.10~rc1-3
Description: a "friendly" <b>greeting</b>
`

const dep5 = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: hello

Files: *
Copyright: 1992 Free Software Foundation
           2001 A. Person
License: GPL-3+

Files: debian/*
Copyright: 2001 A. Person
License: Artistic or GPL-1+
 Text of both.

Files: x
Copyright: 1992 Free Software Foundation
License: GPL-2+ with exception
 Be good.
 .
 Be nice.

License: GPL-3+
 On Debian systems …
`

func system() *tree.Tree {
	t := tree.New()
	t.AddFile("var/lib/dpkg/status", 0o644, []byte(status))
	t.AddFile("usr/lib/os-release", 0o644, []byte("ID=debian\nVERSION_ID=\"12\"\n"))
	t.AddFile("usr/share/doc/hello/copyright", 0o644, []byte(dep5))
	t.Add(&tree.Entry{Path: "usr/share/doc/libstdc++6", Mode: tree.ModeSymlink | 0o777, Target: "gcc-12-base"})
	t.AddFile("usr/share/doc/gcc-12-base/copyright", 0o644, []byte("Prose \xff."))
	return t
}

func image(t *testing.T) Image {
	t.Helper()
	m, err := Read(system())
	if err != nil {
		t.Fatal(err)
	}
	m.Name, m.Version, m.Release, m.Arch = "demo", "1.2", "bookworm", "amd64"
	m.Elements = []string{"boot", "redis"}
	m.Time = time.Unix(1700000000, 0)
	m.Packages[0].SHA256 = strings.Repeat("ab", 32)
	return m
}

func TestRead(t *testing.T) {
	m := image(t)
	want := []Package{
		{
			Package:    dpkg.Package{Name: "hello", Version: "1:2.10~rc1-3", Arch: "all"},
			Maintainer: `Jane <Doe> "x" <jane@example.org>`, Summary: `a "friendly" <b>greeting</b>`,
			SHA256:    strings.Repeat("ab", 32),
			License:   "(Artistic-1.0-Perl OR GPL-1.0-or-later) AND GPL-3.0-or-later AND LicenseRef-hello-GPL-2-with-exception",
			Copyright: "1992 Free Software Foundation\n2001 A. Person",
			Refs: map[string]Ref{
				"LicenseRef-hello-GPL-2-with-exception": {"GPL-2+ with exception", "Be good.\n\nBe nice."}},
		},
		{
			Package: dpkg.Package{Name: "libstdc++6", Version: "12.2.0-14", Arch: "amd64"},
			Source:  "gcc-12", SourceVersion: "12.2.0-14+deb12u1",
			Maintainer: "Debian GCC Maintainers <debian-gcc@lists.debian.org>",
			Homepage:   "http://gcc.gnu.org/", Summary: "GNU Standard C++ Library v3",
		},
	}
	if diff := cmp.Diff(want, m.Packages); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if want := (OS{"debian", "12"}); m.OS != want {
		t.Errorf("OS = %v; want %v", m.OS, want)
	}
}

func TestPURL(t *testing.T) {
	m := image(t)
	for i, want := range []string{
		"pkg:deb/debian/hello@1:2.10~rc1-3?arch=all&distro=debian-12",
		"pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64&distro=debian-12",
	} {
		if got := m.PURL(m.Packages[i]); got != want {
			t.Errorf("PURL = %s; want %s", got, want)
		}
	}
	m.OS = OS{}
	if got, want := m.PURL(m.Packages[0]), "pkg:deb/debian/hello@1:2.10~rc1-3?arch=all&distro=bookworm"; got != want {
		t.Errorf("PURL = %s; want %s", got, want)
	}
}

func TestLicenses(t *testing.T) {
	for name, want := range map[string]string{
		"GPL-2": "GPL-2.0-only", "GPL-2+": "GPL-2.0-or-later", "GPLv3+": "GPL-3.0-or-later", "LGPL-2.1": "LGPL-2.1-only",
		"LGPL-2": "LGPL-2.0-only", "GPL-3.0-or-later": "GPL-3.0-or-later", "GPL-2.1": "", "GPL": "",
		"GFDL-1.3+": "GFDL-1.3-or-later",
		"Expat":     "MIT", "expat": "MIT", "BSD": "", "Apache-2": "Apache-2.0", "GFDL-NIV-1.3": "",
	} {
		if got := spdxID(name); got != want {
			t.Errorf("spdxID(%q) = %q; want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"Expat and ISC":             "MIT AND ISC",
		"Expat or ISC and GPL-2":    "(MIT OR ISC AND GPL-2.0-only)",
		"LGPL-3+_or_GPL-2+":         "(LGPL-3.0-or-later OR GPL-2.0-or-later)",
		"GPL-2, and Expat":          "LicenseRef-s-GPL-2-and-Expat",
		"Permission <is> / granted": "LicenseRef-s-Permission-is-granted",
		"…":                         "LicenseRef-s-unnamed",
	} {
		r := refMaker{source: "s", refs: map[string]Ref{}}
		if got := r.expression(name); got != want {
			t.Errorf("expression(%q) = %q; want %q", name, got, want)
		}
	}
}

func TestSPDX(t *testing.T) {
	var b bytes.Buffer
	if err := WriteSPDX(&b, image(t)); err != nil {
		t.Fatal(err)
	}
	doc, err := spdxjson.Read(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	id := regexp.MustCompile(`^[a-zA-Z0-9.-]+$`)
	seen := map[string]bool{}
	for _, p := range doc.Packages {
		name := string(p.PackageSPDXIdentifier)
		if !id.MatchString(name) || seen[name] {
			t.Errorf("identifier %q is not allowed, or there twice", name)
		}
		seen[name] = true
		if p.PackageName == "" || p.PackageDownloadLocation == "" || p.FilesAnalyzed {
			t.Errorf("package %q lacks a required field", name)
		}
	}
	if len(doc.Relationships) != 1+2+2 || len(doc.OtherLicenses) != 1 {
		t.Errorf("%d relationships, %d licences; want 5, 1", len(doc.Relationships), len(doc.OtherLicenses))
	}
	var raw map[string]any
	if err := json.Unmarshal(b.Bytes(), &raw); err != nil {
		t.Fatal(err)
	}
	// Required by clause 6 of the specification.
	for _, field := range []string{"spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace", "creationInfo"} {
		if raw[field] == nil {
			t.Errorf("no %s", field)
		}
	}
	for _, want := range []string{
		`"created": "2023-11-14T22:13:20Z"`, `"SPDXID": "SPDXRef-Package-libstdc.2b2b.6-amd64"`,
		`"supplier": "Organization: Debian GCC Maintainers (debian-gcc@lists.debian.org)"`,
		`"referenceLocator": "pkg:deb/debian/hello@1:2.10~rc1-3?arch=all&distro=debian-12"`,
		`"packageFileName": "hello_2.10~rc1-3_all.deb"`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in:\n%s", want, b.String())
		}
	}
}

// The document is held to the schema that the CycloneDX project publishes and
// its library carries.
func TestCycloneDX(t *testing.T) {
	var b bytes.Buffer
	if err := WriteCycloneDX(&b, image(t)); err != nil {
		t.Fatal(err)
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	schemas := gojsonschema.NewSchemaLoader()
	for name, file := range map[string]string{
		"spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		l := gojsonschema.NewReferenceLoader("file://" + filepath.Join(strings.TrimSpace(string(dir)), "schema", file))
		if err := schemas.AddSchema("http://cyclonedx.org/schema/"+name, l); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := schemas.Compile(gojsonschema.NewReferenceLoader(
		"file://" + filepath.Join(strings.TrimSpace(string(dir)), "schema", "bom-1.6.schema.json")))
	if err != nil {
		t.Fatal(err)
	}
	result, err := schema.Validate(gojsonschema.NewBytesLoader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range result.Errors() {
		t.Error(e)
	}
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(&b, cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	if len(*bom.Components) != 3 || (*bom.Components)[2].PackageURL == "" {
		t.Errorf("components: %v", *bom.Components)
	}
}

// The same image gives the same bytes; another one other identifiers.
func TestSameBytes(t *testing.T) {
	write := func(m Image) string {
		var b bytes.Buffer
		if err := WriteSPDX(&b, m); err != nil {
			t.Fatal(err)
		}
		if err := WriteCycloneDX(&b, m); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	m := image(t)
	one := write(m)
	m.Time = m.Time.In(time.FixedZone("x", 3600))
	if two := write(m); one != two {
		t.Errorf("a time zone changes the bill:\n%s", cmp.Diff(one, two))
	}
	ids := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	m.Packages[0].Version = "2"
	a, b := ids.FindAllString(one, -1), ids.FindAllString(write(m), -1)
	if len(a) != 2 || len(b) != 2 || a[0] == b[0] || a[1] == b[1] || a[0] == a[1] {
		t.Errorf("identifiers %v and %v", a, b)
	}
}

func TestEmpty(t *testing.T) {
	m, err := Read(tree.New())
	if err != nil {
		t.Fatal(err)
	}
	m.Name = "empty"
	var b bytes.Buffer
	if err := WriteSPDX(&b, m); err != nil {
		t.Fatal(err)
	}
	if _, err := spdxjson.Read(&b); err != nil {
		t.Error(err)
	}
}
