package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
	"goldsmith/testbed/metal"
)

// runFlags are those of run and retry.
type runFlags struct {
	dir    string
	set    inputs
	json   bool
	jobs   int
	have   list
	author string
	key    string // file; signs evidence
	vulns  string // file of vulnerabilities
	detach bool
	far    distant
	// results is a directory for JUnit files; empty: they lie with the run's others.
	results string
}

func (f *runFlags) declare(fs *flag.FlagSet) {
	dirFlag(fs, &f.dir)
	fs.BoolVar(&f.json, "json", false, "print events and the run's record as JSON, one object a line")
	fs.IntVar(&f.jobs, "jobs", max(1, runtime.NumCPU()/2), "work on so many stages at once")
	fs.StringVar(&f.key, "evidence-key", "", "sign evidence with the private key in `file`")
	fs.StringVar(&f.vulns, "vuln-db", "", "compare builds by the known vulnerabilities in `file` (OSV format)")
	fs.Var(&f.have, "capability", "this machine has what stages `NAME` in requires; may be given several times")
	fs.StringVar(&f.results, "results", "", "keep the JUnit files of all attempts in `directory`, as STAGE-ATTEMPT.xml")
	fs.BoolVar(&f.detach, "detach", false, "leave the run to a server or worker")
	f.far.declare(fs)
}

func runCommand() *command.Command {
	var f runFlags
	return &command.Command{
		Name:  "run",
		Args:  "PIPELINE.yaml",
		Short: "run a pipeline",
		Long: `
Runs the stages of a pipeline file in the order that their needs give. Where
one fails, those that need it are skipped. Each attempt at a stage leaves its log, console,
journal and test results (JUnit) below .goldsmith/runs/ID/STAGE/ATTEMPT;
images and what was proved about them are in .goldsmith/oci, an OCI image
layout.

A run that was killed goes on with 'imgpipe retry ID': what has passed is kept.
With --server that server is asked to make it, of the file that it has at the same path; what it does is shown,
and the exit status is the run's, as if it were made here. When imgpipe is interrupted (SIGINT, SIGTERM) the run is
cancelled, here and there. With --detach the run is made, and left to the server or a worker.`,
		Example: `imgpipe run ci/demo/pipeline.yaml
imgpipe run --set commit=$(git rev-parse HEAD) --author "$(git log -1 --format=%ae)" pipeline.yaml`,
		Flags: func(fs *flag.FlagSet) {
			f.declare(fs)
			setFlag(fs, &f.set)
			fs.StringVar(&f.author, "author", "", "who made what is built: `NAME` never counts as one who approves; empty: the user")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("run needs one pipeline file", "imgpipe run ci/demo/pipeline.yaml")
			}
			return begin(ctx, io, &f, args[0])
		},
	}
}

// begin makes a run of a file and sees it through.
func begin(ctx context.Context, io command.IO, f *runFlags, file string) error {
	return shown(io, f, func(progress *command.Progress) (*pipeline.Run, error) {
		if s, err := f.far.open(); err != nil {
			return nil, err
		} else if s != nil {
			return ask(ctx, progress, s, f, "is made", func() (int64, error) { return s.submit(ctx, file, f.set, f.author) })
		}
		p, err := pipeline.LoadWith(file, f.set, step.Names())
		if err != nil {
			return nil, err
		}
		if _, err := makeSteps(step.Env{}, file, p); err != nil {
			return nil, err // before anything is made
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return nil, err
		}
		o, err := openOffice(ctx, f.dir)
		if err != nil {
			return nil, err
		}
		defer o.close()
		sub := engine.Submission{Pipeline: p, File: abs, Author: cmp.Or(f.author, caller()), Actor: caller()}
		if f.detach {
			id, err := o.submit(ctx, sub)
			if err != nil {
				return nil, err
			}
			progress.Info("run %d is made", id)
			return o.engine.Run(ctx, id)
		}
		have, err := o.check(ctx, file, p, f.have)
		if err != nil {
			return nil, err
		}
		sub.Host = workerName()
		w := engine.WorkerInfo{Name: sub.Host, Slots: f.jobs, Version: version, Capabilities: have}
		return o.see(ctx, f, progress, w, func() (int64, error) { return o.submit(ctx, sub) })
	})
}

// shown has a run's record printed after it, whatever came of it.
func shown(io command.IO, f *runFlags, run func(*command.Progress) (*pipeline.Run, error)) error {
	progress := command.NewProgress("imgpipe", io, f.json)
	defer progress.Close()
	r, err := run(progress)
	if err == nil && r != nil && r.Status.Ended() {
		err = verdict(r)
	}
	if err != nil {
		progress.Error(err)
	}
	switch {
	case r == nil || f.json || !r.Status.Ended():
	case f.far.server != "":
		reportFar(progress, f.far.server, r)
	default:
		report(progress, f.dir, r)
	}
	if r != nil {
		progress.Result(r)
	}
	return err
}

// workerName names this process among all that work for a store.
func workerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), strconv.FormatInt(time.Now().UnixMilli(), 36))
}

// makeSteps makes the steps of a pipeline, and so checks their parameters.
func makeSteps(env step.Env, file string, p *pipeline.Pipeline) (map[string]pipeline.Step, error) {
	if err := equip(&env); err != nil {
		return nil, err
	}
	env.File = file
	return step.New(env, p)
}

// equip adds what is the same for all pipelines.
func equip(env *step.Env) (err error) {
	if env.Bin, err = command.Self(); err == nil {
		env.Elements, err = element.SearchPath("", env.Bin)
	}
	return err
}

// check asks the steps whether this machine has what they need, and returns its
// capabilities.
func (o *office) check(ctx context.Context, file string, p *pipeline.Pipeline, said []string) ([]string, error) {
	have, err := able(ctx, p, said)
	if err != nil {
		return nil, err
	}
	steps, err := makeSteps(step.Env{Store: o.store, DB: o.db}, file, p)
	if err != nil {
		return nil, err
	}
	for _, s := range p.Stages {
		if c, ok := steps[s.Name].(pipeline.Checker); ok && s.Skip == "" {
			if err := c.Check(ctx); err != nil {
				return nil, command.Hint(fmt.Errorf("stage %s: %w", s.Name, err), command.HintOf(err))
			}
		}
	}
	return have, nil
}

// known says what is wrong with the files that the flags name.
func (f *runFlags) known() error {
	if f.vulns != "" {
		if _, err := os.Stat(f.vulns); err != nil {
			return command.BadInput(fmt.Errorf("vulnerabilities: %w", err), "--vuln-db names a file in the OSV format")
		}
	}
	return nil
}

// see works on one run in the foreground until it has ended. When ctx ends the
// run is cancelled.
func (o *office) see(ctx context.Context, f *runFlags, progress *command.Progress, info engine.WorkerInfo, begin func() (int64, error)) (*pipeline.Run, error) {
	leave, err := enter(ctx, o.store, f.key)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := f.known(); err != nil {
		return nil, err
	}
	env := step.Env{Store: o.store, DB: o.db, Sites: &metal.Sites{}, VulnDB: f.vulns}
	if err := equip(&env); err != nil {
		return nil, err
	}
	runner := &step.Runner{Env: env, Progress: progress}
	queue, err := engine.StartDispatcher(ctx, o.engine)
	if err != nil {
		return nil, err
	}
	id, err := int64(0), o.engine.Greet(ctx, info)
	if err == nil {
		id, err = begin()
	}
	if err != nil {
		return nil, errors.Join(err, o.engine.Leave(context.WithoutCancel(ctx), info.Name), queue.Close())
	}
	info.Run = id
	w := &engine.Worker{Info: info, Hub: o.engine, Work: runner.Work}
	still, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- w.Run(still, context.WithoutCancel(ctx)) }()
	watching, enough := context.WithCancel(ctx)
	failed := make(chan error, 1)
	go func() {
		err := <-done
		failed <- err
		if err != nil {
			enough() // nobody works any more: what is left is cancelled
		}
	}()
	r, err := follow(watching, o, id, progress, nil)
	stop()
	enough()
	if ctx.Err() == nil && errors.Is(err, context.Canceled) {
		err = nil // it is the worker's error that counts
	}
	err = errors.Join(err, <-failed, queue.Close())
	if r != nil {
		err = errors.Join(err, step.Keep(f.dir, r.ID, r))
		if f.results != "" {
			err = errors.Join(err, saveResults(context.WithoutCancel(ctx), o, r, f.results))
		}
	}
	return r, err
}

// verdict is the error of a run that did not pass.
func verdict(r *pipeline.Run) error {
	if r.Status == pipeline.Passed {
		return nil
	}
	e := &command.Error{Status: command.StatusFailed, Err: fmt.Errorf("run %s: %s", r.ID, r.Reason)}
	for _, s := range r.Stages {
		if s.Status == pipeline.Failed {
			e.Status, e.Hint = cmp.Or(s.Exit, command.StatusFailed), s.Hint
			break
		}
	}
	return e
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
