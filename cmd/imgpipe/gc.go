package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	"goldsmith/internal/registry"
	"goldsmith/pipeline"
	"goldsmith/pipeline/step"
)

// garbage is what 'imgpipe gc --json' prints.
type garbage struct {
	*registry.Garbage
	Disks     int   `json:"disks"` // unpacked ones
	DiskBytes int64 `json:"disk_bytes"`
	// Artifacts are files of runs whose time was over.
	Artifacts step.Swept `json:"artifacts"`
	DryRun    bool       `json:"dry_run,omitempty"`
}

func gcCommand() *command.Command {
	var dir, older string
	var keep int
	var dry, asJSON bool
	return &command.Command{
		Name:  "gc",
		Short: "remove images that nobody needs",
		Long: `
Removes images with all that is attached to them, and what killed processes
left. What a tag names stays, what a channel could be rolled back to, what a
node has, what a running run works on, what is held, and what is younger than
an hour. While an image is being stored nothing is removed (status 4). Files of
runs go when their time is over, which the pipeline file says (artifacts).`,
		Example: `imgpipe gc --dry-run
imgpipe gc --keep 3 --older 30d`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			fs.IntVar(&keep, "keep", 5, "keep so many of the newest images that nobody needs")
			fs.StringVar(&older, "older", "1h", "remove only what is older than a `time`, such as 30d")
			fs.BoolVar(&dry, "dry-run", false, "say what would be removed, and remove nothing")
			fs.BoolVar(&asJSON, "json", false, "print JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			age, err := pipeline.ParseSpan(older)
			if len(args) > 0 || keep < 0 || err != nil || age < promotion.MinimumAge {
				return command.Usage("gc takes no arguments; --keep is 0 or more, --older 1h or more", "imgpipe gc --keep 3 --older 30d")
			}
			b := &book{}
			if err := b.open(ctx, dir); err != nil {
				return err
			}
			defer b.close()
			k := promotion.Keep{Newest: keep, Older: age}
			g := garbage{DryRun: dry}
			if g.Garbage, err = b.Collect(ctx, k, dry); err != nil {
				return err
			}
			g.Disks, g.DiskBytes, err = b.store.SweepDisks(g.Images, age, time.Now(), dry)
			if err != nil {
				return err
			}
			if g.Artifacts, err = b.store.SweepArtifacts(ctx, b.engine, time.Now(), dry); err != nil {
				return err
			}
			if asJSON {
				return printJSON(io, g)
			}
			word := "removed"
			if dry {
				word = "would remove"
			}
			for _, d := range g.Images {
				fmt.Fprintf(io.Stdout, "%s %s\n", word, d)
			}
			fmt.Fprintf(io.Stdout, "%s %d images, %d attachments, %d blobs (%d MiB), %d unpacked disks (%d MiB), %d files of runs (%d MiB)\n",
				word, len(g.Images), g.Attached, g.Blobs, g.Bytes>>20, g.Disks, g.DiskBytes>>20, g.Artifacts.Files, g.Artifacts.Bytes>>20)
			return nil
		},
	}
}
