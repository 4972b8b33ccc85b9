package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
)

// wordCommand is a command by which a person says something about one channel
// or image.
type wordCommand struct {
	name, args, short, long, example string
	until                            bool // has --until
	optional                         bool // its argument may be left out
	flags                            func(*flag.FlagSet)
	run                              func(ctx context.Context, b *book, subject string, until time.Time, w promotion.Word) (any, error)
}

func (c wordCommand) command() *command.Command {
	f := &bookFlags{}
	var end string
	return &command.Command{
		Name: c.name, Args: c.args, Short: c.short, Long: c.long, Example: c.example,
		Flags: func(fs *flag.FlagSet) {
			f.where(fs)
			f.who(fs)
			if c.until {
				fs.StringVar(&end, "until", "", "end it at a `time`: 4h, 3d, 2026-12-24, '2026-12-24 16:00'; default: when somebody does")
			}
			if c.flags != nil {
				c.flags(fs)
			}
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) > 1 || len(args) == 0 && !c.optional {
				return command.Usage(c.name+": expected "+c.args, c.example)
			}
			at, err := until(end, time.Now())
			if err != nil {
				return err
			}
			b, err := openBook(ctx, f)
			if err != nil {
				return err
			}
			defer b.close()
			subject := ""
			if len(args) == 1 {
				if subject, err = b.subject(args[0]); err != nil {
					return err
				}
			}
			w := f.word()
			var result any
			err = act(ctx, b.db, w.Who, strings.TrimSpace(c.name+" "+subject), func(ctx context.Context) error {
				result, err = c.run(ctx, b, subject, at, w)
				return err
			})
			if m, ok := result.(*promotion.Move); ok {
				return told(io, m, err, f.json)
			}
			if err != nil || !f.json {
				return err
			}
			return printJSON(io, map[string]string{"subject": subject, "who": w.Who, "why": w.Why})
		},
	}
}

func holdCommand() *command.Command {
	return wordCommand{
		name: "hold", args: "CHANNEL|IMAGE", short: "keep a channel as it is, or an image out of all channels",
		long: `
Nothing is promoted into the channel, or the image nowhere, until it is
released. A rollback of a held channel is possible.`,
		example: `imgpipe hold production --why 'incident 12' --until 4h`, until: true,
		run: func(ctx context.Context, b *book, subject string, until time.Time, w promotion.Word) (any, error) {
			return nil, b.Hold(ctx, subject, until, w)
		},
	}.command()
}

func releaseCommand() *command.Command {
	abandon := false
	return wordCommand{
		name: "release", args: "CHANNEL|IMAGE", short: "end the holds of a channel or an image",
		long: `
Ends what 'imgpipe hold' and 'imgpipe rollback' have begun. With --abandon, a
move of the channel is given up that was left unfinished and cannot be
finished, since its registry is gone for good.`,
		example: `imgpipe release production --why 'mended in release 13'`,
		flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&abandon, "abandon", false, "give up a move of the channel that was left unfinished")
		},
		run: func(ctx context.Context, b *book, subject string, _ time.Time, w promotion.Word) (any, error) {
			if abandon {
				return nil, b.Abandon(ctx, subject, w)
			}
			return nil, b.Release(ctx, subject, w)
		},
	}.command()
}

func freezeCommand() *command.Command {
	return wordCommand{
		name: "freeze", args: "[CHANNEL]", short: "stop promotions into a channel, or into all",
		long: `
Nothing is promoted into the channel, or into any, until it is thawed or until
the time given. Freezes that come again stand in the channel's policy.`,
		example: `imgpipe freeze --why 'network maintenance' --until '2026-12-24 16:00'`, until: true, optional: true,
		run: func(ctx context.Context, b *book, subject string, until time.Time, w promotion.Word) (any, error) {
			return nil, b.Freeze(ctx, subject, until, w)
		},
	}.command()
}

func thawCommand() *command.Command {
	return wordCommand{
		name: "thaw", args: "[CHANNEL]", short: "end the freezes of a channel, or those of all",
		long: `
Ends what 'imgpipe freeze' has begun with the same argument. The windows in a
channel's policy stay.`,
		example: `imgpipe thaw --why 'network is well'`, optional: true,
		run: func(ctx context.Context, b *book, subject string, _ time.Time, w promotion.Word) (any, error) {
			return nil, b.Thaw(ctx, subject, w)
		},
	}.command()
}

func rollbackCommand() *command.Command {
	return wordCommand{
		name: "rollback", args: "CHANNEL", short: "move a channel back to what it held before, and hold it there",
		long: `
Moves the channel's tag to the image that it held before, whatever the policy
says, and holds the channel: nothing is promoted into it until 'imgpipe
release'. Once more goes back one image more.`,
		example: `imgpipe rollback production --why 'logins are slow, incident 12'`,
		run: func(ctx context.Context, b *book, subject string, _ time.Time, w promotion.Word) (any, error) {
			p, err := b.policy(subject)
			if err != nil {
				return nil, err
			}
			m, err := b.Rollback(ctx, p, w)
			return m, err
		},
	}.command()
}

func channelsCommand() *command.Command {
	f := &bookFlags{}
	return &command.Command{
		Name:  "channels",
		Short: "show what the channels hold, and what the next image lacks",
		Long: `
Shows for each channel which image it holds, since when and why, what stops it,
and what its policy says about the next image: what the channel before it
holds, or the newest image.`,
		Example: `imgpipe channels
imgpipe channels --json | jq '.[] | select(.next) | .next.unmet'`,
		Flags: f.where,
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 0 {
				return command.Usage("channels takes no arguments", "")
			}
			b, err := openBook(ctx, f)
			if err != nil {
				return err
			}
			defer b.close()
			var policies []*promotion.Policy
			for _, c := range b.policies.Channels {
				p, err := b.policy(c.Name)
				if err != nil {
					return err
				}
				policies = append(policies, p)
			}
			states, err := b.Channels(ctx, policies)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(io, states)
			}
			return printChannels(io.Stdout, states)
		},
	}
}

func printChannels(out io.Writer, states []promotion.State) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range states {
		if s.Image == "" {
			fmt.Fprintf(w, "%s\tholds nothing\n", s.Channel)
		} else {
			fmt.Fprintf(w, "%s\t%s %s\t%s\n", s.Channel, s.Name, s.Version, s.Image)
		}
		if !s.Since.IsZero() {
			fmt.Fprintf(w, "\tsince\t%s, %s by %s: %s\n", s.Since.Format(time.RFC3339), s.Kind, s.Who, command.Plain(s.Why))
		}
		if u := s.Unfinished; u != nil {
			fmt.Fprintf(w, "\tunfinished\t%s to %s by %s %s\n", u.Kind, u.Image, u.Who, command.Plain(u.Error))
		}
		for _, stop := range s.Stops {
			end := ""
			if !stop.Until.IsZero() {
				end = " until " + stop.Until.Format(time.RFC3339)
			}
			fmt.Fprintf(w, "\t%s\tof %s by %s%s: %s\n", stop.What, stop.On, stop.Who, end, command.Plain(stop.Why))
		}
		if s.Next == nil {
			continue
		}
		fmt.Fprintf(w, "\tnext\t%s\n", s.Next.Image)
		for _, u := range s.Next.Unmet {
			fmt.Fprintf(w, "\tmissing\t%s\n", command.Plain(u.Text))
		}
		if s.Next.Open {
			fmt.Fprintf(w, "\t\tnothing is missing\n")
		}
	}
	return w.Flush()
}
