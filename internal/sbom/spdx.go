package sbom

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/mail"
	"regexp"
	"slices"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const noAssertion = "NOASSERTION"

// WriteSPDX writes the bill as an SPDX 2.3 document.
func WriteSPDX(w io.Writer, m Image) error {
	id, err := m.uuid("SPDX")
	if err != nil {
		return err
	}
	doc := &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      strings.Trim(m.Name+"-"+m.Version, "-"),
		DocumentNamespace: "https://spdx.org/spdxdocs/" + escape(m.Name) + "-" + id,
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "goldsmith-imgbuild"}}, Created: m.timestamp(),
		},
	}
	image := m.spdxImage()
	doc.Packages = append(doc.Packages, image)
	relate(doc, doc.SPDXIdentifier, common.TypeRelationshipDescribe, image.PackageSPDXIdentifier)
	refs := map[string]Ref{}
	for _, p := range m.Packages {
		q := m.spdxPackage(p)
		doc.Packages = append(doc.Packages, q)
		relate(doc, image.PackageSPDXIdentifier, common.TypeRelationshipContains, q.PackageSPDXIdentifier)
		maps.Copy(refs, p.Refs)
	}
	for i, name := range m.Elements {
		e := &v2_3.Package{
			PackageName: name, PackageSPDXIdentifier: common.ElementID(fmt.Sprintf("Element-%d-%s", i+1, idString(name))),
			PackageDownloadLocation: noAssertion, PrimaryPackagePurpose: "SOURCE", PackageSummary: "goldsmith element",
		}
		doc.Packages = append(doc.Packages, e)
		relate(doc, image.PackageSPDXIdentifier, common.TypeRelationshipGeneratedFrom, e.PackageSPDXIdentifier)
	}
	for _, id := range slices.Sorted(maps.Keys(refs)) {
		doc.OtherLicenses = append(doc.OtherLicenses, &v2_3.OtherLicense{
			LicenseIdentifier: id, LicenseName: refs[id].Name, ExtractedText: refs[id].Text,
		})
	}
	return spdxjson.Write(doc, w, spdxjson.Indent("  "), spdxjson.EscapeHTML(false))
}

func relate(doc *v2_3.Document, a common.ElementID, how string, b common.ElementID) {
	doc.Relationships = append(doc.Relationships, &v2_3.Relationship{
		RefA: common.DocElementID{ElementRefID: a}, Relationship: how, RefB: common.DocElementID{ElementRefID: b},
	})
}

func (m Image) spdxImage() *v2_3.Package {
	return &v2_3.Package{
		PackageName: m.Name, PackageSPDXIdentifier: "Image", PackageVersion: m.Version,
		PackageDownloadLocation: noAssertion, PrimaryPackagePurpose: "OPERATING-SYSTEM",
		PackageSummary:          fmt.Sprintf("image of %s %s %s", m.id(), cmp.Or(m.Release, m.OS.Version), m.Arch),
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion, PackageCopyrightText: noAssertion,
	}
}

func (m Image) spdxPackage(p Package) *v2_3.Package {
	q := &v2_3.Package{
		PackageName: p.Name, PackageVersion: p.Version,
		PackageSPDXIdentifier:   common.ElementID("Package-" + spdxName(p.Name) + "-" + spdxName(p.Arch)),
		PackageFileName:         debFile(p),
		PackageDownloadLocation: noAssertion,
		PackageHomePage:         p.Homepage,
		PackageSourceInfo:       "built from the source package " + p.source() + " " + p.sourceVersion(),
		PackageLicenseConcluded: noAssertion,
		PackageLicenseDeclared:  cmp.Or(p.License, noAssertion),
		PackageCopyrightText:    cmp.Or(p.Copyright, noAssertion),
		PackageSummary:          p.Summary,
		PackageSupplier:         supplier(p.Maintainer),
		PackageExternalReferences: []*v2_3.PackageExternalReference{
			{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: m.PURL(p)},
		},
	}
	if p.SHA256 != "" {
		q.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: p.SHA256}}
	}
	return q
}

// spdxName makes one identifier of each package's name: what SPDX does not
// allow becomes its number, as "libstdc++6" and "libstdc-6" are two.
func spdxName(s string) string {
	return notIDString.ReplaceAllStringFunc(s, func(bad string) string {
		return fmt.Sprintf(".%x.", bad)
	})
}

// debFile is the name under which mirrors have the package: without epoch.
func debFile(p Package) string {
	_, version, ok := strings.Cut(p.Version, ":")
	if !ok {
		version = p.Version
	}
	return p.Name + "_" + version + "_" + p.Arch + ".deb"
}

// team matches maintainers that are no single person.
var team = regexp.MustCompile(`(?i)\b(team|teams|maintainers|developers|group|project|task force|packagers)\b|lists\.`)

func supplier(maintainer string) *common.Supplier {
	if maintainer == "" {
		return &common.Supplier{Supplier: noAssertion}
	}
	name, address := splitMaintainer(maintainer)
	s := &common.Supplier{SupplierType: "Person", Supplier: name}
	if address != "" {
		s.Supplier = strings.TrimSpace(name + " (" + address + ")")
	}
	if team.MatchString(maintainer) {
		s.SupplierType = "Organization"
	}
	return s
}

// splitMaintainer splits "Name <address>". What is no such thing is a name.
func splitMaintainer(m string) (name, address string) {
	i := strings.LastIndex(m, "<")
	if i < 0 || !strings.HasSuffix(m, ">") {
		return m, ""
	}
	address = m[i+1 : len(m)-1]
	if a, err := mail.ParseAddress(address); err != nil || a.Address != address {
		return m, ""
	}
	return strings.TrimSpace(m[:i]), address
}
