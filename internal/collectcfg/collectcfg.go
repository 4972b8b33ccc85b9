// Package collectcfg gathers a machine's metadata from its sources into JSON
// files and runs a command when they change, which is how configuration
// reaches a machine at boot.
//
// A source is a [Collector]. What the sources deliver is kept in a cache
// directory, one file a document, beside a list of the files that applycfg
// reads. A document has changed when it differs from the one with which the
// command last succeeded, so a command that fails is run again. A boot counts
// as a change too: the image may be another one, with other templates.
//
// A source that cannot be asked now, or a disk that has been taken away, is
// another thing than a source that is not there: what it delivered before goes
// on to count. A document that is no JSON
// is passed on as it is: the command then fails with file and line, and can
// report that, where leaving the document out would configure the machine with
// half of its metadata.
//
// [Runner.Run] waits for events: files are watched, servers that can are asked
// to answer when something changes, and only the others are polled.
// [Runner.Poll] is what os-collect-config does instead, and Original makes the
// rest of a Runner do as that program does.
package collectcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
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
	// Deployment says that others chose the name: it gives way to that of a
	// source or a file.
	Deployment bool
}

// Collector is a source of metadata. Its errors are of three kinds: one that
// [IsUnavailable] says the source is not there, which is no failure; one that
// [IsTemporary] says it cannot be asked now; any other ends the collection.
type Collector interface {
	Collect(ctx context.Context) ([]Document, error)
}

// unavailable says that a source is not there now.
type unavailable struct{ error }

// IsUnavailable says that err means a source which is not there, or must not
// be trusted, and is passed over.
func IsUnavailable(err error) bool {
	_, ok := errors.AsType[unavailable](err)
	_, gone := errors.AsType[detached](err)
	return ok || gone
}

// unconfigured says that a source is not there because no setting says where,
// which nobody needs to be told.
type unconfigured struct{ error }

// temporary says that a source cannot be asked now.
type temporary struct{ error }

// detached says that a device is not there now, maybe no longer: many are
// taken away after the first boot. What it delivered before goes on to count.
type detached struct{ unavailable }

// IsTemporary says that err means a source which cannot be asked now; what it
// delivered before goes on to count.
func IsTemporary(err error) bool {
	_, ok := errors.AsType[temporary](err)
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
	// Converged ends Run when nothing has changed for this long; 0: never.
	Converged time.Duration
	// Original makes it do as os-collect-config: a source that cannot be asked
	// is one that is not there, documents that go are no change, and the
	// command is a plain child.
	Original bool
	// Reread says that the settings have changed; nil: never. Run and Poll
	// then return ErrReread.
	Reread func() bool
	// HangUp delivers when somebody wants the settings to be read again.
	HangUp <-chan os.Signal
	// Repair, when set, looks after the configured files.
	Repair *Repair
	Stdout io.Writer // the command's output
	Log    io.Writer
	Say    func(format string, args ...any)

	said map[string]string     // what was last said of each source
	held map[string][]Document // what each source last delivered
	news bool                  // that is not what deliver has seen
	// applied says that the command has succeeded with what deliver has seen.
	applied bool
	restore bool // the command is to run because configured files are not as they should be
}

// ErrReread says that the program is to start again, with its settings as
// they are now.
var ErrReread = errors.New("the settings have changed")

// ask asks one source and holds what it delivers. later says that the source
// cannot be asked now.
func (r *Runner) ask(ctx context.Context, s Source) (later bool, err error) {
	if r.held == nil {
		r.held = map[string][]Document{}
	}
	before, had := r.held[s.Name]
	docs, err := s.Collect(ctx)
	for _, d := range docs {
		if err == nil && weight(d.Value, 1) > maxWeight {
			err = temporary{fmt.Errorf("document %s: more than %d MiB when it is written", d.Name, maxWeight>>20)}
		}
	}
	note := ""
	_, silent := errors.AsType[unconfigured](err)
	_, gone := errors.AsType[detached](err)
	switch {
	case (gone || IsTemporary(err)) && !r.Original:
		note = err.Error()
		if _, ok := r.held[s.Name]; !ok {
			if docs = r.Cache.recall(s.Name); docs != nil {
				r.held[s.Name] = docs
			}
		}
		if r.held[s.Name] != nil {
			note += "; going on with what it delivered before"
		}
	case silent:
		delete(r.held, s.Name)
	case IsUnavailable(err), IsTemporary(err):
		note = err.Error()
		delete(r.held, s.Name)
	case err != nil:
		return false, fmt.Errorf("source %s: %w", s.Name, err)
	default:
		var notes []string
		for _, d := range docs {
			if d.Note != "" {
				notes = append(notes, d.Note)
			}
		}
		note = strings.Join(notes, "; ")
		r.held[s.Name] = docs
	}
	r.note(s.Name, note)
	now, has := r.held[s.Name]
	r.news = r.news || had != has || !sameDocuments(before, now)
	return IsTemporary(err), nil
}

// maxWeight bounds a document as it is written, in bytes. Deep nesting makes
// much of little, by the blanks before each line.
const maxWeight = 32 << 20

// weight is about how many bytes a value takes when it is written, indented.
func weight(v any, depth int) int {
	n := depth + 1
	switch v := v.(type) {
	case string:
		n += len(v)
	case metadata.Number:
		n += len(v)
	case []any:
		for _, e := range v {
			n += weight(e, depth+1)
		}
		n += depth
	case *metadata.Object:
		for k, e := range v.All() {
			n += len(k) + weight(e, depth+1)
		}
		n += depth
	}
	return n
}

// sameDocuments says that two deliveries of a source make the same files.
func sameDocuments(a, b []Document) bool {
	if len(a) != len(b) || len(a) == 0 || &a[0] == &b[0] {
		return len(a) == len(b)
	}
	return slices.EqualFunc(a, b, func(a, b Document) bool {
		return a.Name == b.Name && bytes.Equal(a.Raw, b.Raw) && (a.Raw == nil) == (b.Raw == nil) &&
			metadata.Equal(a.Value, b.Value) && maps.EqualFunc(a.Keep, b.Keep, bytes.Equal)
	})
}

// collect asks every source.
func (r *Runner) collect(ctx context.Context) error {
	for _, s := range r.Sources {
		if _, err := r.ask(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// documents are what the sources last delivered, in their order.
func (r *Runner) documents() []Document { return slices.Concat(r.delivered()...) }

// delivered is what each source last delivered. A deployment of the same name
// as another document is called SOURCE%NAME: no other deployment is, as
// FileName escapes that sign.
func (r *Runner) delivered() [][]Document {
	all := make([][]Document, len(r.Sources))
	taken := map[string]bool{}
	for i, s := range r.Sources {
		all[i] = slices.Clone(r.held[s.Name])
		for _, d := range all[i] {
			taken[d.Name] = taken[d.Name] || !d.Deployment
		}
	}
	if r.Original {
		return all
	}
	for i, s := range r.Sources {
		for j := range all[i] {
			d := &all[i][j]
			if !d.Deployment {
				continue
			}
			for taken[d.Name] {
				d.Name = s.Name + "%" + d.Name
			}
			taken[d.Name] = true
		}
	}
	return all
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
	if err := r.collect(ctx); err != nil {
		return nil, err
	}
	all := &metadata.Object{}
	for _, d := range r.documents() {
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
	if err := r.collect(ctx); err != nil {
		return false, err
	}
	return r.deliver(ctx)
}

// deliver stores what the sources last delivered and runs the command if
// anything changed.
func (r *Runner) deliver(ctx context.Context) (changed bool, err error) {
	delivered := r.delivered()
	paths, names, err := r.Cache.Store(slices.Concat(delivered...))
	if err != nil {
		return false, err
	}
	if !r.Original {
		r.Cache.remember(r.Sources, delivered)
	}
	why := r.why(paths, names)
	if r.applied = len(paths) > 0 && why == ""; why == "" {
		return false, nil
	}
	r.Say("running %s (%s)", r.Command, why)
	if err := r.Cache.begin(); err != nil {
		return false, err
	}
	if err := r.run(ctx, paths); err != nil {
		return true, &CommandError{r.Command, err}
	}
	err = errors.Join(r.Cache.Commit(names), r.Cache.mark(r.Boot))
	r.applied = len(paths) > 0 && err == nil
	return true, err
}

// why says why the command is to run with the documents of these paths, of
// which those of these names have changed; empty: it is not.
func (r *Runner) why(paths, changed []string) string {
	succeeded, same := r.Cache.listed(paths)
	there := len(paths) > 0
	switch {
	case len(changed) > 0:
		return "changed: " + strings.Join(changed, ", ")
	case there && r.restore:
		return "to restore"
	case there && r.Boot != "" && !r.Cache.ranIn(r.Boot):
		return "for the first time in this boot"
	case there && !r.Original && !succeeded:
		return "it did not succeed the last time"
	case there && !r.Original && !same:
		return "other documents, or in another order"
	case r.Force:
		return "forced"
	}
	return ""
}
