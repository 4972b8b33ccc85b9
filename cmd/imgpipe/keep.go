package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
)

// keep is how long history and the audit trail are kept; 0 is for ever.
type keep struct{ history, audit time.Duration }

// keepSettings are keep in the server's file.
type keepSettings struct{ History, Audit string } // such as 90d; empty: for ever

// minimumKeep is the least: what is younger may be about to be asked for.
const minimumKeep = 24 * time.Hour

// retain reads how long history and the audit trail are kept; empty is for ever.
func retain(history, audit string) (k keep, err error) {
	for _, f := range []struct {
		text string
		to   *time.Duration
	}{{history, &k.history}, {audit, &k.audit}} {
		if f.text == "" {
			continue
		}
		if *f.to, err = pipeline.ParseSpan(f.text); err != nil || *f.to < minimumKeep {
			return k, command.Usage(fmt.Sprintf("%q: expected a time of a day or more, such as 90d", f.text), "")
		}
	}
	return k, nil
}

// forget forgets what is older, and removes what runs left that are forgotten.
// gone are images that count as removed.
func (k keep) forget(ctx context.Context, e *engine.Engine, b *promotion.Book, s *step.Store, gone []string, dry bool) (f engine.Forgotten, err error) {
	if k == (keep{}) {
		return f, nil
	}
	images, err := s.Images.List()
	if err != nil {
		return f, err
	}
	images = slices.DeleteFunc(images, func(d string) bool { return slices.Contains(gone, d) })
	needed, err := b.Needed(ctx)
	if err != nil {
		return f, err
	}
	r := engine.Retention{Images: map[string]bool{}}
	for _, d := range append(images, needed...) {
		r.Images[d] = true
	}
	now := time.Now()
	if k.history > 0 {
		r.History = now.Add(-k.history)
	}
	if k.audit > 0 {
		r.Audit = now.Add(-k.audit)
	}
	if f, err = e.Forget(ctx, r, dry); err != nil || dry {
		return f, err
	}
	for _, id := range f.Numbers {
		if err := os.RemoveAll(engine.RunDir(s.Dir, id)); err != nil {
			return f, err
		}
	}
	return f, nil
}

// forgetEvery is how often a server forgets.
const forgetEvery = 24 * time.Hour

// keepForgetting forgets what is older once a day, until ctx ends.
func (k keep) keepForgetting(ctx context.Context, log *slog.Logger, e *engine.Engine, b *promotion.Book, s *step.Store) {
	for k != (keep{}) {
		f, err := k.forget(ctx, e, b, s, nil, false)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("cannot forget what is old", "error", err)
		case f.Runs+f.Events+f.Audit > 0:
			log.Info("forgot what is old", "runs", f.Runs, "decisions", f.Decisions, "events", f.Events, "audit", f.Audit)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(forgetEvery):
		}
	}
}
