package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// diary is what a runner says, for several goroutines.
type diary struct {
	mu   sync.Mutex // guards the field below
	text strings.Builder
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

// await waits until a condition holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s: did not happen", what)
}

// start runs r until the test ends; the function it returns ends it early.
func start(t *testing.T, r *Runner) (log *diary, stop func() error) {
	t.Helper()
	log = &diary{}
	r.Log, r.Stdout, r.Say = log, log, func(format string, args ...any) { fmt.Fprintf(log, format+"\n", args...) }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-ended })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return log, stop
}

// replace writes a file as programs should: beside it, then renamed.
func replace(t *testing.T, path, content string) {
	t.Helper()
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// Each way in which a file can change wakes the runner, and nothing else does.
func TestRunFollowsFiles(t *testing.T) {
	dir := t.TempDir()
	local, seen := filepath.Join(dir, "later/local"), filepath.Join(dir, "seen")
	heat := filepath.Join(dir, "later/heat")
	r := &Runner{
		Cache:   &Cache{Dir: filepath.Join(dir, "cache")},
		Sources: []Source{{"local", Local{Dirs: []string{local}}}, {"heat_local", HeatLocal{[]string{heat}}}},
		Command: `for f in $(echo $OS_CONFIG_FILES | tr : ' '); do cat $f; done | tr -d ' \n' >` + seen + ".new; mv " + seen + ".new " + seen,
		Min:     time.Hour, Max: time.Hour,
	}
	log, stop := start(t, r)
	steps := []struct {
		name string
		do   func()
		want string
	}{
		{"the directory appears", func() { files(t, local, map[string]string{"a": "1"}) }, "1"},
		{"a file is replaced", func() { replace(t, local+"/a", "2") }, "2"},
		{"a file is written in place", func() { files(t, local, map[string]string{"a": "3"}) }, "3"},
		{"a file comes", func() { replace(t, local+"/b", `"x"`) }, `3"x"`},
		{"another source's file comes", func() { replace(t, heat, `[4]`) }, `3"x"[4]`},
		{"that is replaced", func() { replace(t, heat, `[5]`) }, `3"x"[5]`},
		{"a file goes", func() { os.Remove(local + "/b") }, `3[5]`},
		{"a link comes", func() { os.Symlink("a", local+"/c") }, `33[5]`},
		{"a link goes", func() { os.Remove(local + "/c") }, `3[5]`},
		{"a file comes again", func() { replace(t, local+"/b", `8`) }, `38[5]`},
		{"a file is moved away", func() { os.Rename(local+"/b", filepath.Join(dir, "b")) }, `3[5]`},
		{"a file is no JSON", func() { replace(t, local+"/a", "{") }, `{[5]`},
		{"a directory is replaced", func() {
			files(t, local+".new", map[string]string{"a": "6"})
			os.Rename(local, local+".old")
			os.Rename(local+".new", local)
		}, "6[5]"},
		{"and changes", func() { replace(t, local+"/a", "7") }, "7[5]"},
		{"all goes but one", func() { os.RemoveAll(local) }, "[5]"},
	}
	await(t, "the start", func() bool { return strings.Contains(log.String(), "source heat_local: no metadata") })
	for _, s := range steps {
		s.do()
		await(t, s.name, func() bool { return read(seen) == s.want })
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v", err)
	}
}

// changing delivers one value after another, the last for ever.
type changing struct {
	values []any
	asked  int
}

func (c *changing) Collect(context.Context) ([]Document, error) {
	v := c.values[min(c.asked, len(c.values)-1)]
	c.asked++
	if err, ok := v.(error); ok {
		return nil, err
	}
	return []Document{{Name: "x", Value: v}}, nil
}

func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			original bool
			want     []int // seconds of the polls, without the jitter
		}{
			"original": {true, []int{0, 1, 3, 7, 15, 23, 31, 39}},
			"ours":     {false, []int{0, 1, 2, 4, 8, 16, 24, 32}},
		} {
			source := &changing{values: []any{"a", "b"}}
			begin := time.Now()
			var at []int
			r := &Runner{
				Cache: &Cache{Dir: t.TempDir()}, Min: time.Second, Max: 8 * time.Second, Original: tc.original, Command: "true",
				Sources: []Source{{"x", source}}, Say: t.Logf,
			}
			ctx, cancel := context.WithCancel(t.Context())
			r.Sources[0].Collector = counting{source, func() {
				at = append(at, int((time.Since(begin) + time.Second/2).Seconds()))
				if len(at) == len(tc.want) {
					cancel()
				}
			}}
			if tc.original {
				_ = r.Poll(ctx)
			} else {
				_ = r.Run(ctx)
			}
			if len(at) != len(tc.want) {
				t.Fatalf("%s: polled at %v", name, at)
			}
			for i := range at {
				// Ours are up to an eighth early, each.
				if late := at[i] > tc.want[i]; late || at[i] < tc.want[i]*7/8-1 {
					t.Errorf("%s: polled at %v, want %v", name, at, tc.want)
					break
				}
			}
		}
	})
}

type counting struct {
	Collector
	count func()
}

func (c counting) Collect(ctx context.Context) ([]Document, error) {
	c.count()
	return c.Collector.Collect(ctx)
}

func TestConverged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &changing{values: []any{"a", "b", "b", "c"}}
		r := &Runner{
			Cache: &Cache{Dir: t.TempDir()}, Min: time.Second, Max: 2 * time.Second, Command: "true", Converged: 10 * time.Second,
			Sources: []Source{{"x", source}}, Say: t.Logf,
		}
		begin := time.Now()
		if err := r.Run(t.Context()); err != nil {
			t.Errorf("Run = %v", err)
		}
		if took := time.Since(begin); took < 11*time.Second || took > 15*time.Second {
			t.Errorf("ended after %s", took)
		}
		// A command that fails is no convergence.
		r.Command, source.values = "false", []any{"d"}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run with a failing command = %v", err)
		}
	})
}

// A source that cannot be asked goes on to count, for the same process and
// the next.
func TestOutage(t *testing.T) {
	dir := t.TempDir()
	down := temporary{errors.New("no connection")}
	for i, step := range []struct {
		fresh bool
		value any
		other string
		want  string
	}{
		{value: "a", other: "1", want: `"a"1`},
		{value: down, other: "2", want: `"a"2`},
		{fresh: true, value: down, other: "3", want: `"a"3`},
		{value: "b", other: "3", want: `"b"3`},
		{value: unavailable{errors.New("gone")}, other: "3", want: `3`},
		{fresh: true, value: down, other: "4", want: `4`},
	} {
		var r *Runner
		seen := filepath.Join(dir, "seen")
		if r == nil || step.fresh {
			r = &Runner{
				Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Say: t.Logf,
				Command: `for f in $(echo $OS_CONFIG_FILES | tr : ' '); do cat $f; done >` + seen,
			}
		}
		r.Sources = []Source{{"x", &changing{values: []any{step.value}}}, {"other", &fake{value: step.other}}}
		if _, err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := read(seen); got != step.want {
			t.Errorf("step %d: the command saw %q, want %q", i, got, step.want)
		}
	}
}

func TestFailedCommandRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		log := &diary{}
		r := &Runner{
			Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Min: time.Second, Max: 4 * time.Second,
			Command: `echo x >>` + dir + `/runs; [ $(wc -l <` + dir + `/runs) -ge 4 ]`, Converged: time.Minute,
			Sources: []Source{{"x", quiet{&changing{values: []any{"a"}}}}},
			Say:     func(format string, args ...any) { fmt.Fprintf(log, format+"\n", args...) },
		}
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(read(dir+"/runs"), "x"); n != 4 {
			t.Errorf("ran %d times, want 4: %s", n, log)
		}
		for _, pause := range []string{"1s", "2s", "4s"} {
			if !strings.Contains(log.String(), "exit status 1; trying again in "+pause+"\n") {
				t.Errorf("no pause of %s: %s", pause, log)
			}
		}
	})
}

// quiet is a source that never says that it changed.
type quiet struct{ Collector }

func (quiet) Notify(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

func TestReread(t *testing.T) {
	for name, run := range map[string]func(*Runner, context.Context) error{"Run": (*Runner).Run, "Poll": (*Runner).Poll} {
		r := &Runner{
			Cache: &Cache{Dir: t.TempDir()}, Min: time.Hour, Max: time.Hour, Command: "true", Sources: []Source{{"x", quiet{&fake{value: "1"}}}}, Say: t.Logf,
			Reread: func() bool { return true },
		}
		if err := run(r, t.Context()); !errors.Is(err, ErrReread) {
			t.Errorf("%s, settings changed: %v", name, err)
		}
		hup := make(chan os.Signal, 1)
		hup <- os.Interrupt
		r.Reread, r.HangUp = nil, hup
		if err := run(r, t.Context()); !errors.Is(err, ErrReread) {
			t.Errorf("%s, told to: %v", name, err)
		}
	}
}

func TestFileName(t *testing.T) {
	long := strings.Repeat("x", 300)
	seen := map[string]string{}
	for in, want := range map[string]string{
		"a": "a", "a b-c_d.e": "a b-c_d.e", "é": "é", "../x": "%2E.%2Fx", "a/b": "a%2Fb", "..": "%2E.", ".": "%2E", "": "%", "a:b": "a%3Ab", "%2F": "%252F", "a\nb": "a%0Ab",
		"\x00": "%00", "os_config_files": "%6Fs_config_files", long: FileName(long), long + "y": FileName(long + "y"),
	} {
		got := FileName(in)
		if got != want || len(got) > maxFileName || strings.ContainsAny(got, "/:\n\x00") || strings.HasPrefix(got, ".") {
			t.Errorf("FileName(%q) = %q, want %q", in, got, want)
		}
		if o, ok := seen[got]; ok {
			t.Errorf("FileName(%q) = FileName(%q) = %q", in, o, got)
		}
		seen[got] = in
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	c := &Cache{Dir: filepath.Join(dir, "cache"), Backup: filepath.Join(dir, "backup")}
	files(t, c.Backup, map[string]string{"old": "x"})
	if _, _, err := c.Store([]Document{{Name: "x", Value: "v"}}); err != nil {
		t.Fatal(err)
	}
	got := []string{read(c.Backup + "/x.json"), read(c.Backup + "/old")}
	if d := cmp.Diff([]string{`"v"`, ""}, got); d != "" {
		t.Errorf("backup (-want +got):\n%s", d)
	}
	for _, bad := range []string{dir, c.Dir, c.Dir + "/x", "/"} {
		c.Backup = bad
		if _, _, err := c.Store([]Document{{Name: "y", Value: "v"}}); err == nil || !strings.Contains(err.Error(), "would replace the cache") {
			t.Errorf("backup to %s: %v", bad, err)
		}
		if read(c.Dir+"/x.json") == "" {
			t.Fatalf("backup to %s removed the cache", bad)
		}
	}
}
