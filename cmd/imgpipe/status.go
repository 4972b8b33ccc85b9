package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	stdio "io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
)

// status is what 'imgpipe status --json' prints.
type status struct {
	Runs     []*pipeline.Run     `json:"runs"`     // oldest first
	Channels map[string]string   `json:"channels"` // tag → digest
	Workers  []engine.WorkerInfo `json:"workers"`  // heard of lately
}

func statusCommand() *command.Command {
	var dir string
	var far distant
	var asJSON, follow bool
	var n int
	return &command.Command{
		Name:  "status",
		Args:  "[RUN]",
		Short: "show runs and what the channels hold",
		Long: `
Shows the newest runs, newest last, with their stages, and which image each channel's tag stands for; or one run,
with every attempt. A stage that waits says what for. -f shows one run as a tree until it has ended: stages below
those that they need.`,
		Example: `imgpipe status
imgpipe status -f 12
imgpipe status --json | jq '.channels.candidate'`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			far.declare(fs)
			fs.BoolVar(&asJSON, "json", false, "print the records as JSON")
			fs.IntVar(&n, "n", 20, "show at most `N` runs")
			fs.BoolVar(&follow, "f", false, "show one run as a tree until it has ended")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) > 1 || n < 1 || follow && (len(args) != 1 || asJSON) {
				return command.Usage("status takes at most one run; -f needs one, and is not for --json", "imgpipe status -f 12")
			}
			if follow {
				id, err := engine.Number(args[0])
				if err != nil {
					return err
				}
				p, done, err := far.at(ctx, dir, awayFor)
				if err != nil {
					return err
				}
				defer done()
				return watch(ctx, io, p, id)
			}
			s := status{Runs: []*pipeline.Run{}, Channels: map[string]string{}}
			if err := fill(ctx, &s, &far, dir, args, n); err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(io.Stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return printStatus(io, s, len(args) == 1)
		},
	}
}

// fill asks a server, or looks into a directory, where there may be nothing.
func fill(ctx context.Context, s *status, far *distant, dir string, args []string, n int) error {
	server, err := far.open()
	if err != nil {
		return err
	}
	if server != nil {
		return server.status(ctx, s, args, n)
	}
	o, err := knownOffice(ctx, dir)
	if err != nil || o == nil {
		return err
	}
	defer o.close()
	return o.status(ctx, s, args, n)
}

// status reads the newest runs, or the one that args names.
func (o *office) status(ctx context.Context, s *status, args []string, n int) (err error) {
	if len(args) == 1 {
		id, err := engine.Number(args[0])
		if err != nil {
			return err
		}
		r, err := o.engine.Run(ctx, id)
		if err != nil {
			return err
		}
		s.Runs = append(s.Runs, r)
	} else if s.Runs, err = o.engine.Runs(ctx, n); err != nil {
		return err
	}
	if s.Channels, err = o.store.Images.Tags(); err != nil {
		return err
	}
	workers, err := o.engine.Workers(ctx)
	if err != nil {
		return err
	}
	s.Workers = workers
	for _, r := range s.Runs {
		if !r.Status.Ended() && r.Host != "" && !slices.ContainsFunc(workers, func(w engine.WorkerInfo) bool { return w.Name == r.Host }) {
			r.Reason = "nobody works on it: 'imgpipe retry " + r.ID + "' goes on"
		}
	}
	return nil
}

// firstLine keeps the table a table; the record has the rest.
func firstLine(s string) string {
	l, _, more := strings.Cut(s, "\n")
	if more {
		l += " …"
	}
	return l
}

func printStatus(io command.IO, s status, all bool) error {
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	if len(s.Runs) == 0 {
		fmt.Fprintln(w, "no run yet")
	}
	for _, r := range s.Runs {
		fmt.Fprintf(w, "run %s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.Pipeline, r.Status, r.Started.Format(time.RFC3339), took(r.Started, r.Ended), firstLine(r.Reason))
		for _, st := range r.Stages {
			printStage(w, st, all)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Channels)) {
		fmt.Fprintf(w, "channel %s\t\t%s\n", name, s.Channels[name])
	}
	for _, k := range s.Workers {
		if k.Draining {
			fmt.Fprintf(w, "worker %s\t\tdraining: it ends, and takes nothing more\n", k.Name)
		}
	}
	return w.Flush()
}

func printStage(w stdio.Writer, s *pipeline.StageRun, all bool) {
	var last pipeline.Attempt
	if n := len(s.Attempts); n > 0 {
		last = s.Attempts[n-1]
	}
	reason := firstLine(s.Reason)
	if s.Status == pipeline.Running {
		reason = strings.TrimSpace(strings.Join([]string{last.Progress, s.Node}, " "))
	}
	fmt.Fprintf(w, "  %s\t%s\t%s\t\t%s\t%s\n", s.Name, s.Status, s.Image, took(last.Started, last.Ended), reason)
	if s.Hint != "" && s.Status == pipeline.Failed {
		fmt.Fprintf(w, "\t\t\thint: %s\n", s.Hint)
	}
	if !all {
		return
	}
	for _, a := range s.Attempts {
		fmt.Fprintf(w, "    %d\t%s\t%s\t%s\t%s\t%s\n", a.Number, a.Status, a.Worker, a.Started.Format(time.RFC3339), took(a.Started, a.Ended),
			strings.TrimSpace(a.Class+" "+firstLine(a.Reason)))
	}
}

// took is how long something went on, or has until now.
func took(from time.Time, to *time.Time) string {
	switch {
	case from.IsZero():
		return ""
	case to == nil:
		return time.Since(from).Round(time.Second).String() + " …"
	}
	return to.Sub(from).Round(time.Second).String()
}
