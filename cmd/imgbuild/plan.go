package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"text/tabwriter"

	"goldsmith/internal/command"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/rootfs"
)

func planCommand() *command.Command {
	var elements, cache string
	var refresh, asJSON bool
	return &command.Command{
		Name:  "plan",
		Args:  "DEFINITION.yaml",
		Short: "tell which steps a build would run, and why",
		Long: `
Lists the steps of a build in order: those whose result is in the cache, and
those that would run, each with the file or variable that changed since the
last build of this image. Nothing is run and nothing is written but the cache's
own book-keeping. Hooks that another hook makes while the image is built are
listed from then on only.`,
		Example: `imgbuild plan ci/demo/image.yaml`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&elements, "elements-path", "", "search elements in these `directories`, colon-separated, first")
			fs.StringVar(&cache, "cache", "", "the cache is in `directory` (default ~/.cache/goldsmith)")
			fs.BoolVar(&refresh, "refresh", false, "as for build --refresh")
			fs.BoolVar(&asJSON, "json", false, "print the steps as JSON, with all that each depends on")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("plan needs one image definition", "imgbuild plan ci/demo/image.yaml")
			}
			if err := rootfs.Isolate(); err != nil {
				return err
			}
			p := command.NewProgress("imgbuild", command.IO{Stdout: io.Stderr, Stderr: io.Stderr}, false)
			defer p.Close()
			def, opts, err := buildOptions(args[0], elements)
			if err != nil {
				return err
			}
			opts.Cache, opts.Refresh, opts.Progress, opts.Lock = cache, refresh, p, lockPath(args[0])
			steps, err := imagebuild.Plan(ctx, def, opts)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(io.Stdout)
				e.SetIndent("", "  ")
				return e.Encode(steps)
			}
			return printPlan(io, steps)
		},
	}
}

func printPlan(io command.IO, steps []imagebuild.PlannedStep) error {
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	run := 0
	for _, s := range steps {
		state := "run"
		if s.Cached {
			state = "cached"
		} else {
			run++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", state, s.Name, s.Element, s.Why)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(io.Stdout, "%d of %d steps would run\n", run, len(steps))
	return err
}
