package step

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/pipeline"
)

// script runs a program of the site: what is tested elsewhere, what tells
// others. Its exit status is its verdict.
type script struct {
	env  Env
	with scriptWith
}

type scriptWith struct {
	Run         string            // the program, relative to the pipeline file
	Args        []string          // its arguments
	Environment map[string]string // added to what it is told
	// Evidence is the kind of evidence that the program's verdict is; empty means
	// that it is none.
	Evidence string
}

// tempFail is the exit status that blames the testbed: EX_TEMPFAIL of
// sysexits.h.
const tempFail = 75

func newScript(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	var w scriptWith
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	if w.Run == "" {
		return nil, p.Errorf(stage, "run", "with.run is missing: the program to run, relative to this file")
	}
	if strings.HasPrefix(w.Evidence, "libvirt-") || strings.HasPrefix(w.Evidence, "metal-") {
		return nil, p.Errorf(stage, "evidence", "with.evidence %q: that kind is left by suites on such machines alone", w.Evidence)
	}
	if w.Evidence != "" && !pipeline.Kind(w.Evidence) {
		return nil, p.Errorf(stage, "evidence", "with.evidence %q: lower case letters, digits and '-' only", w.Evidence)
	}
	for name := range w.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.HasPrefix(name, "GOLDSMITH_") {
			return nil, p.Errorf(stage, "environment", "with.environment: %q cannot be set", name)
		}
	}
	return &script{env, w}, nil
}

// Check implements pipeline.Checker.
func (s *script) Check(context.Context) error {
	file := s.env.path(s.with.Run)
	if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
		return command.BadInput(fmt.Errorf("%s: not a program that can be run (%w)", file, err), "with.run names an executable file")
	}
	return nil
}

// Run implements pipeline.Step.
func (s *script) Run(ctx context.Context, j *pipeline.Job) (*pipeline.Outcome, error) {
	if s.with.Evidence != "" {
		if err := needImage(j); err != nil {
			return nil, err
		}
	}
	file, err := filepath.Abs(s.env.path(s.with.Run))
	if err != nil {
		return nil, err
	}
	started := time.Now().UTC()
	err = command.Exec{Args: append([]string{file}, s.with.Args...), Dir: filepath.Dir(file), Env: s.environ(j), Log: j.Log}.Run(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	exit, ran := errors.AsType[*command.ExitError](err)
	switch {
	case err != nil && !ran:
		return nil, err
	case ran && exit.Status == tempFail:
		return nil, &infraError{err}
	}
	if s.with.Evidence != "" {
		if err := s.attach(j, started, err); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, &testFailure{evidence.TestFault, err}
	}
	return &pipeline.Outcome{}, nil
}

// environ is what the program is told. It has our own environment but for what
// is set.
func (s *script) environ(j *pipeline.Job) []string {
	// Where the database is, and by which password, is nothing for a script.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "IMGPIPE_DATABASE=") })
	for name, value := range s.with.Environment {
		env = append(env, name+"="+value)
	}
	for name, value := range j.Inputs {
		env = append(env, "GOLDSMITH_INPUT_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
	}
	return append(env, "GOLDSMITH_RUN="+j.Run, "GOLDSMITH_STAGE="+j.Stage, fmt.Sprintf("GOLDSMITH_ATTEMPT=%d", j.Attempt),
		"GOLDSMITH_IMAGE="+j.Image, "GOLDSMITH_RESULTS="+absolute(j.Dir), "GOLDSMITH_LAYOUT="+absolute(s.env.Store.Images.Dir()))
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// attach leaves the verdict as evidence.
func (s *script) attach(j *pipeline.Job, started time.Time, failed error) error {
	test := evidence.Test{Name: filepath.Base(s.with.Run), Result: evidence.Pass, Seconds: time.Since(started).Seconds()}
	if failed != nil {
		test.Result, test.Reason, test.Class = evidence.Fail, machineLine(failed), evidence.TestFault
	}
	e := &evidence.Evidence{Kind: s.with.Evidence, Subject: j.Image, Run: j.Run, Stage: j.Stage, Attempt: j.Attempt,
		Started: started, Ended: time.Now().UTC(), Machine: evidence.Machine{Driver: "script"}, Tests: []evidence.Test{test}}
	e.Result = evidence.Judge(e.Tests)
	junit, err := e.JUnit()
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Write(filepath.Join(j.Dir, "junit.xml"), junit, 0o644), s.env.Store.Attach(e))
}

func machineLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// infraError says that the testbed failed.
type infraError struct{ error }

// Infra implements pipeline.Infra.
func (*infraError) Infra() bool { return true }

func (e *infraError) Unwrap() error { return e.error }
