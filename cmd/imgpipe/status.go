package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/step"
)

// status is what 'imgpipe status --json' prints.
type status struct {
	Runs     []*pipeline.Run   `json:"runs"`     // oldest first
	Channels map[string]string `json:"channels"` // tag → digest
}

func statusCommand() *command.Command {
	var dir string
	var asJSON bool
	return &command.Command{
		Name:    "status",
		Short:   "show runs and what the channels hold",
		Long:    `Shows every run, newest last, with its stages, and which image each channel's tag stands for.`,
		Example: `imgpipe status --json | jq '.channels.candidate'`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			fs.BoolVar(&asJSON, "json", false, "print the records as JSON")
		},
		Run: func(_ context.Context, io command.IO, args []string) error {
			if len(args) != 0 {
				return command.Usage("status takes no arguments", "")
			}
			runs, err := pipeline.Runs(dir)
			if err != nil {
				return err
			}
			if !pipeline.Going(dir) {
				markKilled(runs)
			}
			tags := map[string]string{}
			if len(runs) > 0 {
				store, err := step.OpenStore(dir)
				if err != nil {
					return err
				}
				if tags, err = store.Images.Tags(); err != nil {
					return err
				}
			}
			if asJSON {
				enc := json.NewEncoder(io.Stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(status{runs, tags})
			}
			return printStatus(io, runs, tags)
		},
	}
}

// firstLine keeps the table a table; the record has the rest.
func firstLine(s string) string {
	l, _, more := strings.Cut(s, "\n")
	if more {
		l += " …"
	}
	return l
}

// markKilled shows runs that nobody works on any more as what they are; the
// next run writes it into their records.
func markKilled(runs []*pipeline.Run) {
	for _, r := range runs {
		if !r.Status.Ended() {
			r.Status, r.Reason = pipeline.Interrupted, "its process was killed"
		}
	}
}

func printStatus(io command.IO, runs []*pipeline.Run, tags map[string]string) error {
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	if len(runs) == 0 {
		fmt.Fprintln(w, "no run yet")
	}
	for _, r := range runs {
		fmt.Fprintf(w, "run %s\t%s\t%s\t%s\n", r.ID, r.Pipeline, r.Status, r.Started.Format(time.RFC3339))
		for _, s := range r.Stages {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", s.Name, s.Status, s.Image, firstLine(s.Reason))
			if s.Hint != "" {
				fmt.Fprintf(w, "\t\t\thint: %s\n", s.Hint)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		fmt.Fprintf(w, "channel %s\t\t%s\n", name, tags[name])
	}
	return w.Flush()
}
