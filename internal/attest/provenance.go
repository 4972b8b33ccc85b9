package attest

import (
	"slices"

	"goldsmith/internal/imagebuild"
	"goldsmith/internal/osv"
	"goldsmith/internal/sbom"
)

// Provenance is the predicate of how an image was built (SLSA v1,
// https://slsa.dev/spec/v1.0/provenance). It has no times: the same build of
// the same run says the same.
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is what went into a build.
type BuildDefinition struct {
	BuildType            string             `json:"buildType"`
	ExternalParameters   ExternalParameters `json:"externalParameters"`
	ResolvedDependencies []Resource         `json:"resolvedDependencies"`
}

// ExternalParameters are what whoever started the build chose.
type ExternalParameters struct {
	Definition Resource          `json:"definition"`        // the file, by its digest
	Inputs     map[string]string `json:"inputs,omitempty"`  // of the run: commit, branch
	Authors    []string          `json:"authors,omitempty"` // of the commit, and who started the run
}

// RunDetails are who built it.
type RunDetails struct {
	Builder  Builder     `json:"builder"`
	Metadata RunMetadata `json:"metadata"`
}

// Builder is the program.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// RunMetadata names the run.
type RunMetadata struct {
	InvocationID string `json:"invocationId,omitempty"`
}

// Names of what builds our images, and how.
const (
	buildType = "https://goldsmith.invalid/build/v1"
	builderID = "https://goldsmith.invalid/imgbuild"
)

// Built makes the predicate of a build from its manifest. The inputs are the
// image's packages and elements.
func Built(m *imagebuild.Manifest, p ExternalParameters, run string) Provenance {
	bill := sbom.Image{Name: m.Name, Version: m.Version, Release: m.Release, Arch: m.Arch, OS: sbom.OS{Version: osv.Number(m.Release)}}
	var deps []Resource
	for _, pkg := range m.Packages {
		deps = append(deps, Resource{Name: pkg.Name, URI: bill.PURL(sbom.Package{Package: pkg})})
	}
	for _, e := range m.Elements {
		deps = append(deps, Resource{Name: e, URI: "goldsmith:element/" + e})
	}
	slices.Sort(p.Authors)
	p.Authors = slices.Compact(p.Authors)
	return Provenance{
		BuildDefinition: BuildDefinition{BuildType: buildType, ExternalParameters: p, ResolvedDependencies: deps},
		RunDetails:      RunDetails{Builder: Builder{ID: builderID}, Metadata: RunMetadata{InvocationID: run}},
	}
}
