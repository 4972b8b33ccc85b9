package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"goldsmith/internal/bootentry"
)

// Finding is what Check found.
type Finding struct {
	Trial    bool     `json:"trial"`              // what runs has yet to prove itself
	Start    int      `json:"start,omitempty"`    // of a trial: the how manieth that came up to userspace
	Returned *Failure `json:"returned,omitempty"` // the machine came back from this image in this boot
	Restart  bool     `json:"restart,omitempty"`  // the trial is over: restart the machine, even with an error
}

// Check compares at every start what the boot loader did with what is
// recorded, and puts right what a power cut or a kill left. It is where a
// machine that came back learns why: that is returned even with an error.
//
// A record that cannot be read is put aside: nothing else would end a trial.
func (m *Machine) Check(ctx context.Context) (found Finding, err error) {
	if _, err := load(m.state()); errors.Is(err, errRecord) {
		m.say("%v: it is made anew", err)
		name := filepath.Join(m.state(), "slots.json")
		if err := os.Rename(name, name+".unreadable"); err != nil {
			return found, err
		}
	}
	err = m.locked(ctx, func(r *Record) error {
		if m.Boot.From == FromNetwork {
			return m.checkServed(r)
		}
		d, err := openDisk(m.Boot.Disk)
		if err != nil {
			return err
		}
		return m.withESP(d, func(e *esp) error {
			if r.isNew {
				if err := m.adopt(ctx, r, d, e); err != nil {
					return err
				}
			}
			switch {
			case r.Trial == nil && m.Boot.Slot != r.Good:
				found, err = m.stray(ctx, r, d, e)
			case r.Trial == nil:
				err = m.settle(r, e)
			case m.onTrial(r):
				found, err = m.checkTrial(r, e)
			default:
				found, err = m.checkReturn(ctx, r, d, e)
			}
			return err
		})
	})
	return found, err
}

// checkServed is for a machine that starts what it is served: that is good, and
// nothing else is tried. A record of the time when its disk started it goes.
func (m *Machine) checkServed(r *Record) error {
	if r.Trial != nil || r.Good != m.Boot.Slot {
		m.say("this machine starts from the network by now: the record is made anew, of what runs")
		r = m.newRecord()
	}
	return r.save(m.state())
}

// adopt completes a new record by what the boot loaders know: what runs may be
// on trial, and the record lost.
func (m *Machine) adopt(ctx context.Context, r *Record, d *slotDisk, e *esp) error {
	run := r.Slots[m.Boot.Slot]
	all, err := e.entries()
	if err != nil {
		return err
	}
	env, _ := e.env() // one that cannot be read says nothing
	trial := run.Name != "" && env[bootentry.EnvTry] == run.ID()
	var before string
	for _, entry := range all {
		if entry.ID != run.ID() {
			before = entry.ID
		} else if entry.Counted {
			trial = true
		}
	}
	name, version, known := bootentry.SplitID(before)
	for _, entry := range all {
		if trial || entry.ID == run.ID() || entry.ID == env[bootentry.EnvTry] {
			continue
		}
		if back := m.wayBack(ctx, d, e, entry); back != nil {
			m.say("there is no record; version %s in slot %s can be returned to", back.Version, other(m.Boot.Slot))
			r.Slots[other(m.Boot.Slot)] = back
		}
	}
	if !trial || !known {
		return ctx.Err()
	}
	m.say("there is no record; version %s is on trial, as the boot loader says", run.Version)
	run.State = Trying
	r.Good = other(m.Boot.Slot)
	r.Slots[r.Good] = &Slot{State: Good, Name: name, Version: version}
	r.Trial = &Trial{Slot: m.Boot.Slot, Since: m.now()}
	return nil
}

// wayBack is what the slot that does not run holds when it is this version, and
// was good: boot loaders count no starts of it, or it got no tries because an
// older one was made good. Nil is another version, or one that is damaged.
func (m *Machine) wayBack(ctx context.Context, d *slotDisk, e *esp, entry bootentry.Entry) *Slot {
	slot := other(m.Boot.Slot)
	name, version, known := bootentry.SplitID(entry.ID)
	hash, err := d.rootHash(slot)
	if !known || err != nil || entry.Counted && entry.Left+entry.Done > 0 {
		return nil
	}
	s := &Slot{State: Good, Name: name, Version: version, RootHash: hash}
	if e.unstartable(s, m.Boot.Firmware) != "" {
		return nil
	}
	limited, stop := context.WithTimeout(ctx, inspectTime)
	defer stop()
	// A rollback looks again, to the end.
	if m.inspect(limited, d, slot, s) != "" && limited.Err() == nil {
		return nil
	}
	return s
}

// stray is for a slot that runs and is neither the good one nor on trial.
func (m *Machine) stray(ctx context.Context, r *Record, d *slotDisk, e *esp) (Finding, error) {
	good := r.Slots[r.Good]
	if m.beside(r) {
		m.say("slot %s runs, but %s is recorded as good: it was started by hand, or the other one cannot be started; "+
			"to stay with it: imgupdate good", m.Boot.Slot, r.Good)
		return Finding{}, nil
	}
	found, err := e.find(good.ID())
	if err != nil {
		return Finding{}, err
	}
	p, err := d.part("root-" + r.Good)
	if err != nil {
		return Finding{}, err
	}
	if len(found) == 0 || len(good.RootHash) == 64 && p.GUID != guid(good.RootHash) {
		m.say("the record is of another disk: it is made anew, of what runs")
		return Finding{}, m.newRecord().save(m.state())
	}
	name, version := m.running()
	if name == "" {
		return Finding{}, errNameless
	}
	if damage := m.inspect(ctx, d, r.Good, good) + e.inspect(good); damage != "" {
		return Finding{}, fmt.Errorf("version %s in slot %s is neither good nor on trial, and there is nothing to return to: %s",
			version, m.Boot.Slot, damage)
	}
	m.say("version %s in slot %s is neither good nor on trial: back to slot %s", version, m.Boot.Slot, r.Good)
	if err := e.giveUp(bootentry.ID(name, version), good); err != nil {
		return Finding{}, err
	}
	return Finding{Restart: true}, nil
}

// settle is what there is to do without a trial: an update that was killed
// left a slot that is nothing, and files that nobody needs.
func (m *Machine) settle(r *Record, e *esp) error {
	run := r.Slots[m.Boot.Slot]
	o := r.Slots[other(r.Good)]
	if o.State == Writing {
		*o = Slot{State: Empty}
	}
	keep := []string{run.ID()}
	if o.State == Good {
		keep = append(keep, o.ID())
	}
	if found, err := e.find(run.ID()); err != nil || len(found) == 0 {
		return errors.Join(err, r.save(m.state())) // which files are its own is not known
	}
	return errors.Join(e.clean(keep...), r.save(m.state()))
}

// checkTrial counts a start of an image on trial.
func (m *Machine) checkTrial(r *Record, e *esp) (Finding, error) {
	t, s := r.Trial, r.Slots[r.Trial.Slot]
	if s.State == Failed { // it was given up, and the boot loader took it nevertheless
		return Finding{Trial: true, Restart: true}, m.giveUp(r, e)
	}
	if e.staged() { // GRUB's part was there, systemd-boot's not
		if err := e.name(s.ID()); err != nil {
			return Finding{Trial: true}, err
		}
	}
	if !slices.Contains(t.Boots, m.BootID) {
		t.Boots, t.Runs = append(t.Boots, m.BootID), 0
	}
	// One start more than the boot loader counts: by kexec, without it.
	if len(t.Boots) > bootentry.Tries+1 {
		reason := fmt.Sprintf("it was started %d times without proving itself: the boot loader does not count",
			len(t.Boots)-1)
		m.recordBad(r, reason)
		return Finding{Trial: true, Restart: true}, m.giveUp(r, e)
	}
	m.say("version %s in slot %s is on trial, start %d", s.Version, t.Slot, len(t.Boots))
	return Finding{Trial: true, Start: len(t.Boots)}, r.save(m.state())
}

// checkReturn is for a good slot that runs although another one is on trial:
// that one waits for a restart, or it failed.
func (m *Machine) checkReturn(ctx context.Context, r *Record, d *slotDisk, e *esp) (Finding, error) {
	t, s := r.Trial, r.Slots[r.Trial.Slot]
	if s.State == Trying && len(t.Boots) == 0 {
		if e.staged() {
			return Finding{}, m.forget(r, e)
		}
		if !e.armed(s, r.Slots[r.Good]) {
			if err := m.armAgain(r, e, t.Slot); err != nil {
				return Finding{}, err
			}
			t = r.Trial
		}
	}
	if s.State == Trying && t.Armed == m.BootID {
		m.say("version %s is in slot %s and will be tried at the next start", s.Version, t.Slot)
		return Finding{}, nil
	}
	if s.State == Trying {
		reason := m.diagnose(ctx, r, d, e)
		r.addFailure(Failure{Digest: s.Digest, Version: s.Version, Time: m.now(), Reason: reason})
	}
	s.State, r.Trial = Failed, nil
	f := r.Failed[len(r.Failed)-1]
	if known := r.failure(s.Digest); known != nil {
		f = *known
	}
	// Where it cannot be recorded, that is all that is ever said of it.
	m.say("returned to version %s in slot %s: version %s failed: %s",
		r.Slots[r.Good].Version, r.Good, s.Version, f.Reason)
	if err := e.giveUp(s.ID(), r.Slots[r.Good]); err != nil {
		return Finding{Returned: &f}, err // the trial is not over before the boot loaders know
	}
	return Finding{Returned: &f}, r.save(m.state())
}

// forget is for an update that was killed while it armed what it had written:
// that did not fail, and the next one finds it.
func (m *Machine) forget(r *Record, e *esp) error {
	running := r.Slots[r.Good].ID()
	if err := e.good(running); err != nil {
		return err
	}
	r.Slots[r.Trial.Slot], r.Trial = &Slot{State: Empty}, nil
	if err := r.save(m.state()); err != nil {
		return err
	}
	return e.clean(running)
}
