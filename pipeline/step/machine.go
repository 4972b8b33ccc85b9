package step

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/machineapi"
	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/machinetest"
)

// machineWith are the parameters of a stage that works on a machine. Zero
// values have the defaults that docs/formats.md gives.
type machineWith struct {
	Machine  string         // where the machine comes from: libvirt or metal
	URI      string         // libvirt: of the libvirtd; empty or "private" means one of our own
	Listen   string         // libvirt: address at which machines reach us; empty means the private libvirtd's gateway
	Firmware string         // uefi or bios; empty means uefi
	CPUs     int            `yaml:"cpus"`
	Memory   int            // MiB
	Shell    string         // how commands reach the machine: ssh, agent or console; empty means ssh
	Metadata map[string]any // what the machine is told, beside what every machine is

	Network string // metal: of the inventory; empty means its only one. libvirt: "none", or empty for that of the libvirtd

	// Of metal.
	Ramdisk string            // path of the deploy ramdisk without .vmlinuz and .initrd, relative to the pipeline file; empty means that of the server's site
	Node    inventory.Request // what the machine must be
	Finish  string            // how it comes into the image: reboot or kexec; empty means reboot
	Keys    []string          // files with public keys that images must be signed with, relative to the pipeline file
	Notify  []string          // program with its arguments that is run for what people should know of nodes
	Cmdline string            // added to kernel command lines, for consoles
	// Namespace is the file of the network namespace that servers and their
	// controllers are reached from, relative to the pipeline file; empty means the host's.
	Namespace string

	// Snoozes is a file with tests whose failure does not count for a while,
	// relative to the pipeline file; empty means none.
	Snoozes string
	Tests   testsWith // which of the elements' tests are run
	Again   int       // how often a failed test is run again
}

// suite is what is done with a machine, and what that says about the image.
type suite interface {
	// run returns the tests' results, or an error when the testbed itself
	// failed: that proves nothing about the image.
	run(ctx context.Context, s *subject) ([]evidence.Test, error)
}

// preparer is a suite that has something to do or to decide before there is a
// machine.
type preparer interface {
	// prepare returns tests when they are all there is to say about the image,
	// and a note when there is nothing to say. With neither, the suite is run.
	prepare(ctx context.Context, env Env, j *pipeline.Job) (tests []evidence.Test, note string, err error)
}

// onMachine is a step that has a machine run the image under test, and leaves
// evidence: MACHINE-NAME.
type onMachine struct {
	env   Env
	name  string // of the suite
	with  machineWith
	kind  string // of the evidence
	place place
	suite suite

	snoozes  *machinetest.Snoozes
	patience time.Duration // as a subject's
}

// newOnMachine makes the step of a stage out of its parameters, which w points
// to or holds.
func newOnMachine(env Env, p *pipeline.Pipeline, stage string, w *machineWith, name string, s suite) (pipeline.Step, error) {
	bad := func(key, format string, args ...any) error { return p.Errorf(stage, key, format, args...) }
	pl, err := newPlace(env, w, bad)
	errs := []error{err}
	if !slices.Contains([]testbed.Firmware{"", testbed.UEFI, testbed.BIOS}, testbed.Firmware(w.Firmware)) {
		errs = append(errs, bad("firmware", "with.firmware %q: expected uefi or bios", w.Firmware))
	}
	for _, key := range machineapi.Own() {
		if _, ok := w.Metadata[key]; ok {
			errs = append(errs, bad("metadata", "with.metadata: %s is made for each machine and cannot be given", key))
		}
	}
	errs = append(errs, w.checkShell(name, bad)...)
	step := &onMachine{env: env, name: name, with: *w, kind: w.kind(p, stage, name), place: pl, suite: s}
	errs = append(errs, w.checkTests(step.kind, bad)...)
	if w.Snoozes != "" {
		step.snoozes, err = machinetest.ReadSnoozes(env.path(w.Snoozes))
		errs = append(errs, err)
	}
	return step, yamlfile.Join(errs...)
}

// newSmoke tests that the machine configures itself, and what the elements'
// tests say.
func newSmoke(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	var w machineWith
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	return newOnMachine(env, p, stage, &w, "smoke", smoke{})
}

// Check implements pipeline.Checker.
func (s *onMachine) Check(ctx context.Context) error {
	if _, err := exec.LookPath("ssh"); err != nil && s.with.Shell == shellSSH {
		return command.Missing(errors.New("ssh is not installed"), "install openssh-client")
	}
	if c, ok := s.suite.(pipeline.Checker); ok {
		if err := c.Check(ctx); err != nil {
			return err
		}
	}
	return s.place.check(ctx)
}

// Run implements pipeline.Step.
func (s *onMachine) Run(ctx context.Context, j *pipeline.Job) (*pipeline.Outcome, error) {
	if err := needImage(j); err != nil {
		return nil, err
	}
	for _, z := range s.snoozes.Expired(time.Now()) {
		j.Progress.Info("the snooze of %s has ended on %s: %s", z.Test, z.Until, z.URL)
	}
	e := &evidence.Evidence{
		Kind: s.kind, Subject: j.Image, Run: j.Run, Stage: j.Stage, Attempt: j.Attempt, Started: time.Now().UTC(),
	}
	e.Machine.Driver = s.with.Machine
	tests, note, err := s.prepare(ctx, j)
	if note != "" {
		return &pipeline.Outcome{Notes: []string{note}}, nil
	}
	if err == nil && tests == nil {
		tests, err = s.test(ctx, j, e)
	}
	if err != nil {
		// The testbed failed, not the image: that proves nothing about it.
		return nil, err
	}
	e.Tests, e.Ended, e.Result = tests, time.Now().UTC(), evidence.Judge(tests)
	return s.conclude(j, e)
}

func (s *onMachine) prepare(ctx context.Context, j *pipeline.Job) (tests []evidence.Test, note string, err error) {
	if p, ok := s.suite.(preparer); ok {
		return p.prepare(ctx, s.env, j)
	}
	return nil, "", nil
}

// conclude keeps the evidence and says what it is.
func (s *onMachine) conclude(j *pipeline.Job, e *evidence.Evidence) (*pipeline.Outcome, error) {
	junit, err := e.JUnit()
	if err != nil {
		return nil, err
	}
	err = errors.Join(atomicfile.Write(filepath.Join(j.Dir, "junit.xml"), junit, 0o644),
		atomicfile.Write(filepath.Join(j.Dir, "results.tap"), e.TAP(), 0o644), s.env.Store.Attach(e))
	if err != nil {
		return nil, err
	}
	summary := evidence.Summary(e.Tests)
	j.Progress.Info("%s", summary)
	notes := []string{fmt.Sprintf("tested on %s: %s", s.with.Machine, summary)}
	for _, m := range e.Measurements {
		j.Progress.Info("%s", m)
		notes = append(notes, "  "+m.String())
	}
	if e.Result != evidence.Pass {
		return nil, failure(e.Tests, summary)
	}
	return &pipeline.Outcome{Notes: append(notes, "  results, console and journal: "+j.Dir)}, nil
}

// failure names the first failed test.
func failure(tests []evidence.Test, summary string) error {
	for _, t := range tests {
		if t.Result == evidence.Fail && t.Snoozed == "" {
			return &testFailure{t.Class, fmt.Errorf("%s: %s/%s: %s", summary, t.Element, t.Name, t.Reason)}
		}
	}
	return errors.New(summary)
}

// testFailure is a failed test.
type testFailure struct {
	class evidence.Class
	error
}

// Class implements pipeline.Classed.
func (f *testFailure) Class() evidence.Class { return f.class }

// test has everything that must be released. It says in the evidence what was
// measured, and on what.
func (s *onMachine) test(ctx context.Context, j *pipeline.Job, e *evidence.Evidence) (tests []evidence.Test, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	opened, err := s.place.open(ctx, j)
	if err != nil {
		return nil, err
	}
	b := watched{opened, end}
	defer func() { err = errors.Join(err, b.close()) }()
	api, err := b.serve(ctx)
	if err != nil {
		return nil, err
	}
	// What machine and tests need for this attempt only, secrets among it.
	tmp, err := s.env.Store.scratch("smoke-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	sub := &subject{env: s.env, job: j, bench: b, api: api, driver: s.with.Machine, suite: s.name,
		over: ctx.Done(), how: s.with.Shell, isolated: s.with.Machine == "libvirt" && s.with.Network == noNetwork,
		metadata: s.with.Metadata, scratch: tmp, dir: tmp, keep: j.Dir, snoozes: s.snoozes, wanted: s.with.Tests, again: s.with.Again, patience: s.patience}
	defer func() { err = errors.Join(err, sub.release(ctx)) }()
	tests, err = s.suite.run(ctx, sub)
	if f, ok := errors.AsType[*testbed.Fault](context.Cause(ctx)); ok {
		return nil, f // the machine was taken away: whatever was seen is not the image's
	}
	e.Measurements = sub.figures
	if d, ok := sub.m.(described); ok {
		e.Machine = d.describe(ctx)
	}
	return tests, err
}
