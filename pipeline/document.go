package pipeline

import "gopkg.in/yaml.v3"

// document is a pipeline file as it is written, before its inputs and
// matrices are put in.
type document struct {
	APIVersion  string `yaml:"apiVersion"`
	Name        string
	Inputs      map[string]Input
	Concurrency concurrency
	Timeout     string // of a run
	Matrix      *matrix
	Defaults    options
	Stages      []stageDocument
	Groups      map[string][]string
	Channels    []Channel
}

// concurrency says which runs have to do with each other.
type concurrency struct {
	Group     string
	Supersede bool
}

// stageDocument is a stage as it is written: a template of stages where it has
// a matrix.
type stageDocument struct {
	Name    string
	Uses    string
	Needs   []string // nil means the stage before it
	If      string
	With    yaml.Node
	Matrix  *matrix
	options `yaml:",inline"`
}

// options are the fields of a stage that "defaults" may have.
type options struct {
	Timeout   string
	Retry     map[string]string // attempts more by class of failure; "delay"
	Requires  []string
	Artifacts []artifact
	When      map[string][]string
}

// artifact says how long files of an attempt are kept.
type artifact struct {
	Files []string
	Keep  keep
}

type keep struct {
	Passed, Failed string // empty means forever
}

// matrix says over what a stage is multiplied.
type matrix struct {
	Axes    yaml.Node // mapping of lists; its order counts
	Exclude []map[string]string
	Include []map[string]string
}
