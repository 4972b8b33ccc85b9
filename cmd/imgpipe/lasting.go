package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"time"

	"goldsmith/internal/api"
	"goldsmith/internal/command"
	"goldsmith/pipeline"
)

// awayFor is how long a server may be away while one waits for a run, and
// brieflyAway how long when one has been interrupted.
const awayFor, brieflyAway = 5 * time.Minute, 15 * time.Second

// lasting is a server as the place of a run that one waits for: it may be away
// for a while.
type lasting struct {
	*distantServer
	patience    time.Duration // how long it may be away
	interrupted <-chan struct{}
	say         func(format string, args ...any) // is told that it is away; nil: nobody is
}

// run implements place.
func (l *lasting) run(ctx context.Context, id int64) (r *pipeline.Run, err error) {
	err = l.insist(ctx, func() error {
		r, err = l.distantServer.run(ctx, id)
		return err
	})
	return r, err
}

// cancel implements place.
func (l *lasting) cancel(ctx context.Context, id int64, why string) error {
	return l.insist(ctx, func() error { return l.distantServer.cancel(ctx, id, why) })
}

// changed implements place.
func (l *lasting) changed() <-chan struct{} { return nil }

// file implements place.
func (l *lasting) file(ctx context.Context, id int64, stage string, attempt int, name string, w io.Writer) error {
	path := runPath(id, "/stages/"+url.PathEscape(stage)+"/files/"+url.PathEscape(name)+fmt.Sprintf("?attempt=%d", attempt))
	var b bytes.Buffer // what came before a connection broke counts for nothing
	err := l.insist(ctx, func() error {
		b.Reset()
		_, err := l.Copy(ctx, path, callLimit, func(r io.Reader) error {
			_, err := io.Copy(&b, io.LimitReader(r, maxResults))
			return err
		})
		return err
	})
	if err == nil {
		_, err = b.WriteTo(w)
	}
	if api.Missing(err) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// maxResults bounds a file of results, in bytes.
const maxResults = 64 << 20

// insist does something until it goes well or the server has been away too long.
func (l *lasting) insist(ctx context.Context, do func() error) error {
	begun, said := time.Now(), false
	interrupted := l.interrupted
	for limit := l.patience; ; {
		err := do()
		if err == nil || !api.Temporary(err) || time.Since(begun) >= limit || ctx.Err() != nil {
			if said && err == nil {
				l.say("the server answers again")
			}
			return err
		}
		if !said && l.say != nil {
			l.say("the server does not answer: %v; it is tried again", err)
			said = true
		}
		select {
		case <-ctx.Done():
		case <-interrupted:
			interrupted, limit = nil, min(limit, brieflyAway)
			begun = time.Now()
		case <-time.After(time.Second):
		}
	}
}

// ask has a server make a run, or go on with one, and sees it through unless it
// is to be left to it.
func ask(ctx context.Context, progress *command.Progress, s *distantServer, f *runFlags, word string, begin func() (int64, error)) (*pipeline.Run, error) {
	if f.key != "" || f.vulns != "" || len(f.have) > 0 {
		return nil, command.Usage("--evidence-key, --vuln-db and --capability are not for --server", "who works on its stages has them")
	}
	id, err := begin()
	if err != nil {
		return nil, err
	}
	progress.Info("run %d %s", id, word)
	if f.detach {
		return s.run(ctx, id)
	}
	l := &lasting{s, awayFor, ctx.Done(), progress.Info}
	r, err := follow(ctx, l, id, progress, mirror(progress))
	if r != nil && f.results != "" {
		err = errors.Join(err, saveResults(context.WithoutCancel(ctx), l, r, f.results))
	}
	return r, err
}

// mirror tells of attempts that others make as if this process made them.
func mirror(progress *command.Progress) func(*pipeline.Run) {
	type key struct {
		stage  string
		number int
	}
	steps := map[key]*command.Step{}
	return func(r *pipeline.Run) {
		for _, s := range r.Stages {
			for _, a := range s.Attempts {
				k := key{s.Name, a.Number}
				step, known := steps[k]
				if !known {
					step = progress.Start(s.Name)
					steps[k] = step
				}
				if step == nil || a.Ended == nil {
					continue
				}
				var err error
				if a.Status != pipeline.Passed {
					err = errors.New(a.Reason)
				}
				step.Done(err, "")
				steps[k] = nil // it has been told
			}
		}
	}
}

// reportFar is report of a run that a server made.
func reportFar(p *command.Progress, server string, r *pipeline.Run) {
	p.Info("")
	p.Info("run %s of pipeline %s %s", r.ID, r.Pipeline, r.Status)
	for _, s := range r.Stages {
		for _, n := range s.Notes {
			p.Info("  %s", n)
		}
		if s.Status == pipeline.Failed && len(s.Attempts) > 0 {
			p.Info("  look at 'imgpipe logs --server %s %s %s'", server, r.ID, s.Name)
		}
	}
	p.Info("  record of the run: %s%s", server, "/v1/runs/"+r.ID)
}
