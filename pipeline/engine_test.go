package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
)

// fake is a step that does what a function says.
type fake func(ctx context.Context, j *Job) (*Outcome, error)

func (f fake) Run(ctx context.Context, j *Job) (*Outcome, error) { return f(ctx, j) }

func engine(t *testing.T, steps map[string]Step) *Engine {
	t.Helper()
	p := command.NewProgress("test", command.IO{Stdout: io.Discard, Stderr: new(bytes.Buffer)}, false)
	t.Cleanup(p.Close)
	return &Engine{Dir: t.TempDir(), Steps: steps, Progress: p}
}

func summary(r *Run) string {
	var out []string
	for _, s := range r.Stages {
		out = append(out, fmt.Sprintf("%s=%s", s.Name, s.Status))
	}
	return string(r.Status) + ": " + strings.Join(out, " ")
}

func TestEngine(t *testing.T) {
	var order []string
	ok := fake(func(_ context.Context, j *Job) (*Outcome, error) {
		order = append(order, j.Stage+"@"+j.Image)
		fmt.Fprintln(j.Log, "hello")
		if j.Stage == "build" {
			return &Outcome{Image: "sha256:1"}, nil
		}
		return nil, nil
	})
	fails := fake(func(context.Context, *Job) (*Outcome, error) { return nil, errors.New("2 of 5 tests failed") })
	steps := map[string]Step{"build": ok, "smoke": ok, "promote": ok}
	e := engine(t, steps)
	r, err := e.Run(t.Context(), stages("build smoke promote"), "p.yaml")
	if got, want := summary(r), "passed: build=passed smoke=passed promote=passed"; got != want || err != nil {
		t.Errorf("run = %s, %v; want %s", got, err, want)
	}
	// Data, not code: another order is another run.
	order = nil
	if _, err := e.Run(t.Context(), stages("smoke build"), "p.yaml"); err != nil {
		t.Error(err)
	}
	if got, want := strings.Join(order, " "), "smoke@ build@"; got != want {
		t.Errorf("order = %s; want %s", got, want)
	}
	steps["smoke"] = fails
	r, err = e.Run(t.Context(), stages("build smoke promote"), "p.yaml")
	if got, want := summary(r), "failed: build=passed smoke=failed promote=skipped"; got != want || command.Status(err) != 1 {
		t.Errorf("run = %s, %v; want %s", got, err, want)
	}
	if want := "run 3: stage smoke failed: 2 of 5 tests failed"; err.Error() != want {
		t.Errorf("error = %q; want %q", err, want)
	}
	steps["smoke"] = fake(func(context.Context, *Job) (*Outcome, error) {
		return nil, command.Missing(errors.New("no libvirtd is running"), "start it")
	})
	_, err = e.Run(t.Context(), stages("build smoke promote"), "p.yaml")
	if command.Status(err) != command.StatusMissing || command.HintOf(err) != "start it" {
		t.Errorf("a stage that misses something: status %d, hint %q", command.Status(err), command.HintOf(err))
	}
	got, err := ReadRun(e.Dir, "3")
	if err != nil || summary(got) != summary(r) {
		t.Errorf("the record is %v, %v", got, err)
	}
	log, _ := os.ReadFile(filepath.Join(e.Dir, "runs", "3", "build", "1", "log"))
	if string(log) != "hello\n" {
		t.Errorf("log = %q", log)
	}
}

// picky is a step that misses something.
type picky struct{ fake }

func (picky) Check(context.Context) error {
	return command.Missing(errors.New("libvirtd is not installed"), "install it")
}

// What is missing is said before anything runs.
func TestEngineChecksFirst(t *testing.T) {
	never := fake(func(context.Context, *Job) (*Outcome, error) {
		t.Error("a stage ran although another one cannot")
		return nil, nil
	})
	e := engine(t, map[string]Step{"build": never, "smoke": picky{never}})
	r, err := e.Run(t.Context(), stages("build smoke"), "p.yaml")
	if r != nil || err == nil || err.Error() != "stage smoke: libvirtd is not installed" ||
		command.Status(err) != command.StatusMissing || command.HintOf(err) != "install it" {
		t.Errorf("run = %v, %v (hint %q)", r, err, command.HintOf(err))
	}
	if ids, _ := runIDs(e.Dir); len(ids) > 0 {
		t.Errorf("runs on record: %v", ids)
	}
}

func TestEngineTimeoutAndCancel(t *testing.T) {
	slow := fake(func(ctx context.Context, _ *Job) (*Outcome, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	e := engine(t, map[string]Step{"build": slow})
	p := stages("build")
	p.Stages[0].Timeout = 20 * time.Millisecond
	_, err := e.Run(t.Context(), p, "p.yaml")
	if err == nil || err.Error() != "run 1: stage build failed: did not end within 20ms" {
		t.Errorf("timeout: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	r, err := e.Run(ctx, stages("build"), "p.yaml")
	if r.Status != Interrupted || command.Status(err) != command.StatusInterrupted {
		t.Errorf("cancelled run = %s, %v", summary(r), err)
	}
}

// A second run is refused while one goes on; a run whose process died is
// marked by the next.
func TestEngineLockAndDeadRuns(t *testing.T) {
	var e *Engine
	inside := fake(func(context.Context, *Job) (*Outcome, error) {
		if !Going(e.Dir) {
			t.Error("Going does not see the run")
		}
		_, err := e.Run(context.Background(), stages("build"), "p.yaml")
		return nil, err
	})
	e = engine(t, map[string]Step{"build": inside})
	_, err := e.Run(t.Context(), stages("build"), "p.yaml")
	if err == nil || !strings.Contains(err.Error(), "another run is going on") {
		t.Errorf("a second run: %v", err)
	}
	if Going(e.Dir) {
		t.Error("Going sees a run that has ended")
	}
	dead := &Run{ID: "2", Status: Running, Stages: []*StageRun{{Name: "build", Status: Running, Attempts: []Attempt{{Number: 1, Status: Running}}}}}
	if err := os.MkdirAll(e.runDir(dead), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := e.save(dead); err != nil {
		t.Fatal(err)
	}
	e.Steps["build"] = fake(func(context.Context, *Job) (*Outcome, error) { return nil, nil })
	if r, err := e.Run(t.Context(), stages("build"), "p.yaml"); err != nil || r.ID != "3" {
		t.Errorf("the next run: %v, %v", r, err)
	}
	r, err := ReadRun(e.Dir, "2")
	if err != nil || summary(r) != "interrupted: build=interrupted" || r.Stages[0].Attempts[0].Status != Interrupted {
		t.Errorf("the dead run is %s, %v", summary(r), err)
	}
}

// After an interrupt nothing more is started, promotions least of all, and the
// record says the same as the exit status.
func TestNothingStartsAfterAnInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	last := fake(func(context.Context, *Job) (*Outcome, error) {
		cancel()
		return nil, nil // it ended well just before
	})
	never := fake(func(context.Context, *Job) (*Outcome, error) {
		t.Error("a stage was started after the interrupt")
		return nil, nil
	})
	e := engine(t, map[string]Step{"smoke": last, "promote": never})
	r, err := e.Run(ctx, stages("smoke promote<"), "p.yaml")
	if command.Status(err) != command.StatusInterrupted || summary(r) != "interrupted: smoke=passed promote=todo" {
		t.Errorf("run = %s, %v", summary(r), err)
	}
	if got, err := ReadRun(e.Dir, "1"); err != nil || got.Status != Interrupted {
		t.Errorf("the record is %v, %v", got, err)
	}
}

// When the engine itself fails, the record does not stay "running".
func TestEngineFailure(t *testing.T) {
	var e *Engine
	spoil := fake(func(_ context.Context, j *Job) (*Outcome, error) {
		return nil, os.WriteFile(filepath.Join(e.Dir, "runs", j.Run, "smoke"), nil, 0o644)
	})
	e = engine(t, map[string]Step{"build": spoil, "smoke": spoil})
	r, err := e.Run(t.Context(), stages("build smoke"), "p.yaml")
	if err == nil || r.Status != Failed || !strings.Contains(r.Reason, "not a directory") {
		t.Errorf("run = %s (%s), %v", summary(r), r.Reason, err)
	}
}

// A record is somebody's file: whatever is in it, the next run goes on or says
// which one to remove.
func TestDamagedRecords(t *testing.T) {
	for record, want := range map[string]string{
		`{"id":"../../x","status":"running","stages":[{"name":"a","status":"running"}]}`: "",
		`{"status":"running","stages":[null]}`:                                           "",
		``:                                                                               "/runs/1/run.json: unexpected end of JSON input",
	} {
		e := engine(t, map[string]Step{"build": fake(func(context.Context, *Job) (*Outcome, error) { return nil, nil })})
		dir := filepath.Join(e.Dir, "runs", "1")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "run.json"), []byte(record), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := e.Run(t.Context(), stages("build"), "p.yaml")
		got := ""
		if err != nil {
			got = strings.TrimPrefix(err.Error(), e.Dir)
			if !strings.Contains(command.HintOf(err), dir) {
				t.Errorf("the hint does not name %s: %q", dir, command.HintOf(err))
			}
		}
		if got != want {
			t.Errorf("with the record %s: %q; want %q", record, got, want)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	const head = "apiVersion: goldsmith/v1\nname: t\n"
	for in, want := range map[string]string{
		"name: t\n":                              "f:1: apiVersion \"\": this program reads \"goldsmith/v1\"\nf:1: no stages",
		head:                                     "f:1: no stages",
		head + "foo: 1":                          "f:1: no stages\nf:3: unknown field \"foo\"",
		head + "stages:\n- {name: a, uses: x}\n": `f:4: stage a: uses "x": expected one of fake`,
		head + "stages:\n- {name: a, uses: fake}\n- {name: a, uses: fake}\n":               "f:5: stage a: there are two",
		head + "stages:\n- {name: a, uses: fake, needs: [b]}\n":                            "f:4: stage a needs b, which is not in the file",
		head + "stages:\n- {name: a, uses: fake, needs: [b]}\n- {name: b, uses: fake}\n":   "f:4: stage a needs itself, directly or through others",
		head + "stages:\n- {name: a, uses: fake, timeout: 5}\n":                            `f:4: stage a: timeout "5": expected a duration such as 90s or 10m`,
		head + "stages:\n- {name: A, uses: fake}\n":                                        `f:4: stage name "A": lower case letters, digits and '-' only`,
		head + "stages:\n- {name: a, uses: fake}\nchannels:\n- {name: c, requires: [X]}\n": `f:6: channel c: "X" is not a kind of evidence`,
		head + "stages:\n- {name: a, uses: fake}\nchannels:\n- {name: c, requires: [x]}\n": "",
	} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(in), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file, []string{"fake"})
		got := ""
		if err != nil {
			got = strings.ReplaceAll(err.Error(), file, "f")
		}
		if got != want {
			t.Errorf("Load(%q) = %q; want %q", in, got, want)
		}
	}
}

// shaky is an error of the testbed.
type shaky struct{ infra bool }

func (shaky) Error() string { return "the controller is silent" }
func (s shaky) Infra() bool { return s.infra }

// What the testbed failed in is tried again, once; what was tested is judged.
func TestInfraIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		fails, attempts int
		err             error
		want            Status
	}{
		{1, 2, fmt.Errorf("power on: %w", shaky{true}), Passed},
		{9, 2, shaky{true}, Failed},
		{1, 1, shaky{false}, Failed},
		{1, 1, errors.New("1 of 2 tests failed"), Failed},
	} {
		tries := 0
		e := engine(t, map[string]Step{"smoke": fake(func(_ context.Context, j *Job) (*Outcome, error) {
			if tries++; j.Attempt != tries {
				t.Errorf("attempt %d is called %d", tries, j.Attempt)
			}
			if tries <= c.fails {
				return nil, c.err
			}
			return nil, nil
		})})
		r, err := e.Run(t.Context(), stages("smoke"), "p.yaml")
		s := r.Stages[0]
		if s.Status != c.want || (err == nil) != (c.want == Passed) || len(s.Attempts) != c.attempts {
			t.Errorf("%v: %s after %d attempts, %v; want %s after %d", c.err, s.Status, len(s.Attempts), err, c.want, c.attempts)
		}
		if s.Attempts[0].Status != Failed || s.Attempts[0].Infra != isInfra(c.err) || s.Attempts[0].Reason == "" {
			t.Errorf("the first attempt is recorded as %+v", s.Attempts[0])
		}
	}
}
