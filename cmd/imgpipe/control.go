package main

import (
	"context"
	"errors"
	"flag"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

// Set implements flag.Value.
func (l *list) Set(s string) error {
	if s == "" {
		return errors.New("expected a name")
	}
	*l = append(*l, s)
	return nil
}

func cancelCommand() *command.Command {
	var dir, why string
	var far distant
	var asJSON bool
	return &command.Command{
		Name:    "cancel",
		Args:    "RUN",
		Short:   "end a run",
		Long:    `What is running is told to end and releases what it holds; nothing more is begun. It arrives within a second.`,
		Example: `imgpipe cancel 12 --why "wrong branch"`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			far.declare(fs)
			fs.StringVar(&why, "why", "", "say why: `TEXT` is in the record")
			fs.BoolVar(&asJSON, "json", false, "print the run's record as JSON: it may not have ended yet")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("cancel needs one run", "imgpipe cancel 12")
			}
			id, err := engine.Number(args[0])
			if err != nil {
				return err
			}
			p, done, err := far.at(ctx, dir, 0)
			if err != nil {
				return err
			}
			defer done()
			if err := p.cancel(ctx, id, why); err != nil || !asJSON {
				return err
			}
			r, err := p.run(ctx, id)
			if err != nil {
				return err
			}
			return printJSON(io, r)
		},
	}
}

func retryCommand() *command.Command {
	var f runFlags
	return &command.Command{
		Name:  "retry",
		Args:  "RUN [STAGE]",
		Short: "go on with a run that failed or was killed",
		Long: `
What has passed is kept. Stages that failed are tried again, and those that were skipped for them: all, or
the one that is named. The pipeline file is taken as it was when the run was made. With --server that goes on with
it, and what it does is shown; with --detach it is left to the server or a worker.`,
		Example: `imgpipe retry 12
imgpipe retry 12 smoke`,
		Flags: func(fs *flag.FlagSet) {
			f.declare(fs)
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return command.Usage("retry needs a run, and may have a stage", "imgpipe retry 12 smoke")
			}
			id, err := engine.Number(args[0])
			if err != nil {
				return err
			}
			stage := ""
			if len(args) == 2 {
				stage = args[1]
			}
			return again(ctx, io, &f, id, stage)
		},
	}
}

// again goes on with a run.
func again(ctx context.Context, io command.IO, f *runFlags, id int64, stage string) error {
	return shown(io, f, func(progress *command.Progress) (*pipeline.Run, error) {
		if s, err := f.far.open(); err != nil {
			return nil, err
		} else if s != nil {
			return ask(ctx, progress, s, f, "goes on", func() (int64, error) { return id, s.retry(ctx, id, stage) })
		}
		o, err := openOffice(ctx, f.dir)
		if err != nil {
			return nil, err
		}
		defer o.close()
		r, err := o.engine.Run(ctx, id)
		if err != nil {
			return nil, err
		}
		host := workerName()
		if f.detach {
			host = ""
		}
		begin := func() (int64, error) { return id, o.again(ctx, r, id, stage, host) }
		if f.detach {
			if _, err := begin(); err != nil {
				return nil, err
			}
			progress.Info("run %d goes on", id)
			return o.engine.Run(ctx, id)
		}
		source, err := o.engine.Source(ctx, id)
		if err != nil {
			return nil, err
		}
		p, err := pipeline.Parse(r.File, source, r.Inputs, step.Names())
		if err != nil {
			return nil, err
		}
		have, err := o.check(ctx, r.File, p, f.have)
		if err != nil {
			return nil, err
		}
		return o.see(ctx, f, progress, engine.WorkerInfo{Name: host, Slots: f.jobs, Version: version, Capabilities: have}, begin)
	})
}
