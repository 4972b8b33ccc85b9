package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
)

// reset has a machine forget all it keeps: docs/boot.md, "State".
type reset struct{}

func newReset(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	var w machineWith
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	return newOnMachine(env, p, stage, &w, "reset", reset{})
}

// prepare implements preparer.
func (reset) prepare(_ context.Context, env Env, j *pipeline.Job) ([]evidence.Test, string, error) {
	return nil, "", mayBeAsked(env, j, "imgupdate", "ssh-server")
}

// mayBeAsked refuses an image without elements that a suite needs.
func mayBeAsked(env Env, j *pipeline.Job, elements ...string) error {
	img, err := env.Store.Images.Image(j.Image)
	if err != nil {
		return err
	}
	for _, e := range elements {
		if !slices.Contains(img.Elements, e) {
			return command.BadInput(fmt.Errorf("image %s %s has no element %s, which this suite needs", img.Name, img.Version, e),
				"add "+e+" to the definition's elements")
		}
	}
	return nil
}

// identity is what tells one installation of an image from another. The machine
// ID does not: systemd takes that of a virtual machine from its firmware.
type identity struct {
	key        string // of the SSH host
	root, slot string // hash and place of the root
}

func (s *subject) identity(ctx context.Context) (identity, error) {
	st, err := s.status(ctx)
	if err != nil {
		return identity{}, err
	}
	return identity{ssh.FingerprintSHA256(s.ssh.HostKey()), st.Boot.RootHash, st.Boot.Slot}, nil
}

// run implements suite.
func (reset) run(ctx context.Context, s *subject) ([]evidence.Test, error) {
	return s.inParts(ctx, func(ctx context.Context) error {
		if err := s.begin(ctx, s.job.Image); err != nil {
			return err
		}
		data := newData()
		var before identity
		err := s.part(ctx, "before", func(ctx context.Context) (err error) {
			before, err = s.identity(ctx)
			return errors.Join(err, data.put(ctx, s))
		})
		if err != nil {
			return err
		}
		if err := s.part(ctx, "reset", s.factoryReset); err != nil {
			return err
		}
		// The machine has a new host key.
		s.ssh.Pin(nil)
		err = s.part(ctx, "forgotten", func(ctx context.Context) error {
			after, err := s.identity(ctx)
			if err != nil {
				return err
			}
			return errors.Join(before.forgotten(after), data.gone(ctx, s))
		})
		if err != nil {
			return err
		}
		return s.smokeAgain(ctx, s.img, "after")
	})
}

func (s *subject) factoryReset(ctx context.Context) error {
	mark, err := s.m.Console().Mark()
	if err != nil {
		return err
	}
	started := time.Now()
	if err := s.restart(ctx, "imgupdate reset --yes"); err != nil {
		return err
	}
	if err := s.awaitConfigured(ctx, mark); err != nil {
		return err
	}
	s.measure("reset-seconds", time.Since(started).Seconds(), "s")
	return s.quiet(mark)
}

// forgotten compares a machine after a reset with what it was before.
func (i identity) forgotten(after identity) error {
	switch {
	case after.key == i.key:
		return shown("the machine has the SSH host key of before")
	case after.root != i.root || after.slot != i.slot:
		return shown(fmt.Sprintf("the machine runs root %s in slot %s; before the reset it was %s in %s",
			after.root, after.slot, i.root, i.slot))
	}
	return nil
}

func (d data) gone(ctx context.Context, s *subject) error {
	text, err := s.output(ctx, "if test -e "+dataFile+"; then echo there; fi")
	if err == nil && text != "" {
		err = shown(dataFile + " is still there")
	}
	return err
}

// rebootsWith are the parameters of the suite reboots.
type rebootsWith struct {
	machineWith `yaml:",inline"`
	Times       int // empty means 5
	Growth      int // MiB by which /var may grow from the first to the last start; empty means 32
}

// reboots restarts a machine again and again.
type reboots struct{ with *rebootsWith }

const maxTimes = 1000

func newReboots(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	w := rebootsWith{Times: 5, Growth: 32}
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	var errs []error
	if w.Times < 1 || w.Times > maxTimes {
		errs = append(errs, p.Errorf(stage, "times", "with.times is %d: expected 1 to %d", w.Times, maxTimes))
	}
	if w.Growth < 0 {
		errs = append(errs, p.Errorf(stage, "growth", "with.growth is negative"))
	}
	st, err := newOnMachine(env, p, stage, &w.machineWith, "reboots", &reboots{&w})
	return st, yamlfile.Join(append(errs, err)...)
}

// prepare implements preparer.
func (r *reboots) prepare(_ context.Context, env Env, j *pipeline.Job) ([]evidence.Test, string, error) {
	return nil, "", mayBeAsked(env, j, "ssh-server")
}

// run implements suite.
func (r *reboots) run(ctx context.Context, s *subject) ([]evidence.Test, error) {
	return s.inParts(ctx, func(ctx context.Context) error {
		if err := s.begin(ctx, s.job.Image); err != nil {
			return err
		}
		var seconds, used []float64
		for i := range r.with.Times {
			err := s.part(ctx, fmt.Sprintf("reboot-%d", i+1), func(ctx context.Context) error {
				took, kib, err := s.reboot(ctx)
				seconds, used = append(seconds, took), append(used, kib)
				return err
			})
			if err != nil {
				return err
			}
		}
		s.measure("reboot-seconds-median", median(seconds), "s")
		s.measure("reboot-seconds-longest", slices.Max(seconds), "s")
		// The first start after the installation fills caches: growth is
		// counted from the first that was asked for.
		growth := used[len(used)-1] - used[0]
		s.measure("var-growth", growth, "KiB")
		if err := s.part(ctx, "growth", func(context.Context) error { return grown(growth, r.with.Growth) }); err != nil {
			return err
		}
		return s.smokeAgain(ctx, s.img, "after")
	})
}

// grown is an error when /var grew by more KiB than the MiB that are allowed.
func grown(kib float64, allowed int) error {
	if kib > float64(allowed)*1024 {
		return shown(fmt.Sprintf("/var grew by %.0f KiB, more than %d MiB", kib, allowed))
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// reboot restarts the machine once. It returns the seconds from the word to the
// completion signal, and what /var takes, in KiB.
func (s *subject) reboot(ctx context.Context) (seconds, kib float64, err error) {
	before, err := s.bootID(ctx)
	if err != nil {
		return 0, 0, err
	}
	mark, err := s.m.Console().Mark()
	if err != nil {
		return 0, 0, err
	}
	started := time.Now()
	if err := s.restart(ctx, "systemctl reboot"); err != nil {
		return 0, 0, err
	}
	if err := s.awaitConfigured(ctx, mark); err != nil {
		return 0, 0, err
	}
	seconds = time.Since(started).Seconds()
	now, err := s.bootID(ctx)
	if err == nil && now == before {
		err = errors.New("the machine did not restart")
	}
	if err := errors.Join(err, s.unitsRun(ctx), s.quiet(mark)); err != nil {
		return seconds, 0, err
	}
	kib, err = s.usage(ctx)
	return seconds, kib, err
}

// usage is what /var takes, in KiB.
func (s *subject) usage(ctx context.Context) (float64, error) {
	text, err := s.output(ctx, "du -skx /var | cut -f1")
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(text), 64)
}

// unitsRun waits until the machine has started, and is an error when a unit has
// failed.
func (s *subject) unitsRun(ctx context.Context) error {
	text, err := s.output(ctx,
		"systemctl is-system-running --wait || true; systemctl --no-legend --plain --failed | cut -d' ' -f1")
	words := strings.Fields(text)
	if err == nil && (len(words) != 1 || words[0] != "running") {
		err = shown("the machine is " + strings.Join(words, " "))
	}
	return err
}
