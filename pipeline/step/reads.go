package step

import (
	"strings"

	"goldsmith/pipeline"
)

// Read is an image that a stage looks at beside the one under test.
type Read struct {
	Channel string // whose image it is; empty: Digest says it
	Digest  string
	Disk    bool // machines run it; otherwise it is compared with
}

// Reads returns the images that a stage looks at beside the one under test.
// What channels hold must be tagged in the store, by their names.
func Reads(p *pipeline.Pipeline, stage string) (out []Read, err error) {
	var with struct{ From, Broken string }
	for _, s := range p.Stages {
		if s.Name != stage {
			continue
		}
		if s.With.Kind != 0 {
			var all map[string]any
			if err := s.With.Decode(&all); err != nil {
				return nil, err
			}
			with.From, _ = all["from"].(string)
			with.Broken, _ = all["broken"].(string)
		}
		if s.Uses == "upgrade" && with.From == "" && len(p.Channels) > 0 {
			with.From = p.Channels[0].Name
		}
		// A build is compared with what it may replace.
		if s.Uses == "build" || s.Uses == "broken-upgrade" && strings.HasSuffix(with.Broken, ".yaml") {
			for _, c := range p.Channels {
				out = append(out, Read{Channel: c.Name})
			}
		}
		if s.Uses != "upgrade" && s.Uses != "broken-upgrade" {
			continue
		}
		for _, name := range []string{with.From, with.Broken} {
			switch {
			case strings.HasPrefix(name, "sha256:"):
				out = append(out, Read{Digest: name, Disk: true})
			case p.Policies().Channel(name) != nil:
				out = append(out, Read{Channel: name, Disk: true})
			}
		}
	}
	return out, nil
}
