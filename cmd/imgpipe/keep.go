package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	database "goldsmith/internal/store"
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

// String is how long, as flags have it.
func (k keep) String() (text string) {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"history", k.history}, {"audit", k.audit}} {
		if f.d > 0 {
			text += fmt.Sprintf(" --%s %dh", f.name, int64(f.d.Hours()))
		}
	}
	return strings.TrimSpace(text)
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
	r := engine.Retention{Images: map[string]bool{}, Last: b.KeepAuthors}
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
	if f, err = e.Forget(ctx, r, dry); dry {
		return f, err
	}
	// Also when not all were forgotten: of those that were, nobody knows any more.
	for _, id := range f.Numbers {
		err = errors.Join(err, os.RemoveAll(engine.RunDir(s.Dir, id)))
	}
	if k.history > 0 {
		err = errors.Join(err, sweepRuns(ctx, e, s.Dir, now))
	}
	return f, err
}

// strayAge is how old files are at least that are removed because no run is
// theirs.
const strayAge = time.Hour

// sweepRuns removes the files of runs that are not known: a process that was
// killed had forgotten them.
func sweepRuns(ctx context.Context, e *engine.Engine, dir string, now time.Time) error {
	// Read before the database is: no run that is made meanwhile is among them.
	entries, err := os.ReadDir(filepath.Dir(engine.RunDir(dir, 0)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	known, err := e.Known(ctx)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		id, bad := strconv.ParseInt(entry.Name(), 10, 64)
		if bad != nil || strconv.FormatInt(id, 10) != entry.Name() || !entry.IsDir() || known[id] {
			continue
		}
		if fi, bad := entry.Info(); bad == nil && now.Sub(fi.ModTime()) > strayAge {
			err = errors.Join(err, os.RemoveAll(engine.RunDir(dir, id)))
		}
	}
	return err
}

// When a server forgets: not at once, for the clock may be set only then.
const (
	forgetFirst = time.Hour
	forgetEvery = 24 * time.Hour
)

// maxGap is how much older than the clock the newest that is known may be, that
// the clock be believed; one that was not believed at the start is after as long.
const maxGap = 7 * 24 * time.Hour

// ahead tells whether the clock may be ahead: then all looks old.
func ahead(newest, now time.Time) bool { return !newest.IsZero() && now.Sub(newest) > maxGap }

// keepForgetting forgets what is older once a day, until ctx ends, but for the
// time in which the clock is not believed.
func (k keep) keepForgetting(ctx context.Context, log *slog.Logger, e *engine.Engine, b *promotion.Book, s *step.Store) {
	if k == (keep{}) {
		return
	}
	begun := time.Now()
	first, err := e.Newest(ctx) // before somebody writes by this clock
	if err != nil && ctx.Err() == nil {
		log.Error("nothing is forgotten until the server is started again", "error", err)
	}
	if err != nil {
		return
	}
	said := false
	for wait := forgetFirst; ; wait = forgetEvery {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		newest, err := e.Newest(ctx)
		if err == nil && (ahead(newest, time.Now()) || ahead(first, begun) && time.Since(begun) < maxGap) {
			if !said {
				log.Warn("nothing is forgotten: the clock may be ahead", "clock", time.Now().UTC(), "newest", first, "begun", begun.UTC())
			}
			said = true
			continue
		}
		if err == nil {
			err = k.forgetOnce(ctx, log, e, b, s)
		}
		if err != nil && ctx.Err() == nil {
			log.Error("cannot forget what is old", "error", err)
		}
	}
}

// forgetOnce is what a server forgets in a day, with its entries of the audit
// trail.
func (k keep) forgetOnce(ctx context.Context, log *slog.Logger, e *engine.Engine, b *promotion.Book, s *step.Store) error {
	a := &database.Act{Each: true, Entry: commanded("imgpipe serve", "gc "+k.String())}
	f, err := k.forget(database.WithAct(ctx, a), e, b, s, nil, false)
	if f.Runs+f.Events+f.Audit > 0 {
		log.Info("forgot what is old", "runs", f.Runs, "decisions", f.Decisions, "events", f.Events, "audit", f.Audit)
	}
	return err
}
