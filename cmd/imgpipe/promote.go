package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/step"
)

func promoteCommand() *command.Command {
	var dir, file string
	return &command.Command{
		Name:  "promote",
		Args:  "DIGEST CHANNEL",
		Short: "let an image into a channel if its evidence suffices",
		Long: `
Moves the channel's tag to the image when every kind of evidence that the
channel requires is there and its newest is a pass; otherwise it refuses,
names what is missing, and moves nothing. The image is named by its digest, or
the first characters of it. What a channel requires stands in the pipeline
file: that of the last run, unless --pipeline names another.`,
		Example: `imgpipe promote sha256:5e2f0c production`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			fs.StringVar(&file, "pipeline", "", "read the channel's requirements from `file`")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 2 {
				return command.Usage("promote needs an image and a channel", "imgpipe promote sha256:5e2f0c production")
			}
			if file == "" {
				var err error
				if file, err = lastFile(ctx, dir); err != nil {
					return err
				}
			}
			p, err := pipeline.Load(file, step.Names())
			if err != nil {
				return err
			}
			c := p.Channel(args[1])
			if c == nil {
				return command.BadInput(fmt.Errorf("%s: no channel %q", file, args[1]), channels(p))
			}
			if _, err := os.Stat(dir); err != nil {
				return command.Usage(dir+": no images are there", "'imgpipe run' makes one; --dir names another directory")
			}
			store, err := step.OpenStore(dir)
			if err != nil {
				return err
			}
			h, err := store.Images.Resolve(args[0])
			if err != nil {
				return err
			}
			err = store.Promote(h.String(), c)
			if _, refused := errors.AsType[*pipeline.Refusal](err); refused {
				return command.Hint(err, "run the stages that bring this evidence, then promote again")
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(io.Stdout, "%s is now %s\n", c.Name, h)
			return nil
		},
	}
}

func channels(p *pipeline.Pipeline) string {
	text := "its channels are:"
	for _, c := range p.Channels {
		text += " " + c.Name
	}
	return text
}

// lastFile is the pipeline file of the newest run.
func lastFile(ctx context.Context, dir string) (string, error) {
	o, err := knownOffice(ctx, dir)
	if err != nil {
		return "", err
	}
	var runs []*pipeline.Run
	if o != nil {
		defer o.close()
		if runs, err = o.engine.Runs(ctx, 1); err != nil {
			return "", err
		}
	}
	if len(runs) == 0 {
		return "", command.Usage(dir+": no run yet, and so no image", "'imgpipe run' makes one; --dir names another directory")
	}
	return runs[0].File, nil
}
