package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	"goldsmith/pipeline"
)

// bookFlags are the flags of all that is done with channels.
type bookFlags struct {
	dir, pipeline, channels string
	as, why                 string
	json                    bool
}

// where declares the flags that say which channels are meant.
func (f *bookFlags) where(fs *flag.FlagSet) {
	dirFlag(fs, &f.dir)
	fs.StringVar(&f.pipeline, "pipeline", "", "read the channels from the pipeline `file`; default: that of the last run")
	fs.StringVar(&f.channels, "channels", "", "read the channels from a `file` of their own")
	fs.BoolVar(&f.json, "json", false, "print JSON")
}

// who declares the flags that say who does it, and why.
func (f *bookFlags) who(fs *flag.FlagSet) {
	fs.StringVar(&f.as, "as", "", "who does it; default: your user `name`")
	fs.StringVar(&f.why, "why", "", "the `reason`, one line")
}

func (f *bookFlags) word() promotion.Word {
	if f.as == "" {
		f.as = caller()
	}
	return promotion.Word{Who: f.as, Why: f.why}
}

// book is an open book with the policies that it is asked about.
type book struct {
	*office
	*promotion.Book
	policies *pipeline.Policies
	file     string // of the policies
}

// openBook opens what is kept in the directory, with the policies.
func openBook(ctx context.Context, f *bookFlags) (*book, error) {
	b := &book{}
	var err error
	if b.policies, b.file, err = f.policies(ctx); err != nil {
		return nil, err
	}
	return b, b.open(ctx, f.dir)
}

// open opens what is kept in the directory.
func (b *book) open(ctx context.Context, dir string) (err error) {
	if _, err := os.Stat(dir); err != nil {
		return command.Usage(dir+": no images are there", "'imgpipe run' makes one; --dir names another directory")
	}
	if b.office, err = openOffice(ctx, dir); err != nil {
		return err
	}
	b.Book = promotion.New(b.db, b.store.Images)
	return nil
}

func (b *book) close() {
	if b.office != nil {
		b.office.close()
	}
}

// policies reads the channels, and says from which file.
func (f *bookFlags) policies(ctx context.Context) (p *pipeline.Policies, file string, err error) {
	if file = cmp.Or(f.channels, f.pipeline); file == "" {
		if file, err = lastFile(ctx, f.dir); err != nil {
			return nil, "", err
		}
	}
	p, err = pipeline.LoadPolicies(file)
	return p, file, err
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

// policy returns a channel with its keys.
func (b *book) policy(channel string) (*promotion.Policy, error) {
	c := b.policies.Channel(channel)
	if c == nil {
		return nil, command.BadInput(fmt.Errorf("%s: no channel %q", b.file, channel), b.names())
	}
	return promotion.NewPolicy(c, filepath.Dir(b.file))
}

func (b *book) names() string {
	text := "its channels are:"
	for _, c := range b.policies.Channels {
		text += " " + c.Name
	}
	return text
}

// subject is the name of a channel, or the digest of an image.
func (b *book) subject(word string) (string, error) {
	if b.policies.Channel(word) != nil {
		return word, nil
	}
	if strings.HasPrefix(word, "sha256:") {
		h, err := b.store.Images.Resolve(word)
		return h.String(), err
	}
	return "", command.BadInput(fmt.Errorf("%s: no channel %q", b.file, word), b.names()+"; an image is named by its digest, sha256:…")
}

// until reads a time to come: a duration from now, or a date with or without a
// time (of this machine's zone). Empty is no time.
func until(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := pipeline.ParseSpan(text); err == nil {
		return now.Add(d), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, command.Usage(fmt.Sprintf("--until %q is no time", text), "such as 4h, 3d, 2026-12-24 or '2026-12-24 16:00'")
}
