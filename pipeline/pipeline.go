// Package pipeline drives an image from a commit to a promotion: it reads a
// pipeline file, decides what happens next, runs stages and keeps a record of
// the run.
//
// The model: a [Pipeline] is data, stages that need each other and channels
// that demand evidence. A [Run] is the record of one passage through it. What
// happens next is decided by [Plan], a pure function of the two; [Engine.Run]
// asks it, does what it says, records what came of it, and asks again, until
// the run has ended. A stage's work is a [Step], named in the file by "uses";
// the engine is given a table of them and knows neither libvirt nor HTTP.
//
// A stage never converts or edits an image: it names the image by digest, and
// what passed is what is promoted.
package pipeline

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/yamlfile"
)

// APIVersion is the pipeline file's apiVersion.
const APIVersion = "goldsmith/v1"

// Pipeline is a pipeline file (docs/formats.md).
type Pipeline struct {
	APIVersion string `yaml:"apiVersion"`
	Name       string
	Stages     []Stage
	Channels   []Channel

	file *yamlfile.File
}

// Stage is one stage of a pipeline.
type Stage struct {
	Name string
	Uses string // the step that does its work
	// Needs are the stages that must have passed before; nil means the stage
	// written before this one, an empty list none.
	Needs   []string
	With    yaml.Node // the step's own parameters
	Timeout string    // such as "10m"; empty means DefaultTimeout
}

// Channel is a tag that images are promoted to, and the evidence it demands.
type Channel struct {
	Name     string
	Requires []string // kinds of evidence, such as libvirt-smoke
}

// DefaultTimeout ends a stage that names no timeout.
const DefaultTimeout = 30 * time.Minute

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Load reads and checks a pipeline file. steps are the names that "uses" may
// have. Errors name the file and the line.
func Load(file string, steps []string) (*Pipeline, error) {
	p := &Pipeline{}
	f, err := yamlfile.Read(file, p)
	if err != nil {
		return nil, err
	}
	p.file = f
	return p, p.check(steps)
}

func (p *Pipeline) check(steps []string) error {
	f := p.file
	if p.APIVersion != APIVersion {
		return f.Errorf([]any{"apiVersion"}, "apiVersion %q: this program reads %q", p.APIVersion, APIVersion)
	}
	if !nameRE.MatchString(p.Name) {
		return f.Errorf([]any{"name"}, "name %q: lower case letters, digits and '-' only", p.Name)
	}
	if len(p.Stages) == 0 {
		return f.Errorf([]any{"stages"}, "no stages")
	}
	seen := map[string]bool{}
	for i, s := range p.Stages {
		at := func(key string) []any { return []any{"stages", i, key} }
		switch {
		case !nameRE.MatchString(s.Name):
			return f.Errorf(at("name"), "stage name %q: lower case letters, digits and '-' only", s.Name)
		case seen[s.Name]:
			return f.Errorf(at("name"), "stage %s: there are two", s.Name)
		case !slices.Contains(steps, s.Uses):
			return f.Errorf(at("uses"), "stage %s: uses %q: expected one of %s", s.Name, s.Uses, strings.Join(steps, ", "))
		}
		seen[s.Name] = true
		if _, err := s.timeout(); err != nil {
			return f.Errorf(at("timeout"), "stage %s: %v", s.Name, err)
		}
	}
	if err := p.checkNeeds(); err != nil {
		return err
	}
	return p.checkChannels()
}

func (p *Pipeline) checkNeeds() error {
	for i, s := range p.Stages {
		for j, n := range s.Needs {
			if p.stage(n) == nil {
				return p.file.Errorf([]any{"stages", i, "needs", j}, "stage %s needs %s, which is not in the file", s.Name, n)
			}
		}
	}
	// Depth-first search: a stage that is met while it is still open is part
	// of a circle.
	const open, done = 1, 2
	state := map[string]int{}
	var visit func(i int) error
	visit = func(i int) error {
		s := p.Stages[i]
		switch state[s.Name] {
		case open:
			return p.file.Errorf([]any{"stages", i}, "stage %s needs itself, directly or through others", s.Name)
		case done:
			return nil
		}
		state[s.Name] = open
		for _, n := range p.needs(i) {
			if err := visit(p.position(n)); err != nil {
				return err
			}
		}
		state[s.Name] = done
		return nil
	}
	for i := range p.Stages {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pipeline) checkChannels() error {
	seen := map[string]bool{}
	for i, c := range p.Channels {
		if !nameRE.MatchString(c.Name) || seen[c.Name] {
			return p.file.Errorf([]any{"channels", i, "name"}, "channel name %q: lower case letters, digits and '-', and only once", c.Name)
		}
		seen[c.Name] = true
		for j, r := range c.Requires {
			if !nameRE.MatchString(r) {
				return p.file.Errorf([]any{"channels", i, "requires", j}, "channel %s: %q is not a kind of evidence", c.Name, r)
			}
		}
	}
	return nil
}

// DecodeWith reads a stage's own parameters into the structure v points to;
// unknown ones are errors that name the file and the line.
func (p *Pipeline) DecodeWith(stage string, v any) error {
	s := p.stage(stage)
	if s.With.Kind == 0 {
		return nil
	}
	return p.file.Decode(&s.With, v)
}

// Errorf reports a wrong parameter of a stage, by file and line.
func (p *Pipeline) Errorf(stage, key, format string, args ...any) error {
	return p.file.Errorf([]any{"stages", p.position(stage), "with", key}, "stage %s: %s", stage, fmt.Sprintf(format, args...))
}

// Channel returns the channel called name, or nil.
func (p *Pipeline) Channel(name string) *Channel {
	for i := range p.Channels {
		if p.Channels[i].Name == name {
			return &p.Channels[i]
		}
	}
	return nil
}

func (p *Pipeline) position(name string) int {
	return slices.IndexFunc(p.Stages, func(s Stage) bool { return s.Name == name })
}

func (p *Pipeline) stage(name string) *Stage {
	if i := p.position(name); i >= 0 {
		return &p.Stages[i]
	}
	return nil
}

// needs returns what the stage at position i needs.
func (p *Pipeline) needs(i int) []string {
	switch s := p.Stages[i]; {
	case s.Needs != nil:
		return s.Needs
	case i > 0:
		return []string{p.Stages[i-1].Name}
	}
	return nil
}

// before returns every stage that the stage at position i needs, directly or
// through others, in the file's order.
func (p *Pipeline) before(i int) []string {
	set := map[string]bool{}
	var visit func(i int)
	visit = func(i int) {
		for _, n := range p.needs(i) {
			if !set[n] {
				set[n] = true
				visit(p.position(n))
			}
		}
	}
	visit(i)
	return slices.SortedFunc(maps.Keys(set), func(a, b string) int { return p.position(a) - p.position(b) })
}

func (s *Stage) timeout() (time.Duration, error) {
	if s.Timeout == "" {
		return DefaultTimeout, nil
	}
	d, err := time.ParseDuration(s.Timeout)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("timeout %q: expected a duration such as 90s or 10m", s.Timeout)
	}
	return d, nil
}
