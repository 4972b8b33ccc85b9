package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	"goldsmith/internal/registry"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
)

// garbage is what 'imgpipe gc --json' prints.
type garbage struct {
	*registry.Garbage
	Disks     int   `json:"disks"` // unpacked ones
	DiskBytes int64 `json:"disk_bytes"`
	// Artifacts are files of runs whose time was over.
	Artifacts step.Swept `json:"artifacts"`
	// History is what was forgotten of runs and of the audit trail.
	History engine.Forgotten `json:"history"`
	DryRun  bool             `json:"dry_run,omitempty"`
}

// gcFlags say what 'imgpipe gc' may remove.
type gcFlags struct {
	dir            string
	older          string // a span
	history, audit string // spans; empty: for ever
	keep           int
	dry, json      bool
}

func gcCommand() *command.Command {
	var f gcFlags
	return &command.Command{
		Name:  "gc",
		Short: "remove images that nobody needs, and history that is old",
		Long: `
Removes images with all that is attached to them, and what killed processes
left. What a tag names stays, what a channel could be rolled back to, what a
node has, what a running run works on, what is held, and what is younger than
an hour. While an image is being stored nothing is removed (status 4). Files of
runs go when their time is over, which the pipeline file says (artifacts).

With --history, runs that ended longer ago are forgotten with their decisions,
events and files, but for the newest run and those whose image is still there:
evidence names them. What is left can still be decided anew. With --audit, older
entries of the audit trail go, too. Without them both are kept for ever.`,
		Example: `imgpipe gc --dry-run
imgpipe gc --keep 3 --older 30d --history 90d --audit 400d`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &f.dir)
			fs.IntVar(&f.keep, "keep", 5, "keep so many of the newest images that nobody needs")
			fs.StringVar(&f.older, "older", "1h", "remove only what is older than a `time`, such as 30d")
			fs.StringVar(&f.history, "history", "", "forget runs that ended longer ago than a `time`, such as 90d; default: none")
			fs.StringVar(&f.audit, "audit", "", "forget entries of the audit trail older than a `time`, such as 400d; default: none")
			fs.BoolVar(&f.dry, "dry-run", false, "say what would be removed, and remove nothing")
			fs.BoolVar(&f.json, "json", false, "print JSON")
		},
		Run: func(ctx context.Context, std command.IO, args []string) error { return f.run(ctx, std, args) },
	}
}

func (f *gcFlags) run(ctx context.Context, std command.IO, args []string) error {
	age, err := pipeline.ParseSpan(f.older)
	if len(args) > 0 || f.keep < 0 || err != nil || age < promotion.MinimumAge {
		return command.Usage("gc takes no arguments; --keep is 0 or more, --older 1h or more", "imgpipe gc --keep 3 --older 30d")
	}
	k, err := retain(f.history, f.audit)
	if err != nil {
		return err
	}
	b := &book{}
	if err := b.open(ctx, f.dir); err != nil {
		return err
	}
	defer b.close()
	var g *garbage
	collect := func(ctx context.Context) error {
		g, err = b.collectAll(ctx, promotion.Keep{Newest: f.keep, Older: age}, k, f.dry)
		return err
	}
	if f.dry {
		err = collect(ctx)
	} else {
		err = actEach(ctx, b.db, caller(), f.words(), collect)
	}
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(std, g)
	}
	g.print(std.Stdout)
	return nil
}

// words are the command's, with all that decides what goes.
func (f *gcFlags) words() string {
	text := fmt.Sprintf("gc --keep %d --older %s", f.keep, f.older)
	if f.history != "" {
		text += " --history " + f.history
	}
	if f.audit != "" {
		text += " --audit " + f.audit
	}
	return text
}

// collectAll removes what nobody needs, or says what that is.
func (b *book) collectAll(ctx context.Context, images promotion.Keep, k keep, dry bool) (*garbage, error) {
	g := &garbage{DryRun: dry}
	var err error
	if g.Garbage, err = b.Collect(ctx, images, dry); err != nil {
		return nil, err
	}
	if g.Disks, g.DiskBytes, err = b.store.SweepDisks(g.Images, images.Older, time.Now(), dry); err != nil {
		return nil, err
	}
	if g.Artifacts, err = b.store.SweepArtifacts(ctx, b.engine, time.Now(), dry); err != nil {
		return nil, err
	}
	g.History, err = k.forget(ctx, b.engine, b.Book, b.store, g.Images, dry)
	return g, err
}

func (g *garbage) print(w io.Writer) {
	word := "removed"
	if g.DryRun {
		word = "would remove"
	}
	for _, d := range g.Images {
		fmt.Fprintf(w, "%s %s\n", word, d)
	}
	fmt.Fprintf(w, "%s %d images, %d attachments, %d blobs (%d MiB), %d unpacked disks (%d MiB), %d files of runs (%d MiB)\n",
		word, len(g.Images), g.Attached, g.Blobs, g.Bytes>>20, g.Disks, g.DiskBytes>>20, g.Artifacts.Files, g.Artifacts.Bytes>>20)
	if h := g.History; h.Runs+h.Events+h.Contents+h.Audit > 0 {
		fmt.Fprintf(w, "%s %d runs, %d decisions, %d events, %d entries of the audit trail\n", word, h.Runs, h.Decisions, h.Events, h.Audit)
	}
}
