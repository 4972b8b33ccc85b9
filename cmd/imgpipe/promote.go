package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	"goldsmith/internal/trust"
	"goldsmith/pipeline"
)

func promoteCommand() *command.Command {
	f := &bookFlags{}
	var key string
	var dry bool
	return &command.Command{
		Name:  "promote",
		Args:  "IMAGE CHANNEL",
		Short: "let an image into a channel if its policy allows it",
		Long: `
Moves the channel's tag to the image when the channel's policy is satisfied:
evidence, soak time, approvals, no freeze and no hold (docs/pipeline.md,
Channels). Otherwise it refuses with status 1, says everything that is missing,
and moves nothing. The image is named by its digest, or the first characters of
it, or a tag. A move that a killed process left unfinished is finished first.`,
		Example: `imgpipe promote sha256:5e2f0c production --why 'release 12, ticket 7'
imgpipe promote staging production --dry-run`,
		Flags: func(fs *flag.FlagSet) {
			f.where(fs)
			f.who(fs)
			fs.StringVar(&key, "key", "", "sign with the private key in `file`, instead of the channel's")
			fs.BoolVar(&dry, "dry-run", false, "say what the policy says, and move nothing")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			b, p, err := openChannel(ctx, f, "promote", args)
			if err != nil {
				return err
			}
			defer b.close()
			if key != "" {
				k, err := trust.ReadPrivate(key)
				if err != nil {
					return err
				}
				p.SignWith(k)
			}
			if dry {
				return decide(ctx, io, b, p, args[0], f.json)
			}
			if f.why == "" {
				f.why = "by hand"
			}
			var m *promotion.Move
			w := f.word()
			err = act(ctx, b.db, w.Who, "promote "+strings.Join(args, " "), func(ctx context.Context) error {
				m, err = b.Promote(ctx, p, args[0], w)
				return err
			})
			return told(io, m, err, f.json)
		},
	}
}

// openChannel opens the book for a command about an image and a channel, and
// reads the channel's policy. The caller closes the book.
func openChannel(ctx context.Context, f *bookFlags, name string, args []string) (*book, *promotion.Policy, error) {
	if len(args) != 2 {
		return nil, nil, command.Usage(name+" needs an image and a channel", "imgpipe "+name+" sha256:5e2f0c production")
	}
	b, err := openBook(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	p, err := b.policy(args[1])
	if err != nil {
		b.close()
		return nil, nil, err
	}
	return b, p, nil
}

// decide prints what the gate says.
func decide(ctx context.Context, io command.IO, b *book, p *promotion.Policy, image string, asJSON bool) error {
	d, err := b.Decide(ctx, p, image)
	if err != nil {
		return err
	}
	if asJSON {
		return errors.Join(printJSON(io, d), refused(d.Err()))
	}
	for _, m := range d.Met {
		fmt.Fprintf(io.Stdout, "met      %s\n", m)
	}
	for _, u := range d.Unmet {
		fmt.Fprintf(io.Stdout, "missing  %s\n", u.Text)
	}
	return refused(d.Err())
}

// refused says what to do about a refusal.
func refused(err error) error {
	r, ok := errors.AsType[*pipeline.Refusal](err)
	if !ok {
		return err
	}
	hint := "'imgpipe channels' shows what each channel lacks"
	switch r.Decision.Unmet[0].Reason {
	case pipeline.EvidenceMissing, pipeline.EvidenceFailed, pipeline.EvidenceUnsigned, pipeline.EvidenceRerun:
		hint = "run the stages that bring this evidence, then promote again"
	case pipeline.ApprovalMissing:
		hint = fmt.Sprintf("they approve it by 'imgpipe approve %s %s'", r.Decision.Image, r.Decision.Channel)
	case pipeline.AuthorUnknown:
		hint = "a run that builds it notes who made it"
	case pipeline.NotFrom:
		hint = fmt.Sprintf("'imgpipe promote %s %s' comes first", r.Decision.Image, r.Decision.Unmet[0].What)
	case pipeline.Held:
		hint = fmt.Sprintf("'imgpipe release %s --why …' ends it", r.Decision.Unmet[0].What)
	}
	return command.Hint(err, hint)
}

// told prints what became of a move.
func told(io command.IO, m *promotion.Move, err error, asJSON bool) error {
	if err != nil {
		if r, ok := errors.AsType[*pipeline.Refusal](err); ok && asJSON {
			err = errors.Join(printJSON(io, r.Decision), err)
		}
		return refused(err)
	}
	if asJSON {
		return printJSON(io, m)
	}
	if m.Mended {
		fmt.Fprintf(io.Stderr, "imgpipe: a move of %s that was left unfinished has been finished first\n", m.Channel)
	}
	if m.Already {
		fmt.Fprintf(io.Stdout, "%s is %s already\n", m.Channel, m.Previous)
		return nil
	}
	fmt.Fprintf(io.Stdout, "%s is now %s\n", m.Channel, m.Image)
	return nil
}

func approveCommand() *command.Command {
	f := &bookFlags{}
	var withdraw bool
	return &command.Command{
		Name:  "approve",
		Args:  "IMAGE CHANNEL",
		Short: "agree to an image in a channel, or take that back",
		Long: `
Notes your approval of an image for a channel. How many are needed, and whose
count, stands in the channel's policy; those of the image's authors never do.
The newest word of a person counts.`,
		Example: `imgpipe approve sha256:5e2f0c production --why 'upgrade watched on rack 3'
imgpipe approve sha256:5e2f0c production --withdraw --why 'rack 3 is slow'`,
		Flags: func(fs *flag.FlagSet) {
			f.where(fs)
			f.who(fs)
			fs.BoolVar(&withdraw, "withdraw", false, "take the approval back")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			b, p, err := openChannel(ctx, f, "approve", args)
			if err != nil {
				return err
			}
			defer b.close()
			say := b.Approve
			if withdraw {
				say = b.Withdraw
			}
			w := f.word()
			err = act(ctx, b.db, w.Who, "approve "+strings.Join(args, " "), func(ctx context.Context) error { return say(ctx, args[0], args[1], w) })
			if err != nil {
				return err
			}
			d, err := b.Decide(ctx, p, args[0])
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(io, d)
			}
			for _, u := range d.Unmet {
				fmt.Fprintf(io.Stdout, "missing  %s\n", u.Text)
			}
			if d.Open {
				fmt.Fprintf(io.Stdout, "nothing is missing: imgpipe promote %s %s\n", d.Image, d.Channel)
			}
			return nil
		},
	}
}
