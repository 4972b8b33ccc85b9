// Package step holds the stages' work: building an image, testing it on a
// machine, promoting it. A pipeline file names a step by "uses":
//
//	build           imgbuild makes the image, which goes into the image layout
//	smoke           a machine starts from the image, configures itself, is tested
//	upgrade         a machine is updated to the image under load, and back
//	broken-upgrade  a machine of the image returns from one that is broken
//	reset           a machine of the image forgets all it keeps
//	reboots         it is restarted, again and again
//	power-cycle     its power is cut, again and again
//	script          a program of the site says what it thinks
//	promote         the image enters a channel if its evidence suffices
//
// The table is explicit ([New]); a step knows its own parameters ("with") and
// nothing of the other steps. What they share lies in the [Store].
package step

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"goldsmith/internal/element"
	database "goldsmith/internal/store"
	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
	"goldsmith/testbed/metal"
)

// Env is what all steps work with.
type Env struct {
	Store    *Store       // may be nil where steps are only checked
	DB       *database.DB // imgpipe's; nil as Store
	Sites    *metal.Sites // which this process serves; nil as Store
	Bin      string       // directory of our programs
	Elements element.Path // where elements, and so their smoke tests, are found
	File     string       // the pipeline file; paths in it are relative to it
	// VulnDB is a file of vulnerabilities (package osv) that builds are compared
	// with; empty: none.
	VulnDB string
}

// path is where a file of the pipeline file is; "" stays that.
func (e Env) path(file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(filepath.Dir(e.File), file)
}

// constructors by the name that "uses" has.
var constructors = map[string]func(Env, *pipeline.Pipeline, string) (pipeline.Step, error){
	"build":          newBuild,
	"smoke":          newSmoke,
	"upgrade":        newUpgrade,
	"broken-upgrade": newBrokenUpgrade,
	"reset":          newReset,
	"script":         newScript,
	"reboots":        newReboots,
	"power-cycle":    newPowerCycle,
	"promote":        newPromote,
}

// Names returns what "uses" may be, sorted.
func Names() []string { return slices.Sorted(maps.Keys(constructors)) }

// New makes the step of every stage, and so checks the parameters of all of
// them before the first one runs. The error has all that is wrong with them
// (yamlfile.Problems); what is wrong with several cells of a matrix, once.
func New(env Env, p *pipeline.Pipeline) (map[string]pipeline.Step, error) {
	steps := map[string]pipeline.Step{}
	type place struct {
		template string
		line     int
	}
	seen := map[place]bool{}
	var errs []error
	for _, s := range p.Stages {
		st, err := constructors[s.Uses](env, p, s.Name)
		if err == nil {
			steps[s.Name] = st
			continue
		}
		at := place{s.Template, 0}
		if of := yamlfile.Of(err); len(of) > 0 {
			at.line = of[0].Line
		}
		if !seen[at] {
			errs = append(errs, err)
		}
		seen[at] = true
	}
	if err := yamlfile.Join(errs...); err != nil {
		return nil, err
	}
	return steps, nil
}

// needImage refuses a job without an image.
func needImage(j *pipeline.Job) error {
	if j.Image == "" {
		return fmt.Errorf("no image to work on: no stage before %s made one", j.Stage)
	}
	return nil
}
