package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
)

// place is where runs are: a directory, or a server.
type place interface {
	run(ctx context.Context, id int64) (*pipeline.Run, error)
	cancel(ctx context.Context, id int64, why string) error
	// changed is closed when a run may have changed; nil where nobody knows.
	changed() <-chan struct{}
	// file copies a file that an attempt left. The error wraps fs.ErrNotExist when
	// it left none.
	file(ctx context.Context, id int64, stage string, attempt int, name string, w io.Writer) error
	// log prints the log of one attempt, the newest when that is 0, and what is
	// added to it while it goes on when follow is set.
	log(ctx context.Context, out *logOutput, id int64, stage string, attempt int, follow bool) error
}

// run implements place.
func (o *office) run(ctx context.Context, id int64) (*pipeline.Run, error) {
	return o.engine.Run(ctx, id)
}

// cancel implements place.
func (o *office) cancel(ctx context.Context, id int64, why string) error {
	return act(ctx, o.db, caller(), fmt.Sprintf("cancel %d", id), func(ctx context.Context) error {
		return o.engine.Cancel(ctx, id, caller(), why)
	})
}

// submit makes a run.
func (o *office) submit(ctx context.Context, s engine.Submission) (id int64, err error) {
	err = act(ctx, o.db, s.Actor, "run "+s.File, func(ctx context.Context) error {
		id, err = o.engine.Submit(ctx, s)
		return err
	})
	return id, err
}

// again goes on with a run, or a stage of it.
func (o *office) again(ctx context.Context, r *pipeline.Run, id int64, stage, host string) error {
	return act(ctx, o.db, caller(), strings.TrimSpace(fmt.Sprintf("retry %d %s", id, stage)), func(ctx context.Context) error {
		if r.Status.Ended() {
			return o.engine.Retry(ctx, id, stage, caller(), host)
		}
		return o.engine.Adopt(ctx, id, caller(), host)
	})
}

// changed implements place.
func (o *office) changed() <-chan struct{} { return o.db.Changed() }

// file implements place.
func (o *office) file(_ context.Context, id int64, stage string, attempt int, name string, w io.Writer) error {
	f, err := engine.OpenFile(engine.AttemptDir(o.store.Dir, id, stage, attempt), name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// at opens the server that is named, which may be away so long, or the
// directory. The caller closes it.
func (d *distant) at(ctx context.Context, dir string, away time.Duration) (p place, done func(), err error) {
	s, err := d.open()
	if err != nil || s != nil {
		return &lasting{distantServer: s, patience: away, interrupted: ctx.Done()}, func() {}, err
	}
	o, err := openOffice(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	return o, o.close, nil
}

// follow says what happens to a run until it has ended, and shows it as a tree
// on a terminal; tell hears of it, too, unless it is nil. When ctx ends it
// cancels the run and waits for that.
func follow(ctx context.Context, p place, id int64, progress *command.Progress, tell func(*pipeline.Run)) (*pipeline.Run, error) {
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
		if tell != nil {
			tell(r)
		}
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

// saveResults keeps the JUnit files of a run's attempts in a directory, which is
// made, as STAGE-ATTEMPT.xml.
func saveResults(ctx context.Context, p place, r *pipeline.Run, dir string) error {
	id, err := engine.Number(r.ID)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return err
	}
	for _, s := range r.Stages {
		if s.Name != filepath.Base(s.Name) || !filepath.IsLocal(s.Name) || s.Name == "." { // a server may say anything
			return command.BadInput(fmt.Errorf("results: %q is no name of a stage", s.Name), "do not trust this server")
		}
		for _, a := range s.Attempts {
			var b bytes.Buffer
			err := p.file(ctx, id, s.Name, a.Number, "junit.xml", &b)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = atomicfile.Write(filepath.Join(dir, fmt.Sprintf("%s-%d.xml", s.Name, a.Number)), b.Bytes(), 0o644)
			}
			if err != nil {
				return fmt.Errorf("results of stage %s: %w", s.Name, err)
			}
		}
	}
	return nil
}
