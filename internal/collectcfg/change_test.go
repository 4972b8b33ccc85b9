package collectcfg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
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

// Without a command that succeeded nothing converges.
func TestConvergedWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &changing{values: []any{unavailable{errors.New("refused")}}}
		r := &Runner{
			Cache: &Cache{Dir: t.TempDir()}, Min: time.Second, Max: 2 * time.Second, Command: "true", Converged: 5 * time.Second,
			Sources: []Source{{"x", source}}, Say: t.Logf,
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run without documents = %v", err)
		}
		source.values = []any{"a"}
		if err := r.Run(t.Context()); err != nil {
			t.Errorf("Run = %v", err)
		}
		r.Command = "false" // that another process ran it counts
		if err := r.Run(t.Context()); err != nil {
			t.Errorf("Run again = %v", err)
		}
	})
}

// A command that failed is tried again when it was said, not at each poll.
func TestFailedCommandWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		began := time.Now()
		var at []time.Duration
		r := &Runner{
			Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Min: time.Second, Max: time.Minute, Command: "false",
			Sources: []Source{{"x", &changing{values: []any{"a"}}}},
			Say: func(format string, args ...any) {
				if strings.Contains(format, "trying") {
					at = append(at, time.Since(began), args[1].(time.Duration))
				}
			},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		_ = r.Run(ctx)
		if len(at) < 10 {
			t.Fatalf("tried at %v", at)
		}
		for i := 2; i < len(at); i += 2 {
			if waited, said := at[i]-at[i-2], at[i-1]; waited < said*7/8 || waited > said {
				t.Errorf("waited %s, having said %s", waited, said)
			}
		}
	})
}

// list is a source of some documents.
type list []Document

func (l list) Collect(context.Context) ([]Document, error) { return l, nil }

// A deployment gives way to what has its name, and nothing is lost.
func TestDeploymentsGiveWay(t *testing.T) {
	content, err := metadata.Parse("x", []byte(`{"deployments": [
		{"name": "nocloud", "config": 1}, {"name": "request", "config": 2}, {"name": "a", "config": 3},
		{"name": "b", "config": 4}, {"name": "request%nocloud", "config": 5}]}`))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := explode("request", content.(*metadata.Object), []string{"deployments"})
	if err != nil {
		t.Fatal(err)
	}
	docs[0].Value = "r"
	seed, local := list{{Name: "nocloud", Value: "n"}}, list{{Name: "a", Value: "l"}, {Name: "request%a", Value: "odd"}}
	cfn := list{{Name: "cfn", Value: "c"}, {Name: "b", Value: "6", Deployment: true}}
	dir := t.TempDir()
	r := &Runner{
		Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Say: t.Logf, Log: t.Output(),
		Sources: []Source{{"request", list(docs)}, {"nocloud", seed}, {"local", local}, {"cfn", cfn}},
		Command: `for f in $(echo $OS_CONFIG_FILES | tr : ' '); do basename $f .json; cat $f; echo; done >` + dir + "/seen",
	}
	want := `request "r"; request%nocloud 1; request%request 2; request%request%a 3; b 4; request%25nocloud 5; ` +
		`nocloud "n"; a "l"; request%a "odd"; cfn "c"; cfn%b "6"; `
	if _, err := r.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for i, line := range strings.Split(strings.TrimSpace(read(dir+"/seen")), "\n") {
		got.WriteString(line + []string{" ", "; "}[i%2])
	}
	if got.String() != want {
		t.Errorf("the command saw %s\nwant %s", &got, want)
	}
	all, err := r.Print(t.Context())
	if v, _ := all.Get("nocloud"); err != nil || v != "n" {
		t.Errorf("Print = %s, %v", metadata.JSON(all), err)
	}
	// After a restart without the server all have the names they had.
	again := *r
	again.held = nil
	again.Sources[0].Collector = &fake{err: temporary{errors.New("down")}}
	if changed, err := again.Once(t.Context()); changed || err != nil {
		t.Errorf("Once without the server = %v, %v", changed, err)
	}
}

// Documents that cannot be stored leave the cache as it is.
func TestNothingHalfStored(t *testing.T) {
	c := &Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	if _, _, err := c.Store([]Document{{Name: "a"}, {Name: "b"}, {Name: "a"}}); command.Status(err) != command.StatusUsage {
		t.Errorf("Store = %v", err)
	}
	if left, _ := filepath.Glob(c.Dir + "/*"); left != nil {
		t.Errorf("left behind: %v", left)
	}
}
