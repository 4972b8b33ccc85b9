package step

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/evidence"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/machinetest"
)

// Most tests share a stage's machine. One that is not to share, or wrecks it, has
// a machine of its own, which takes the place of the one before: there is never
// more than one.

// renewable is a machine that can be what a further order wants: nothing is left
// of what it was.
type renewable interface {
	renew(ctx context.Context, o order) error
}

// renew gives a test a machine of its own, as far as the login.
func (s *subject) renew(ctx context.Context, t *machinetest.Test) error {
	if err := s.leave(ctx); err != nil {
		return err
	}
	s.number++
	n := strconv.Itoa(s.number + 1)
	s.keep = filepath.Join(s.job.Dir, "machines", n+"-"+strings.ReplaceAll(t.Label(), "/", "-"))
	s.dir = filepath.Join(s.scratch, n)
	if err := errors.Join(os.MkdirAll(s.keep, 0o755), os.MkdirAll(s.dir, 0o700)); err != nil {
		return err
	}
	if err := s.install(ctx, s.img.Digest); err != nil {
		return err
	}
	configured, err := s.boot(ctx)
	if err != nil {
		return err
	}
	if err := s.reach(ctx); err != nil {
		return err
	}
	if configured.Result == evidence.Pass {
		if err = s.login(ctx); err == nil {
			return nil
		}
		configured = evidence.Test{Class: evidence.Unknown, Because: "nobody can be asked on the machine", Reason: "login: " + machinetest.OneLine(err.Error())}
	}
	s.keepJournal(ctx)
	return &machinetest.NotUp{Class: configured.Class, Because: configured.Because, Reason: configured.Reason}
}

// leave ends what is known of the machine, and gives it back unless it can be
// renewed.
func (s *subject) leave(ctx context.Context) error {
	if s.number == 0 {
		s.keepJournal(ctx)
	}
	s.closeShell()
	s.shell = nil
	s.told.Forget()
	m := s.m
	if _, ok := m.(renewable); ok {
		err := s.keepConsole(m)
		s.from, _ = m.Console().Mark()
		return err
	}
	s.m = nil
	err := errors.Join(m.Release(context.WithoutCancel(ctx)), s.keepConsole(m))
	s.from = 0
	return err
}

// reviveLimit bounds a power cycle, to the login. Servers take their time.
const reviveLimit = 15 * time.Minute

// revive cuts the machine's power and starts it again, until it has configured
// itself and lets us in.
func (s *subject) revive(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reviveLimit, fmt.Errorf("not within %s", reviveLimit))
	defer cancel()
	step := s.job.Progress.Start("revive the machine")
	mark, err := s.m.Console().Mark()
	if err == nil {
		err = s.m.PowerOff(ctx)
	}
	if err == nil {
		_ = s.shell.Close()
		s.drain(ctx)
		err = s.m.PowerOn(ctx)
	}
	if err == nil {
		err = s.awaitConfigured(ctx, mark)
	}
	if err == nil {
		err = s.shell.Wait(ctx)
	}
	step.Done(err, "")
	return err
}

// keepJournal saves the machine's journal if the machine can still be asked.
func (s *subject) keepJournal(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalLimit)
	defer cancel()
	line := "journalctl -b --no-pager -o short-monotonic"
	if s.how == shellConsole { // it is slow
		line += " | tail -c 65536"
	}
	text, err := output(ctx, s.shell, line)
	if err != nil {
		fmt.Fprintf(s.job.Log, "the journal could not be had: %v\n", err)
		return
	}
	if err := os.WriteFile(filepath.Join(s.keep, "journal"), []byte(text), 0o644); err != nil {
		fmt.Fprintf(s.job.Log, "journal: %v\n", err)
	}
}

// keepConsole copies what the machine's console has shown to where it is kept.
func (s *subject) keepConsole(m machine) error {
	text, err := m.Console().Text()
	text = text[min(s.from, int64(len(text))):]
	if err != nil || text == "" {
		return err
	}
	return os.WriteFile(filepath.Join(s.keep, "console.log"), []byte(text), 0o644)
}

// testsWith choose tests by their tags.
type testsWith struct {
	Tags []string // one of them; empty means all tests
	Not  []string // none of them
}

// kind is that of a stage's evidence. Where tests are chosen the stage's name is
// part of it: some of the tests do not stand for all of them, nor for others.
func (w *machineWith) kind(p *pipeline.Pipeline, stage, suite string) string {
	kind := w.Machine + "-" + suite
	if w.Tests.Tags == nil && w.Tests.Not == nil {
		return kind
	}
	i := slices.IndexFunc(p.Stages, func(s pipeline.Stage) bool { return s.Name == stage })
	return kind + "-" + p.Stages[i].Template
}

// checkTests says what is wrong with tests and again of a stage, and with the kind of
// evidence that it leaves.
func (w *machineWith) checkTests(kind string, bad func(key, format string, args ...any) error) []error {
	var errs []error
	for _, tag := range slices.Concat(w.Tests.Tags, w.Tests.Not) {
		if !machinetest.IsTag(tag) {
			errs = append(errs, bad("tests", "with.tests: %q is not a tag: letters, digits, '.', '_' and '-'", tag))
		}
	}
	if w.Tests.Tags != nil && len(w.Tests.Tags) == 0 {
		errs = append(errs, bad("tests", "with.tests.tags is empty: no test has one of no tags"))
	}
	if slices.ContainsFunc([]testbed.Firmware{testbed.UEFI, testbed.BIOS}, func(f testbed.Firmware) bool { return strings.HasSuffix(kind, "-"+string(f)) }) {
		errs = append(errs, bad("tests", "with.tests: %s is evidence of all tests on that firmware: call the stage something else", kind))
	}
	if len(kind) > maxKind {
		errs = append(errs, bad("tests", "with.tests: no channel can name evidence of the kind %s: the stage's name is too long", kind))
	}
	if w.Again < 0 || w.Again > maxAgain {
		errs = append(errs, bad("again", "with.again is %d: expected 0 to %d", w.Again, maxAgain))
	}
	return errs
}

const (
	maxKind  = 63 // as channels have it
	maxAgain = 10
)
