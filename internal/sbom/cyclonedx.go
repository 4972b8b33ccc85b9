package sbom

import (
	"io"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// WriteCycloneDX writes the bill as a CycloneDX 1.6 document.
func WriteCycloneDX(w io.Writer, m Image) error {
	id, err := m.uuid("CycloneDX")
	if err != nil {
		return err
	}
	properties := []cdx.Property{}
	for _, e := range m.Elements {
		properties = append(properties, cdx.Property{Name: "goldsmith:element", Value: e})
	}
	components := []cdx.Component{{
		BOMRef: "os", Type: cdx.ComponentTypeOS, Name: m.id(), Version: m.OS.Version,
		Description: strings.TrimSpace(m.Release + " " + m.Arch),
	}}
	for _, p := range m.Packages {
		components = append(components, m.component(p))
	}
	bom := &cdx.BOM{
		JSONSchema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
		BOMFormat:  "CycloneDX", SpecVersion: cdx.SpecVersion1_6,
		SerialNumber: "urn:uuid:" + id, Version: 1,
		Metadata: &cdx.Metadata{
			Timestamp: m.timestamp(),
			Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{
				{Type: cdx.ComponentTypeApplication, Name: "imgbuild", Publisher: "goldsmith"}}},
			Component: &cdx.Component{
				BOMRef: "image", Type: cdx.ComponentTypeOS, Name: m.Name, Version: m.Version, Properties: &properties},
		},
		Components: &components,
	}
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom)
}

func (m Image) component(p Package) cdx.Component {
	purl := m.PURL(p)
	c := cdx.Component{
		BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, Description: p.Summary,
		PackageURL: purl, Copyright: p.Copyright,
		Pedigree: &cdx.Pedigree{Ancestors: &[]cdx.Component{{
			Type: cdx.ComponentTypeLibrary, Name: p.source(), Version: p.sourceVersion(),
			PackageURL: m.purl(p.source(), p.sourceVersion(), "source"),
		}}},
	}
	if p.Maintainer != "" {
		name, address := splitMaintainer(p.Maintainer)
		c.Supplier = &cdx.OrganizationalEntity{Name: name}
		if address != "" {
			c.Supplier.Contact = &[]cdx.OrganizationalContact{{Email: address}}
		}
	}
	if p.SHA256 != "" {
		c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: p.SHA256}}
	}
	if p.License != "" {
		c.Licenses = &cdx.Licenses{{Expression: p.License}}
	}
	if p.Homepage != "" {
		c.ExternalReferences = &[]cdx.ExternalReference{{Type: cdx.ERTypeWebsite, URL: p.Homepage}}
	}
	return c
}
