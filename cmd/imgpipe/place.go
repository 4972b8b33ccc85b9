package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
)

// place is where runs are: a directory, or a server.
type place interface {
	run(ctx context.Context, id int64) (*pipeline.Run, error)
	cancel(ctx context.Context, id int64, why string) error
	// changed is closed when a run may have changed; nil where nobody knows.
	changed() <-chan struct{}
}

// run implements place.
func (o *office) run(ctx context.Context, id int64) (*pipeline.Run, error) {
	return o.engine.Run(ctx, id)
}

// cancel implements place.
func (o *office) cancel(ctx context.Context, id int64, why string) error {
	return o.engine.Cancel(ctx, id, caller(), why)
}

// changed implements place.
func (o *office) changed() <-chan struct{} { return o.db.Changed() }

// at opens the server that is named, or the directory. The caller closes it.
func (d *distant) at(ctx context.Context, dir string) (p place, done func(), err error) {
	s, err := d.open()
	if err != nil || s != nil {
		return s, func() {}, err
	}
	o, err := openOffice(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	return o, o.close, nil
}

// follow says what happens to a run until it has ended, and shows it as a tree
// on a terminal. When ctx ends it cancels the run and waits for that.
func follow(ctx context.Context, p place, id int64, progress *command.Progress) (*pipeline.Run, error) {
	still := context.WithoutCancel(ctx)
	interrupted := ctx.Done()
	said := map[string]string{}
	var now atomic.Pointer[pipeline.Run]
	lookAgain := time.Minute
	onTerminal := progress.Live(func() []string {
		if r := now.Load(); r != nil {
			return tree(r, time.Now())
		}
		return nil
	})
	if onTerminal || p.changed() == nil {
		lookAgain = time.Second
	}
	for {
		changed := p.changed()
		r, err := p.run(still, id)
		if err != nil {
			return nil, err
		}
		now.Store(r)
		sayNews(progress, r, said)
		if r.Status.Ended() {
			progress.Live(nil)
			if ctx.Err() != nil {
				err = context.Canceled
			}
			return r, err
		}
		select {
		case <-interrupted:
			interrupted = nil
			if err := p.cancel(still, id, "interrupted"); err != nil && command.Status(err) != command.StatusUsage {
				return r, err
			}
		case <-changed:
		case <-time.After(lookAgain):
		}
	}
}

// sayNews tells of stages that were skipped, or will be tried again.
func sayNews(progress *command.Progress, r *pipeline.Run, said map[string]string) {
	for _, s := range r.Stages {
		news := ""
		switch {
		case s.Status == pipeline.Skipped || s.Status == pipeline.Cancelled:
			news = fmt.Sprintf("%s %s: %s", s.Name, s.Status, s.Reason)
		case s.Status == pipeline.Running && len(s.Attempts) > 1:
			last := s.Attempts[len(s.Attempts)-2]
			news = fmt.Sprintf("%s is tried again: %s: %s", s.Name, last.Class, last.Reason)
		}
		if news != "" && said[s.Name] != news {
			said[s.Name] = news
			progress.Info("%s", news)
		}
	}
}
