package attest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"goldsmith/internal/imagebuild"
	"goldsmith/internal/imagediff"
	"goldsmith/internal/osv"
	"goldsmith/internal/registry"
)

// PackageDiff is the predicate of how an image's packages differ from those of
// the image that it would replace.
type PackageDiff struct {
	Against   string                    `json:"against"` // digest of the other image
	Changes   []imagediff.PackageChange `json:"changes"`
	Unchanged int                       `json:"unchanged"` // packages that are the same in both
}

// VulnDiff is the predicate of how the known vulnerabilities of an image differ
// from those of the image that it would replace.
type VulnDiff struct {
	Against  string              `json:"against,omitempty"` // digest of the other image; empty: there is none
	Database string              `json:"database"`          // "sha256:…" of the file
	New      []osv.Vulnerability `json:"new"`
	Gone     []osv.Vulnerability `json:"gone"`
	Stays    []osv.Vulnerability `json:"stays"`
	Notes    []string            `json:"notes,omitempty"` // what could not be told
}

// manifest returns the build's manifest that is attached to an image last.
func manifest(l *registry.Layout, image string) (*imagebuild.Manifest, error) {
	refs, err := l.Referrers(image, registry.ManifestType)
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("image %s: no build manifest is attached to it", image)
	}
	content, err := l.Attached(refs[len(refs)-1].Digest, "manifest.json")
	if err != nil {
		return nil, err
	}
	m := &imagebuild.Manifest{}
	if err := json.Unmarshal(content, m); err != nil {
		return nil, fmt.Errorf("image %s: manifest.json: %w", image, err)
	}
	return m, nil
}

// ComparePackages says how an image's packages differ from another's.
func ComparePackages(l *registry.Layout, image, against string) (*PackageDiff, error) {
	is, err := manifest(l, image)
	if err != nil {
		return nil, err
	}
	was, err := manifest(l, against)
	if err != nil {
		return nil, err
	}
	d := &PackageDiff{Against: against, Changes: imagediff.Packages(was.Packages, is.Packages)}
	if d.Changes == nil {
		d.Changes = []imagediff.PackageChange{}
	}
	for _, p := range is.Packages {
		if slices.Contains(was.Packages, p) {
			d.Unchanged++
		}
	}
	return d, nil
}

// CompareVulnerabilities says how the vulnerabilities of an image differ from
// those of another, or which it has where against is empty. Those that are
// known under the same ID in the same source package are the same, whatever
// the version.
func CompareVulnerabilities(l *registry.Layout, db *osv.DB, image, against string) (*VulnDiff, error) {
	d := &VulnDiff{Against: against, Database: "sha256:" + db.SHA256, New: []osv.Vulnerability{}, Gone: []osv.Vulnerability{}, Stays: []osv.Vulnerability{}}
	is, err := vulnerable(l, db, image, d)
	if err != nil {
		return nil, err
	}
	var was []osv.Vulnerability
	if against != "" {
		if was, err = vulnerable(l, db, against, d); err != nil {
			return nil, err
		}
	}
	in := func(list []osv.Vulnerability, v osv.Vulnerability) bool {
		return slices.ContainsFunc(list, func(o osv.Vulnerability) bool { return o.ID == v.ID && o.Package == v.Package })
	}
	for _, v := range is {
		if in(was, v) {
			d.Stays = append(d.Stays, v)
		} else {
			d.New = append(d.New, v)
		}
	}
	for _, v := range was {
		if !in(is, v) {
			d.Gone = append(d.Gone, v)
		}
	}
	return d, nil
}

func vulnerable(l *registry.Layout, db *osv.DB, image string, d *VulnDiff) ([]osv.Vulnerability, error) {
	m, err := manifest(l, image)
	if err != nil {
		return nil, err
	}
	sources, err := sources(l, image)
	if err != nil {
		return nil, err
	}
	if sources == nil {
		d.Notes = append(d.Notes, "no bill of materials is attached to "+image+": packages are taken for their own sources")
		for _, p := range m.Packages {
			sources = append(sources, osv.Source{Name: p.Name, Version: p.Version})
		}
	}
	return db.Affecting(m.Release, sources)
}

// sources are the source packages in an image's CycloneDX bill; nil where none
// is attached.
func sources(l *registry.Layout, image string) (out []osv.Source, err error) {
	refs, err := l.Referrers(image, registry.StatementType)
	if err != nil {
		return nil, err
	}
	for _, r := range refs {
		if r.Annotations[AnnotationType] != CycloneDXType {
			continue
		}
		envelope, err := Envelope(l, r)
		if err != nil {
			return nil, err
		}
		s, err := Read(envelope, image, nil)
		if err != nil {
			return nil, err
		}
		var bill struct {
			Components []struct {
				Pedigree struct {
					Ancestors []osv.Source `json:"ancestors"`
				} `json:"pedigree"`
			} `json:"components"`
		}
		if err := s.Decode(CycloneDXType, &bill); err != nil {
			return nil, err
		}
		out = []osv.Source{}
		for _, c := range bill.Components {
			out = append(out, c.Pedigree.Ancestors...)
		}
	}
	slices.SortFunc(out, func(a, b osv.Source) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	return slices.Compact(out), nil
}
