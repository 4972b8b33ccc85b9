package update

import (
	"context"
	"errors"
	"fmt"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
)

// onTrial is Trial for a record that was read.
func (m *Machine) onTrial(r *Record) bool { return r.Trial != nil && r.Trial.Slot == m.Boot.Slot }

// Good says that what runs is good: it is what the machine starts from now on,
// without counters. Without a trial nothing is done.
func (m *Machine) Good(ctx context.Context) error { return m.endWell(ctx, m.onTrial) }

// Adopt is Good by an operator's word: a slot that runs beside the good one,
// and was good before, is the good one from now on as well.
func (m *Machine) Adopt(ctx context.Context) error {
	return m.endWell(ctx, func(r *Record) bool { return m.onTrial(r) || m.beside(r) })
}

// beside tells whether what runs was good, and another slot is recorded as the
// one that proved itself last: this one was started by hand, or that one cannot
// be started.
func (m *Machine) beside(r *Record) bool {
	run := r.Slots[m.Boot.Slot]
	return r.Trial == nil && m.Boot.Slot != r.Good && run.State == Good && run.RootHash == m.Boot.RootHash
}

// endWell makes what runs the good slot, if it may be. If not, it waits for
// nobody: an update may be at work for minutes.
func (m *Machine) endWell(ctx context.Context, may func(r *Record) bool) error {
	if r, err := m.record(); err == nil && !may(r) {
		return nil
	}
	return m.locked(ctx, func(r *Record) error {
		if !may(r) {
			return nil
		}
		if r.Slots[m.Boot.Slot].State == Failed { // the boot loaders have it no more
			return command.BadInput(errors.New("what runs was given up, and is about to be restarted"),
				"imgupdate status says why")
		}
		d, err := openDisk(m.Boot.Disk)
		if err != nil {
			return err
		}
		return m.withESP(d, func(e *esp) error { return m.good(r, e) })
	})
}

func (m *Machine) good(r *Record, e *esp) error {
	run, old := r.Slots[m.Boot.Slot], r.Slots[other(m.Boot.Slot)]
	// The boot loader first: a power cut between the two leaves a trial, which
	// proves itself once more.
	if err := e.good(run.ID()); err != nil {
		return err
	}
	if found, err := e.find(old.ID()); err == nil && len(found) > 0 && old.State == Good {
		// An older image is on trial when it was the last good one. From now on
		// it is the newer one that must be asked for.
		newer := bootentry.CompareVersions(old.Version, run.Version) > 0
		if err := e.rename(bootentry.Entry{ID: old.ID(), Counted: newer}); err != nil {
			return err
		}
	}
	r.forgetBack(run.Digest)
	if t := r.Trial; t != nil && t.Back && old.State == Good && old.Digest != "" {
		r.addFailure(Failure{Digest: old.Digest, Version: old.Version, Time: m.now(), Back: true,
			Reason: "an operator went back to version " + run.Version})
	}
	run.State, r.Good, r.Trial = Good, m.Boot.Slot, nil
	if old.State == Good {
		r.LastGood = old.Digest
	}
	if err := r.save(m.state()); err != nil {
		return err
	}
	m.say("version %s in slot %s is good", run.Version, m.Boot.Slot)
	return nil
}

// Bad ends the trial of what runs, for that reason. The machine has to be
// restarted then: it returns to the good slot. Outside of a trial there is
// nothing to return to, which is an error.
func (m *Machine) Bad(ctx context.Context, reason string) error {
	return m.locked(ctx, func(r *Record) error {
		if !m.onTrial(r) {
			return command.BadInput(errors.New("what runs is not on trial"),
				"to return to the image before, use imgupdate rollback")
		}
		return m.bad(r, reason)
	})
}

// Disarm calls off an update, or a rollback, that waits for its first start. It
// is false when none does. The image did not fail: it can be installed again.
func (m *Machine) Disarm(ctx context.Context) (done bool, err error) {
	return m.disarmIf(ctx, func(*Trial) bool { return true })
}

// Stay is Disarm for the metadata's word: what runs is what they want. A rollback
// is an operator's.
func (m *Machine) Stay(ctx context.Context) error {
	if r, err := m.record(); err == nil && (r.Trial == nil || m.onTrial(r)) {
		return nil // without waiting for an operator's update
	}
	_, err := m.disarmIf(ctx, func(t *Trial) bool { return !t.Back })
	return err
}

// disarmIf calls off what waits for its first start, if it may.
func (m *Machine) disarmIf(ctx context.Context, may func(t *Trial) bool) (done bool, err error) {
	err = m.locked(ctx, func(r *Record) error {
		if r.Trial == nil || m.onTrial(r) || !may(r.Trial) {
			return nil
		}
		if t := r.Trial; r.Slots[t.Slot].State != Trying || t.Armed != m.BootID {
			return command.BadInput(errors.New("the machine came back from an image, and has not looked why"),
				"imgupdate check does")
		}
		d, err := openDisk(m.Boot.Disk)
		if err != nil {
			return err
		}
		done = true
		return m.withESP(d, func(e *esp) error { return m.disarm(r, e) })
	})
	return done, err
}

// disarm has the boot loaders start what runs, then the record forgets the
// trial, then goes what was to be started: killed in between, it is either on
// trial still, or nothing.
func (m *Machine) disarm(r *Record, e *esp) error {
	run, t := r.Slots[m.Boot.Slot], r.Trial
	s := r.Slots[t.Slot]
	if err := e.good(run.ID()); err != nil {
		return err
	}
	id, version := s.ID(), s.Version
	if t.Back {
		s.State = Good
	} else {
		*s = Slot{State: Empty}
	}
	r.Trial = nil
	if err := r.save(m.state()); err != nil {
		return err
	}
	m.say("version %s is not tried; services that were stopped for the restart come back with the next configuration",
		version)
	if !t.Back {
		return e.remove(id)
	}
	return e.rename(bootentry.Entry{ID: id, Counted: bootentry.CompareVersions(version, run.Version) > 0})
}

// bad gives up what runs. Record and boot loader do so without each other: a
// new system that has filled the state partition has to go as well.
func (m *Machine) bad(r *Record, reason string) error {
	m.recordBad(r, reason)
	d, err := openDisk(m.Boot.Disk)
	if err != nil {
		return err
	}
	return m.withESP(d, func(e *esp) error { return m.giveUp(r, e) })
}

// recordBad comes before giveUp: the record has the reason. If the power goes
// between them, the boot loader tries again, and Check sees that it is over. The
// first reason counts: what is stopped for the restart fails, too.
func (m *Machine) recordBad(r *Record, reason string) {
	s := r.Slots[r.Trial.Slot]
	if s.State == Failed {
		return
	}
	r.addFailure(Failure{Digest: s.Digest, Version: s.Version, Time: m.now(), Reason: reason})
	s.State = Failed
	m.say("version %s in slot %s is bad: %s", s.Version, r.Trial.Slot, shorten(reason))
	if err := r.save(m.state()); err != nil {
		m.say("this could not be recorded: %v", err)
	}
}

func (m *Machine) giveUp(r *Record, e *esp) error {
	return e.giveUp(r.Slots[r.Trial.Slot].ID(), r.Slots[r.Good])
}

// giveUp makes the boot loaders start the good version.
func (e *esp) giveUp(bad string, good *Slot) error {
	if err := e.good(good.ID()); err != nil {
		return err
	}
	return e.remove(bad)
}

// FailedRun counts a configuration run that failed while what runs is on
// trial. It is over after the last that may fail, and when it cannot be counted:
// the machine has to be restarted then, even with an error. Without a trial it
// waits for nobody.
func (m *Machine) FailedRun(ctx context.Context, reason string) (over bool, err error) {
	if on, err := m.Trial(); err == nil && !on {
		return false, nil
	}
	err = m.locked(ctx, func(r *Record) error {
		if !m.onTrial(r) {
			return nil
		}
		r.Trial.Runs++
		if over = r.Trial.Runs >= MaxRuns; over {
			return m.bad(r, fmt.Sprintf("%d configuration runs failed, the last by %s", r.Trial.Runs, reason))
		}
		if err := r.save(m.state()); err != nil { // it would be counted never
			over = true
			return m.bad(r, fmt.Sprintf("%v; a configuration run failed by %s", err, reason))
		}
		return nil
	})
	return over, err
}

// Rollback arms the image that was good before, when it is in the other slot.
func (m *Machine) Rollback(ctx context.Context, quiesce func(ctx context.Context) error) error {
	return m.locked(ctx, func(r *Record) error {
		name := other(m.Boot.Slot)
		s := r.Slots[name]
		switch {
		case m.onTrial(r):
			return m.bad(r, "an operator asked to go back")
		case m.beside(r):
			return m.errBeside(r)
		case r.Trial != nil && s.State == Trying:
			return command.BadInput(fmt.Errorf("version %s in slot %s waits for a restart", s.Version, name),
				"to call that off: imgupdate bad")
		case s.State != Good:
			return command.BadInput(fmt.Errorf("slot %s holds no image that was good (%s)", name, s.State),
				"install one by its digest: imgupdate install")
		}
		if err := m.noReset(); err != nil {
			return err
		}
		d, err := openDisk(m.Boot.Disk)
		if err != nil {
			return err
		}
		if damage := m.inspect(ctx, d, name, s); damage != "" {
			if err := ctx.Err(); err != nil {
				return err
			}
			return command.Hint(fmt.Errorf("slot %s is damaged: %s", name, damage),
				"install the image anew, by its digest: imgupdate install")
		}
		return m.withESP(d, func(e *esp) error {
			if damage := e.unstartable(s, m.Boot.Firmware); damage != "" {
				return command.Hint(fmt.Errorf("version %s cannot be started: %s", s.Version, damage),
					"put the file back, as it is in the image, or install another image: imgupdate install")
			}
			run := r.Slots[m.Boot.Slot]
			if damage := e.unstartable(run, m.Boot.Firmware); damage != "" { // all the more reason to go
				m.say("version %s, which runs, cannot be started again: %s", run.Version, damage)
			}
			if quiesce != nil {
				if err := quiesce(ctx); err != nil {
					return err
				}
			}
			return m.armAgain(r, e, name)
		})
	})
}

// errBeside says that what runs is not what the machine returns to.
func (m *Machine) errBeside(r *Record) error {
	return command.BadInput(fmt.Errorf("version %s in slot %s runs, but slot %s is recorded as good",
		r.Slots[m.Boot.Slot].Version, m.Boot.Slot, r.Good),
		"to stay with what runs: imgupdate good; to try the other slot: restart the machine")
}

// armAgain puts an image that is complete, with its kernel image, on trial.
func (m *Machine) armAgain(r *Record, e *esp, name string) error {
	s, run := r.Slots[name], r.Slots[m.Boot.Slot]
	back := s.State == Good || r.Trial != nil && r.Trial.Back
	s.State, r.Trial = Trying, &Trial{Slot: name, Since: m.now(), Armed: m.BootID, Back: back}
	if err := r.save(m.state()); err != nil {
		return err
	}
	err := e.setEnv(func(env bootentry.Env) {
		env[bootentry.EnvGood] = run.ID()
		env[bootentry.EnvTry], env[bootentry.EnvLeft] = s.ID(), fmt.Sprint(bootentry.Tries)
	})
	if err != nil {
		return err
	}
	if err := e.rename(bootentry.Entry{ID: s.ID(), Counted: true, Left: bootentry.Tries}); err != nil {
		return err
	}
	if bootentry.CompareVersions(s.Version, run.Version) < 0 {
		return e.rename(bootentry.Entry{ID: run.ID(), Counted: true})
	}
	return nil
}

// Trial tells whether what runs has yet to prove itself.
func (m *Machine) Trial() (bool, error) {
	r, err := m.record()
	return err == nil && m.onTrial(r), err
}

// Other is what is recorded about the slot that does not run.
func (m *Machine) Other() (Slot, error) {
	r, err := m.record()
	if err != nil {
		return Slot{}, err
	}
	return *r.Slots[other(m.Boot.Slot)], nil
}
