package collectcfg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What counts is what the command last succeeded with, in its order.
func TestDocumentsComeBack(t *testing.T) {
	dir := t.TempDir()
	a, b := &fake{value: "1"}, &fake{value: "2"}
	one, two := Source{"one", renamed{a, "a"}}, Source{"two", renamed{b, "b"}}
	gone := unavailable{errors.New("gone")}
	for i, step := range []struct {
		sources []Source
		err     error // of two
		command string
		want    string // what the command saw; "" when it was not to run
	}{
		{sources: []Source{one, two}, want: "12"},
		{sources: []Source{one, two}},
		{sources: []Source{one, two}, err: gone, want: "1"},
		{sources: []Source{one, two}, want: "12"},
		{sources: []Source{two, one}, want: "21"},
		{sources: []Source{two, one}},
		{sources: []Source{one}, want: "1", command: "; exit 1"}, // it may have done anything
		{sources: []Source{two, one}, want: "21"},
		{sources: []Source{two, one}},
	} {
		seen := filepath.Join(dir, "seen")
		b.err = step.err
		r := &Runner{
			Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Sources: step.sources, Say: t.Logf, Log: t.Output(),
			Command: `for f in $(echo $OS_CONFIG_FILES | tr : ' '); do cat $f; done >` + seen + step.command,
		}
		_ = os.Remove(seen)
		_, err := r.Once(t.Context())
		if got := read(seen); got != step.want || (err != nil) != (step.command != "") {
			t.Errorf("step %d: the command saw %q, %v; want %q", i, got, err, step.want)
		}
	}
}

// renamed delivers one document under another name.
type renamed struct {
	Collector
	name string
}

func (r renamed) Collect(ctx context.Context) ([]Document, error) {
	docs, err := r.Collector.Collect(ctx)
	for i := range docs {
		docs[i].Name = r.name
	}
	return docs, err
}
