package step

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"goldsmith/internal/attest"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/osv"
	"goldsmith/pipeline"
)

// attest says of an image how it was built and by whom, what is in it, and how
// it differs from what the pipeline's channels hold. out is where imgbuild left
// its files.
func (b *build) attest(ctx context.Context, out, digest string, m *imagebuild.Manifest, j *pipeline.Job) error {
	sum, err := hashFile(ctx, b.definition)
	if err != nil {
		return err
	}
	var authors []string
	if j.Author != "" {
		authors = append(authors, j.Author)
	}
	said := attest.Built(m, attest.ExternalParameters{
		Definition: attest.Resource{Name: filepath.Base(b.definition), Digest: map[string]string{"sha256": sum}},
		Inputs:     j.Inputs, Authors: authors,
	}, "run "+j.Run)
	if err := b.say(digest, attest.ProvenanceType, said); err != nil {
		return err
	}
	for _, form := range [][2]string{{".spdx.json", attest.SPDXType}, {".cdx.json", attest.CycloneDXType}} {
		found, err := filesIn(out, form[0])
		if err != nil {
			return err
		}
		for _, name := range found {
			if err := b.bill(filepath.Join(out, name), digest, form[1], j); err != nil {
				return err
			}
		}
	}
	return b.compare(digest, j)
}

func (b *build) say(digest, kind string, predicate any) error {
	_, err := attest.Attach(b.env.Store.Images, digest, kind, predicate, b.env.Store.keys()...)
	return err
}

// bill attaches a bill of materials.
func (b *build) bill(file, digest, kind string, j *pipeline.Job) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if len(content) > attest.MaxSize/2 {
		fmt.Fprintf(j.Log, "%s is not attached: it has %d bytes\n", filepath.Base(file), len(content))
		return nil
	}
	return b.say(digest, kind, json.RawMessage(content))
}

// compare attaches how the image differs from those that it may replace.
func (b *build) compare(digest string, j *pipeline.Job) error {
	images := b.env.Store.Images
	tags, err := images.Tags()
	if err != nil {
		return err
	}
	replaced := map[string]bool{}
	for _, c := range b.channels {
		if against := tags[c]; against != "" && against != digest {
			replaced[against] = true
		}
	}
	against := slices.Sorted(maps.Keys(replaced))
	for _, a := range against {
		d, err := attest.ComparePackages(images, digest, a)
		if err != nil {
			fmt.Fprintf(j.Log, "packages are not compared with %s: %v\n", a, err)
			continue
		}
		if err := b.say(digest, attest.PackageDiffType, d); err != nil {
			return err
		}
	}
	if b.env.VulnDB == "" {
		return nil
	}
	db, err := osv.Load(b.env.VulnDB)
	if err != nil {
		return err
	}
	if len(against) == 0 {
		against = []string{""}
	}
	for _, a := range against {
		d, err := attest.CompareVulnerabilities(images, db, digest, a)
		if err != nil {
			return fmt.Errorf("vulnerabilities: %w", err)
		}
		fmt.Fprintf(j.Log, "vulnerabilities: %d new, %d gone, %d stay, against %q\n", len(d.New), len(d.Gone), len(d.Stays), a)
		if err := b.say(digest, attest.VulnDiffType, d); err != nil {
			return err
		}
	}
	return nil
}
