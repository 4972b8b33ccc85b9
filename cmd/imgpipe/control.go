package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	stdio "io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("cancel needs one run", "imgpipe cancel 12")
			}
			id, err := engine.Number(args[0])
			if err != nil {
				return err
			}
			if s, err := far.open(); err != nil {
				return err
			} else if s != nil {
				return s.cancel(ctx, id, why)
			}
			o, err := openOffice(ctx, dir)
			if err != nil {
				return err
			}
			defer o.close()
			return o.engine.Cancel(ctx, id, caller(), why)
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
the one that is named. The pipeline file is taken as it was when the run was made. With --server the run is left
to that.`,
		Example: `imgpipe retry 12
imgpipe retry 12 smoke`,
		Flags: func(fs *flag.FlagSet) {
			f.declare(fs)
			f.far.declare(fs)
			fs.BoolVar(&f.detach, "detach", false, "leave the run to a server or worker")
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
			if s, err := f.far.open(); err != nil {
				return err
			} else if s != nil {
				return s.retry(ctx, id, stage)
			}
			return again(ctx, io, &f, id, stage)
		},
	}
}

// again goes on with a run.
func again(ctx context.Context, io command.IO, f *runFlags, id int64, stage string) error {
	return shown(io, f, func(progress *command.Progress) (*pipeline.Run, error) {
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
		begin := func() (int64, error) {
			if r.Status.Ended() {
				return id, o.engine.Retry(ctx, id, stage, caller(), host)
			}
			return id, o.engine.Adopt(ctx, id, caller(), host)
		}
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

func logsCommand() *command.Command {
	var dir string
	var far distant
	var follow bool
	var attempt int
	return &command.Command{
		Name:  "logs",
		Args:  "RUN [STAGE]",
		Short: "print what stages wrote",
		Long: `
Prints the log of a run's stage: of its newest attempt, or of the one given. Without a stage, of all that began,
each under a line with its name. The other files of an attempt lie beside its log.`,
		Example: `imgpipe logs 12 smoke
imgpipe logs -f 12 build`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			far.declare(fs)
			fs.BoolVar(&follow, "f", false, "go on until the attempt has ended")
			fs.IntVar(&attempt, "attempt", 0, "print attempt `N`; 0: the newest")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) == 0 || len(args) > 2 || follow && len(args) != 2 {
				return command.Usage("logs needs a run, and may have a stage; -f needs both", "imgpipe logs -f 12 build")
			}
			id, err := engine.Number(args[0])
			if err != nil {
				return err
			}
			s, err := far.open()
			switch {
			case err != nil:
				return err
			case s != nil && len(args) == 2:
				return s.log(ctx, io.Stdout, id, args[1], attempt, follow)
			case s != nil:
				return s.logs(ctx, io.Stdout, id)
			}
			o, err := openOffice(ctx, dir)
			if err != nil {
				return err
			}
			defer o.close()
			if len(args) == 2 {
				return o.log(ctx, io.Stdout, dir, id, args[1], attempt, follow)
			}
			return o.logs(ctx, io.Stdout, dir, id)
		},
	}
}

// logs prints the newest log of each stage that has one.
func (o *office) logs(ctx context.Context, w stdio.Writer, dir string, id int64) error {
	r, err := o.engine.Run(ctx, id)
	if err != nil {
		return err
	}
	for _, s := range r.Stages {
		if len(s.Attempts) == 0 {
			continue
		}
		fmt.Fprintf(w, "==> %s <==\n", s.Name)
		if err := o.log(ctx, w, dir, id, s.Name, 0, false); err != nil {
			return err
		}
	}
	return nil
}

// log prints the log of one attempt, and what is added to it while it goes on
// when follow is set.
func (o *office) log(ctx context.Context, w stdio.Writer, dir string, id int64, stage string, attempt int, follow bool) error {
	var f *os.File
	defer func() { _ = f.Close() }() // nil is an error that does not matter
	for {
		changed := o.db.Changed()
		s, err := o.stage(ctx, id, stage)
		if err != nil {
			return err
		}
		n := len(s.Attempts)
		if attempt > 0 {
			n = attempt
		}
		if f == nil && n > 0 {
			f, err = os.Open(filepath.Join(engine.AttemptDir(dir, id, stage, n), "log"))
			if err != nil && !(follow && errors.Is(err, os.ErrNotExist)) {
				return err
			}
		}
		if f != nil {
			if err := plainly(w, f); err != nil {
				return err
			}
		}
		ended := s.Status.Ended() || n > 0 && n <= len(s.Attempts) && s.Attempts[n-1].Ended != nil
		switch {
		case ended && n == 0, !follow && n == 0:
			return command.Usage(fmt.Sprintf("run %d: stage %s has not begun", id, stage), "'imgpipe status' shows why")
		case ended, !follow:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// plainly copies what there is to be read, without what acts on a terminal.
func plainly(w stdio.Writer, r stdio.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := stdio.ReadAtLeast(r, buf, 1)
		if n > 0 {
			if _, err := stdio.WriteString(w, command.Plain(strings.ToValidUTF8(string(buf[:n]), "?"))); err != nil {
				return err
			}
		}
		if errors.Is(err, stdio.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (o *office) stage(ctx context.Context, id int64, name string) (*pipeline.StageRun, error) {
	r, err := o.engine.Run(ctx, id)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(r.Stages, func(s *pipeline.StageRun) bool { return s.Name == name })
	if i < 0 {
		var names []string
		for _, s := range r.Stages {
			names = append(names, s.Name)
		}
		return nil, command.BadInput(fmt.Errorf("run %d has no stage %q", id, name), "its stages are: "+strings.Join(names, ", "))
	}
	return r.Stages[i], nil
}
