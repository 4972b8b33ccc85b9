package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
	"goldsmith/pipeline/step"
)

// checked is what 'imgpipe check --json' prints.
type checked struct {
	File     string            `json:"file"`
	Valid    bool              `json:"valid"`
	Problems yamlfile.Problems `json:"problems"` // by line
	// Declares are the inputs that a run can be given.
	Declares map[string]pipeline.Input `json:"declares,omitempty"`
	// What the file is once its inputs are put in and its matrices multiplied
	// out; missing where it is not valid.
	Name     string            `json:"name,omitempty"`
	Inputs   map[string]string `json:"inputs,omitempty"`
	Group    string            `json:"group,omitempty"`
	Stages   []checkedStage    `json:"stages,omitempty"`
	Channels []string          `json:"channels,omitempty"`
}

// checkedStage is one stage.
type checkedStage struct {
	Name     string                 `json:"name"`
	Template string                 `json:"template"` // its name in the file
	Uses     string                 `json:"uses"`
	Needs    []string               `json:"needs"`
	If       pipeline.Condition     `json:"if"`
	Matrix   map[string]string      `json:"matrix,omitempty"`
	Skip     string                 `json:"skip,omitempty"` // why it is left out
	Timeout  float64                `json:"timeout_s"`
	Retry    map[evidence.Class]int `json:"retry"`
	Requires []string               `json:"requires,omitempty"`
}

func checkCommand() *command.Command {
	var set inputs
	var asJSON, schema bool
	return &command.Command{
		Name:  "check",
		Args:  "PIPELINE.yaml",
		Short: "check a pipeline file without running it",
		Long: `
Reads a pipeline file and every stage's parameters. All that is wrong is said, each by file and line, with
status 2. Inputs without a default need a value (--set). With --schema it prints the JSON schema of pipeline
files, for editors, and reads nothing.`,
		Example: `imgpipe check ci/demo/pipeline.yaml
imgpipe check --json ci/demo/pipeline.yaml | jq -r '.stages[].name'
imgpipe check --schema > pipeline.schema.json`,
		Flags: func(fs *flag.FlagSet) {
			setFlag(fs, &set)
			fs.BoolVar(&asJSON, "json", false, "print what is wrong, or the stages that the file makes, as JSON")
			fs.BoolVar(&schema, "schema", false, "print the JSON schema of pipeline files")
		},
		Run: func(_ context.Context, io command.IO, args []string) error {
			if schema {
				if len(args) != 0 {
					return command.Usage("check --schema takes no file", "")
				}
				_, err := io.Stdout.Write(step.Schema())
				return err
			}
			if len(args) != 1 {
				return command.Usage("check needs one pipeline file", "imgpipe check ci/demo/pipeline.yaml")
			}
			p, err := check(args[0], set)
			if asJSON {
				return printChecked(io.Stdout, args[0], p, err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(io.Stdout, "%s: stages: %d, channels: %d\n", args[0], len(p.Stages), len(p.Channels))
			return err
		},
	}
}

// check reads a pipeline file and its stages' parameters.
func check(file string, set inputs) (*pipeline.Pipeline, error) {
	p, err := pipeline.LoadWith(file, set, step.Names())
	if err != nil {
		return nil, err
	}
	_, err = makeSteps(step.Env{}, file, p)
	return p, err
}

// printChecked prints what was found, and returns the error there was.
func printChecked(w io.Writer, file string, p *pipeline.Pipeline, err error) error {
	c := checked{File: file, Valid: err == nil, Problems: yamlfile.Of(err)}
	if c.Problems == nil {
		c.Problems = yamlfile.Problems{}
	}
	if content, err := yamlfile.Content(file); err == nil {
		c.Declares, _ = pipeline.Declared(file, content)
	}
	if err == nil {
		c.Name, c.Inputs, c.Group = p.Name, p.Inputs, p.Group
		for _, s := range p.Stages {
			c.Stages = append(c.Stages, checkedStage{s.Name, s.Template, s.Uses, s.Needs, s.If, s.Matrix, s.Skip,
				s.Timeout.Seconds(), s.Retry, s.Requires})
		}
		for _, ch := range p.Channels {
			c.Channels = append(c.Channels, ch.Name)
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if werr := enc.Encode(c); werr != nil {
		return werr
	}
	return err
}
