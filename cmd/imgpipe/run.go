package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/pipeline"
	"goldsmith/pipeline/step"
)

// defaultDir is where runs and images are kept.
const defaultDir = ".goldsmith"

func dirFlag(fs *flag.FlagSet, dir *string) {
	fs.StringVar(dir, "dir", defaultDir, "keep runs, images and evidence in `directory`")
}

func runCommand() *command.Command {
	var dir string
	var asJSON bool
	return &command.Command{
		Name:  "run",
		Args:  "PIPELINE.yaml",
		Short: "run a pipeline",
		Long: `
Runs the stages of a pipeline file in the order that their needs give. Where
one fails, those that need it are skipped. Each attempt at a stage leaves its log, console,
journal and test results (JUnit) below .goldsmith/runs/ID/STAGE/ATTEMPT;
images and what was proved about them are in .goldsmith/oci, an OCI image
layout.`,
		Example: `imgpipe run ci/demo/pipeline.yaml`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			fs.BoolVar(&asJSON, "json", false, "print events and the run's record as JSON, one object a line")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("run needs one pipeline file", "imgpipe run ci/demo/pipeline.yaml")
			}
			progress := command.NewProgress("imgpipe", io, asJSON)
			defer progress.Close()
			r, err := run(ctx, args[0], dir, progress)
			if err != nil {
				progress.Error(err)
			}
			if r != nil && !asJSON {
				report(progress, dir, r)
			}
			if r != nil {
				progress.Result(r)
			}
			return err
		},
	}
}

// run passes through a pipeline. There is a record of it unless nothing was
// begun.
func run(ctx context.Context, file, dir string, progress *command.Progress) (*pipeline.Run, error) {
	p, err := pipeline.Load(file, step.Names())
	if err != nil {
		return nil, err
	}
	if _, err := steps(file, p, nil); err != nil {
		return nil, err // before anything is made
	}
	store, err := step.OpenStore(dir)
	if err != nil {
		return nil, err
	}
	made, err := steps(file, p, store)
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	e := pipeline.Engine{Dir: dir, Steps: made, Progress: progress, Sweep: store.Sweep}
	return e.Run(ctx, p, abs)
}

// steps makes the steps of a pipeline, and so checks their parameters.
func steps(file string, p *pipeline.Pipeline, store *step.Store) (map[string]pipeline.Step, error) {
	bin, err := command.Self()
	if err != nil {
		return nil, err
	}
	elements, err := element.SearchPath("", bin)
	if err != nil {
		return nil, err
	}
	return step.New(step.Env{Store: store, Bin: bin, Elements: elements, File: file}, p)
}

// report says in words what a run did and where everything lies.
func report(p *command.Progress, dir string, r *pipeline.Run) {
	p.Info("")
	p.Info("run %s of pipeline %s %s", r.ID, r.Pipeline, r.Status)
	for _, s := range r.Stages {
		for _, n := range s.Notes {
			p.Info("  %s", n)
		}
		if s.Status == pipeline.Failed && len(s.Attempts) > 0 {
			p.Info("  look at %s", filepath.Join(dir, "runs", r.ID, s.Name, fmt.Sprint(len(s.Attempts))))
		}
	}
	p.Info("  record of the run: %s", filepath.Join(dir, "runs", r.ID, "run.json"))
}
