// Package collectcfg gathers a machine's metadata from its sources into JSON
// files and runs a command when they change, which is how configuration
// reaches a machine at boot.
//
// A source is a [Collector]. What the sources deliver is kept in a cache
// directory, one file a document, beside a list of the files that applycfg
// reads. A document has changed when it differs from the one with which the
// command last succeeded, so a command that fails is run again at the next
// poll. A boot counts as a change too: the image may be another one, with
// other templates.
//
// A document that is no JSON is passed on as it is: the command then fails
// with file and line, and can report that, where leaving the document out
// would configure the machine with half of its metadata.
package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// Document is what a source delivers.
type Document struct {
	Name  string            // the cache file is NAME.json
	Value any               // a value of package metadata
	Raw   []byte            // instead of Value: content that is no JSON
	Keep  map[string][]byte // more files to keep, by name; no metadata
	Note  string            // what is wrong with the source, if the document can be used all the same
}

// Collector is a source of metadata. It returns an error for which
// [IsUnavailable] is true when the source is not there, which is no failure.
type Collector interface {
	Collect(ctx context.Context) ([]Document, error)
}

// unavailable says that a source is not there now.
type unavailable struct{ error }

// IsUnavailable says that err means a source which is not there, or must not
// be trusted, and is passed over.
func IsUnavailable(err error) bool {
	_, ok := errors.AsType[unavailable](err)
	return ok
}

// Source is a collector with its name.
type Source struct {
	Name string
	Collector
}

// Runner collects and runs the command. Cache and Sources are required.
type Runner struct {
	Cache   *Cache
	Sources []Source
	Command string        // for the shell; run on change
	Force   bool          // run Command even without a change
	Boot    string        // names this boot of the machine; empty: a boot is no change
	Min     time.Duration // the first pause between polls; it doubles
	Max     time.Duration // the longest pause
	Stdout  io.Writer     // the command's output
	Log     io.Writer
	Say     func(format string, args ...any)

	said map[string]string // what was last said of each source
}

// collect asks every source.
func (r *Runner) collect(ctx context.Context) ([]Document, error) {
	var docs []Document
	for _, s := range r.Sources {
		d, err := s.Collect(ctx)
		switch {
		case IsUnavailable(err):
			r.note(s.Name, err.Error())
			continue
		case err != nil:
			return nil, fmt.Errorf("source %s: %w", s.Name, err)
		}
		note := ""
		for _, d := range d {
			note += d.Note
		}
		r.note(s.Name, note)
		docs = append(docs, d...)
	}
	return docs, nil
}

// note says something about a source once, not at every poll.
func (r *Runner) note(source, text string) {
	if r.said == nil {
		r.said = map[string]string{}
	}
	if text != "" && r.said[source] != text {
		r.Say("source %s: %s", source, text)
	}
	r.said[source] = text
}

// Print collects and returns everything as one object, by document.
func (r *Runner) Print(ctx context.Context) (*metadata.Object, error) {
	docs, err := r.collect(ctx)
	if err != nil {
		return nil, err
	}
	all := &metadata.Object{}
	for _, d := range docs {
		if d.Raw != nil {
			_, err := metadata.Parse(d.Name, d.Raw)
			return nil, command.BadInput(err, "the source delivers something that is no JSON")
		}
		all.Set(d.Name, d.Value)
	}
	return all, nil
}

// Once collects and runs the command if anything changed. The error is the
// command's when that failed.
func (r *Runner) Once(ctx context.Context) (changed bool, err error) {
	docs, err := r.collect(ctx)
	if err != nil {
		return false, err
	}
	paths, names, err := r.Cache.Store(docs)
	if err != nil {
		return false, err
	}
	booted := len(paths) > 0 && r.Boot != "" && !r.Cache.ranIn(r.Boot)
	why := "forced"
	switch {
	case len(names) > 0:
		why = "changed: " + strings.Join(names, ", ")
	case booted:
		why = "for the first time in this boot"
	case !r.Force:
		return false, nil
	}
	r.Say("running %s (%s)", r.Command, why)
	x := command.Exec{
		Args: []string{"/bin/sh", "-c", r.Command},
		Env:  append(os.Environ(), "OS_CONFIG_FILES="+strings.Join(paths, ":")),
		Log:  r.Log, Stdout: r.Stdout,
	}
	if err := x.Run(ctx); err != nil {
		return true, &CommandError{r.Command, err}
	}
	return true, errors.Join(r.Cache.Commit(names), r.Cache.mark(r.Boot))
}

// CommandError says that the command did not succeed.
type CommandError struct {
	Command string
	Err     error
}

func (e *CommandError) Error() string {
	if x, ok := errors.AsType[*command.ExitError](e.Err); ok && x.Status >= 0 {
		return fmt.Sprintf("command %s: exit status %d", e.Command, x.Status) // what it said has been logged
	}
	return fmt.Sprintf("command %s: %v", e.Command, e.Err)
}

func (e *CommandError) Unwrap() error { return e.Err }

// Status is the command's exit status, 1 when it has none.
func (e *CommandError) Status() int {
	if x, ok := errors.AsType[*command.ExitError](e.Err); ok && x.Status > 0 {
		return x.Status
	}
	return command.StatusFailed
}

// Poll collects again and again until the context ends. Errors are logged;
// the next poll tries again. The pause starts at Min, after every change too,
// and doubles up to Max.
func (r *Runner) Poll(ctx context.Context) error {
	pause := r.Min
	for {
		changed, err := r.Once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err != nil:
			r.Say("%v; trying again in %s", err, pause)
		case changed:
			pause = r.Min
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, r.Max)
	}
}
