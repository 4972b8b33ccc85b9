package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/testbed"
	"goldsmith/testbed/machinetest"
)

// A suite of several parts keeps its tests in the subject: each part is one,
// and the first that fails ends the suite.

// errFailed ends a suite: a part failed, and its test says why.
var errFailed = errors.New("a part of the suite failed")

// shown is an error that the machine itself shows: the image's fault.
type shown string

func (e shown) Error() string { return string(e) }

// part runs one part of a suite as a test. The error is errFailed when the part
// failed; any other is the testbed's, and ends the stage.
func (s *subject) part(ctx context.Context, name string, f func(context.Context) error) error {
	step := s.job.Progress.Start(name)
	started := time.Now()
	err := f(ctx)
	step.Done(err, "")
	if ctx.Err() != nil && !isLate(ctx) {
		return context.Cause(ctx)
	}
	if _, infra := errors.AsType[*testbed.Fault](err); infra {
		return err
	}
	t := evidence.Test{Name: name, Element: s.suite, Result: evidence.Pass, Seconds: time.Since(started).Seconds()}
	if err != nil {
		t.Result, t.Reason = evidence.Fail, machinetest.OneLine(err.Error())
		t.Class, t.Because = machinetest.Classify(err, nil)
		if said, ok := errors.AsType[shown](err); ok {
			t.Class, t.Because = evidence.ImageFault, "the machine shows it: "+machinetest.OneLine(string(said))
		}
	}
	s.tests = append(s.tests, t)
	if err != nil {
		return errFailed
	}
	return nil
}

// skip records a part that does not apply.
func (s *subject) skip(name, why string) {
	s.tests = append(s.tests, evidence.Test{Name: name, Element: s.suite, Result: evidence.Skip, Reason: why})
}

// measure records a figure, in place of an earlier one of that name.
func (s *subject) measure(name string, value float64, unit string) {
	s.figures = slices.DeleteFunc(s.figures, func(m evidence.Measurement) bool { return m.Name == name })
	s.figures = append(s.figures, evidence.Measurement{Name: name, Value: value, Unit: unit})
}

// inParts runs a suite that is made of parts, and keeps what its machine says at
// the end.
func (s *subject) inParts(ctx context.Context, f func(context.Context) error) ([]evidence.Test, error) {
	err := f(ctx)
	if s.ssh != nil {
		s.keepJournal(ctx)
	}
	if errors.Is(err, errFailed) {
		err = nil
	}
	return s.tests, err
}

// begin installs a machine with an image and logs in once it has configured
// itself.
func (s *subject) begin(ctx context.Context, digest string) error {
	if err := s.install(ctx, digest); err != nil {
		return err
	}
	configured, err := s.boot(ctx)
	if err != nil {
		return err
	}
	s.tests = append(s.tests, configured)
	if err := s.reach(ctx); err != nil {
		return err
	}
	if configured.Result != evidence.Pass {
		return errFailed
	}
	return s.part(ctx, "login", s.login)
}

// hasSlots tells whether the machine can be asked about its slots.
func (s *subject) hasSlots() bool { return slices.Contains(s.img.Elements, "imgupdate") }

// smokeAgain runs the elements' smoke tests at a later moment, under which their
// names are told apart.
func (s *subject) smokeAgain(ctx context.Context, img *registry.Image, moment string) error {
	tests, err := s.runTests(ctx, img, "tests-"+moment, nil)
	for i := range tests {
		tests[i].Name = moment + "/" + tests[i].Name
	}
	s.tests = append(s.tests, tests...)
	if err == nil && len(tests) > 0 && evidence.Judge(tests) != evidence.Pass {
		return errFailed
	}
	return err
}

// quiet looks for what is always bad on the console since mark.
func (s *subject) quiet(mark int64) error {
	text, err := s.m.Console().Text()
	if err != nil {
		return err
	}
	if found := machinetest.Scan(text[min(mark, int64(len(text))):]); len(found) > 0 {
		return shown(found[0].String())
	}
	return nil
}

// output runs a command line on the machine, for at most askLimit, and once more
// when the connection had gone.
func (s *subject) output(ctx context.Context, line string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askLimit, fmt.Errorf("no answer within %s", askLimit))
	defer cancel()
	if err := s.ssh.Wait(ctx); err != nil {
		return "", err
	}
	text, err := s.ssh.Output(ctx, line)
	if _, lost := errors.AsType[*testbed.UnreachableError](err); lost && ctx.Err() == nil {
		if err := s.ssh.Wait(ctx); err != nil {
			return "", err
		}
		return s.ssh.Output(ctx, line)
	}
	return text, err
}

// askLimit bounds one question to a machine that may be starting.
const askLimit = 3 * time.Minute
