// Package pipeline is what a pipeline is: a file that names stages and channels,
// the record of a run through it, and what a stage's work is to the engine.
//
// A [Pipeline] is data, stages that need each other and channels that demand
// evidence. It is read from a file and the values of its inputs ([Parse]); after
// that nothing is open: matrices are multiplied out, references replaced, and
// stages that a condition leaves out say so. A [Run] is the record of one
// passage through it, which pipeline/engine makes. A stage's work is a [Step],
// named in the file by "uses".
//
// A stage never converts or edits an image: it names the image by digest, and
// what passed is what is promoted.
package pipeline

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/evidence"
	"goldsmith/internal/yamlfile"
)

// APIVersion is the pipeline file's apiVersion.
const APIVersion = "goldsmith/v1"

// Pipeline is a pipeline file (docs/formats.md) with its inputs put in.
type Pipeline struct {
	APIVersion string
	Name       string
	// Inputs are the values of all inputs that the file declares.
	Inputs map[string]string
	// Group is what runs have in common of which a newer one supersedes the
	// older, when Supersede is set; empty means that no run does.
	Group     string
	Supersede bool
	Timeout   time.Duration       // of a run; 0 means no limit but those of its stages
	Stages    []Stage             // in the file's order, matrices multiplied out
	Groups    map[string][]string // of people, that channels name
	Channels  []Channel

	file    *yamlfile.File
	content []byte
}

// Stage is one stage of a pipeline: of a matrix, one cell.
type Stage struct {
	Name string
	// Template is the name in the file; it is Name without a matrix.
	Template string
	Uses     string // the step that does its work
	// Needs are stages by name. A pipeline that was read from a file has here
	// what counts: a stage that is left out is replaced by what it needs. In
	// others nil means the stage before this one, an empty list none.
	Needs []string
	If    Condition // empty means IfPassed
	// Skip says why the stage is left out of the run, whatever comes; empty: it
	// is not. Who needs it needs what it needs in its place.
	Skip       string
	Matrix     map[string]string // the cell, axis by axis
	With       yaml.Node         // the step's own parameters
	Timeout    time.Duration     // of an attempt; 0 means DefaultTimeout
	Retry      map[evidence.Class]int
	RetryDelay time.Duration // before a further attempt
	Requires   []string      // what a worker must have: "kvm", "arch=amd64"
	Artifacts  []Artifact    // the first that fits a file counts

	at int // its place in the file
}

// Condition says of which ends of its needs a stage is run. They are asked when
// all of them have ended. Of a need that a condition left out nothing is asked.
type Condition string

// The conditions.
const (
	IfPassed Condition = "passed" // all have passed
	IfFailed Condition = "failed" // one has not
	IfAlways Condition = "always"
)

// DefaultTimeout ends an attempt at a stage that names no timeout.
const DefaultTimeout = 30 * time.Minute

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

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
	s := p.stage(stage)
	return p.file.Errorf([]any{"stages", s.at, "with", key}, "stage %s: %s", stage, fmt.Sprintf(format, args...))
}

// Content is the file that the pipeline was read from, byte for byte: with
// Inputs it gives the same pipeline elsewhere.
func (p *Pipeline) Content() []byte { return p.content }

func (p *Pipeline) position(name string) int {
	return slices.IndexFunc(p.Stages, func(s Stage) bool { return s.Name == name })
}

func (p *Pipeline) stage(name string) *Stage {
	if i := p.position(name); i >= 0 {
		return &p.Stages[i]
	}
	return nil
}
