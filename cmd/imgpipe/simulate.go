package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	stdio "io"
	"text/tabwriter"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
	"goldsmith/testbed/inventory"
)

// simulateFlags are those of simulate.
type simulateFlags struct {
	dir    string
	set    inputs
	run    string
	faults list
	have   list
	jobs   int
	cap    int
	slow   bool
	json   bool
}

func simulateCommand() *command.Command {
	var f simulateFlags
	return &command.Command{
		Name:  "simulate",
		Args:  "[PIPELINE.yaml]",
		Short: "show what a run would do, and nothing more",
		Long: `
Runs the planner forward: over a pipeline file from its beginning, over a run that goes on (--run), or over that
run with a changed file. Stages take as long as they did lately (the database knows), or five minutes. --fault
supposes that something goes wrong at a stage: ` + faultsInWords() + `; KIND@STAGE:2 on
the first two attempts only. Nothing is begun. It ends with status 1 when the run would not pass.`,
		Example: `imgpipe simulate pipeline.yaml --fault node-dies@metal-smoke:1
imgpipe simulate --run 12 changed.yaml --jobs 4`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &f.dir)
			setFlag(fs, &f.set)
			fs.StringVar(&f.run, "run", "", "begin with how run `N` stands")
			fs.Var(&f.faults, "fault", "suppose that `KIND@STAGE[:TIMES]` happens; may be given several times")
			fs.Var(&f.have, "capability", "the worker has `NAME`; may be given several times; unless given, all that stages require")
			fs.IntVar(&f.jobs, "jobs", 1, "workers do so many stages at once")
			fs.IntVar(&f.cap, "cap", inventory.DefaultCap, "so many tasks may run at once")
			fs.BoolVar(&f.slow, "slow", false, "take the 90th percentile of past durations in place of the median")
			fs.BoolVar(&f.json, "json", false, "print the prediction as JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) > 1 || len(args) == 0 && f.run == "" {
				return command.Usage("simulate needs a pipeline file, or --run", "imgpipe simulate pipeline.yaml")
			}
			p, err := simulate(ctx, &f, args)
			if err != nil {
				return err
			}
			if f.json {
				err = encode(io.Stdout, p)
			} else {
				err = printPrediction(io.Stdout, p)
			}
			if err == nil && p.State != pipeline.Passed {
				reason := p.Reason
				if reason == "" {
					reason = "it would never end"
				}
				err = &command.Error{Status: command.StatusFailed, Err: errors.New("the run would not pass: " + reason)}
			}
			return err
		},
	}
}

func faultsInWords() string {
	text := ""
	for i, k := range engine.FaultKinds() {
		if i > 0 {
			text += ", "
		}
		text += k
	}
	return text
}

// simulate makes the prediction that the flags ask for.
func simulate(ctx context.Context, f *simulateFlags, args []string) (*engine.Prediction, error) {
	sc := engine.Scenario{Slots: f.jobs, Slow: f.slow}
	for _, text := range f.faults {
		fault, err := engine.ParseFault(text)
		if err != nil {
			return nil, err
		}
		sc.Faults = append(sc.Faults, fault)
	}
	o, err := knownOffice(ctx, f.dir)
	if err != nil {
		return nil, err
	}
	if o != nil {
		defer o.close()
	}
	var policy engine.Policy
	if len(args) == 1 {
		p, err := pipeline.LoadWith(args[0], f.set, step.Names())
		if err != nil {
			return nil, err
		}
		if _, err := makeSteps(step.Env{}, args[0], p); err != nil {
			return nil, err
		}
		policy = engine.PolicyOf(p)
	}
	var s engine.Snapshot
	if f.run != "" {
		s, policy, err = o.standing(ctx, f.run, len(args) == 1, policy)
		if err != nil {
			return nil, err
		}
	} else {
		s = engine.Fresh(policy, time.Now().UTC(), f.cap)
	}
	if o != nil {
		if sc.Past, err = o.engine.Past(ctx, policy.Pipeline); err != nil {
			return nil, err
		}
	}
	for _, fault := range sc.Faults {
		if !policy.Has(fault.Stage) {
			return nil, command.Usage(fmt.Sprintf("fault %s@%s: there is no such stage", fault.Kind, fault.Stage), "")
		}
	}
	s.Cap, s.Run.Host = f.cap, ""
	s.Workers = []engine.WorkerNow{{Name: "simulated", Capabilities: f.have}}
	if f.have == nil {
		for _, st := range policy.Stages {
			s.Workers[0].Capabilities = append(s.Workers[0].Capabilities, st.Requires...)
		}
	}
	p := engine.Simulate(s, policy, sc)
	return &p, nil
}

// standing is how a run stands, under its own policy or another with stages of
// the same names.
func (o *office) standing(ctx context.Context, run string, changed bool, policy engine.Policy) (engine.Snapshot, engine.Policy, error) {
	if o == nil {
		return engine.Snapshot{}, policy, command.Usage("there is no run here", "--dir names another directory")
	}
	id, err := engine.Number(run)
	if err != nil {
		return engine.Snapshot{}, policy, err
	}
	s, own, err := o.engine.Snapshot(ctx, id)
	if err != nil || !changed {
		return s, own, err
	}
	return engine.Carry(s, own, policy), policy, nil
}

func printPrediction(out stdio.Writer, p *engine.Prediction) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, m := range p.Moments {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.After.Round(time.Second), m.What, m.Stage, firstLine(m.Reason))
	}
	for _, n := range p.Never {
		fmt.Fprintf(w, "never\t\t%s\t%s\n", n.Stage, n.Reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, g := range p.Guessed {
		fmt.Fprintf(out, "guessed: %s was never seen, so it is supposed to take %s\n", g, engine.Usual)
	}
	if p.State == pipeline.Running {
		fmt.Fprintf(out, "the run would never end\n")
		return nil
	}
	_, err := fmt.Fprintf(out, "the run would be %s after %s: %s\n", p.State, p.Took.Round(time.Second), p.Reason)
	return err
}
