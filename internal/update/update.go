// Package update is what a machine does with its two slots: it writes an image
// into the one that does not run, lets it prove itself, and goes back.
//
// A machine has the partitions root-a, verity-a, root-b and verity-b
// (docs/boot.md). One slot is good: it proved itself last, and nothing writes
// it. An update writes the other one and arms it: the boot loader tries it
// three times at most, with a counter that it lowers before each attempt. What
// runs then has to say that it is good ([Machine.Prove]), or the machine goes
// back, by the counter, by a deadline or because it says so itself
// ([Machine.Bad]).
//
// Two records say which slot is what: the boot loader's (file names on the EFI
// partition, GRUB's environment block) and our own ([Record]). The boot loader
// decides what starts; ours says why. [Machine.Check] compares them at every
// boot and puts right what a power cut left between the two.
package update

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
)

// Where things are on a machine.
const (
	DefaultState = "/run/goldsmith/state/boot"
	DefaultBoot  = "/run/goldsmith/boot.json"
)

// HintImginit is what to do about a file of imginit's that is not as it should be.
const HintImginit = "imginit writes it at every start: restart the machine"

// MaxRuns is how many configuration runs may fail in one boot of a slot on
// trial: collectcfg tries again, because a network may come up late.
const MaxRuns = 3

// patience is how long one run waits for another.
var patience = 10 * time.Second

// Machine is the machine that an update is for. Empty fields are the real
// machine's.
type Machine struct {
	State  string // directory of the record; empty means DefaultState
	Boot   Boot   // what runs; see LoadBoot
	Root   string // directory of the running system; empty means "/"
	BootID string // of the kernel that runs; see LoadBoot

	// ESP gives the EFI partition's files as a directory until release is
	// called. Nil mounts the partition.
	ESP func() (dir string, release func() error, err error)
	Say func(format string, args ...any) // progress and findings, for people
	Now func() time.Time                 // nil means time.Now
}

// Boot is what imginit says about the boot (docs/boot.md).
type Boot struct {
	RootHash string `json:"root_hash"`
	Slot     string `json:"slot"` // "a" or "b"
	Disk     string `json:"disk"` // its device file, or a disk image
	Firmware string `json:"firmware"`
	// State says what became of a damaged state partition in this boot; empty: it
	// was sound.
	State string `json:"state,omitempty"`
	// From is FromNetwork when the kernel was served; empty: a boot loader of the
	// disk started it.
	From string `json:"from,omitempty"`
}

// FromNetwork is what is on the kernel command line, after "goldsmith.from=", of
// a machine that imgpipe starts. Its boot loaders decide nothing: an update that
// arms them would never be tried, and what is on the EFI partition says nothing.
const FromNetwork = "network"

// errFromNetwork refuses what only boot loaders could bring about.
var errFromNetwork = command.BadInput(errors.New("this machine starts from the network: imgpipe says which image it runs, not its disk"),
	"deploy the other image to it, or have it start from its disk: boot: local in the inventory (docs/metal.md)")

// LoadBoot fills in what is known about this boot.
func (m *Machine) LoadBoot(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return command.BadInput(fmt.Errorf("%s is not there: this is not a machine with slots", path),
			"imgupdate works on machines that imgbuild's disks boot (docs/boot.md)")
	}
	if err == nil {
		err = json.Unmarshal(text, &m.Boot)
	}
	if err != nil {
		return command.Hint(fmt.Errorf("%s: %w", path, err), HintImginit)
	}
	if m.Boot.Slot != "a" && m.Boot.Slot != "b" || m.Boot.RootHash == "" || m.Boot.Disk == "" {
		return command.Hint(fmt.Errorf("%s: incomplete", path), HintImginit)
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	m.BootID = strings.TrimSpace(string(id))
	return nil
}

func (m *Machine) say(format string, args ...any) {
	if m.Say != nil {
		m.Say(format, args...)
	}
}

func (m *Machine) now() time.Time {
	if m.Now != nil {
		return m.Now().UTC().Truncate(time.Second)
	}
	return time.Now().UTC().Truncate(time.Second)
}

func (m *Machine) state() string {
	if m.State == "" {
		return DefaultState
	}
	return m.State
}

// errNoState says that there is no directory to lock.
var errNoState = errors.New("it is not there")

// reading is locked for what makes nothing: without the record's directory it is
// [errNoState].
func (m *Machine) reading(ctx context.Context, f func(r *Record) error) error {
	if _, err := os.Stat(m.state()); errors.Is(err, fs.ErrNotExist) {
		return command.BadInput(fmt.Errorf("%s: %w", m.state(), errNoState), "name the directory of the record: --state")
	}
	return m.locked(ctx, f)
}

// locked runs f with the record, alone on this machine. A record that is not
// there yet is made of what runs.
func (m *Machine) locked(ctx context.Context, f func(r *Record) error) (err error) {
	if err := os.MkdirAll(m.state(), 0o700); err != nil {
		return err
	}
	// Most of them take a moment, but an update minutes.
	limited, stop := context.WithTimeout(ctx, patience)
	defer stop()
	lock, err := filelock.Lock(limited, filepath.Join(m.state(), "lock"), filelock.Exclusive,
		func() { m.say("waiting for another imgupdate") })
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return command.Busy(errors.New("another imgupdate is at work"), "wait for it to end")
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	r, err := m.record()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f(r)
}

// record is what is recorded about the slots.
func (m *Machine) record() (*Record, error) {
	r, err := load(m.state())
	if err != nil {
		return nil, command.Hint(err, "remove the file: it is made anew, of what runs")
	}
	if r != nil && m.Boot.Slot == r.Good && r.Slots[r.Good].RootHash == "" {
		r.Slots[r.Good].RootHash = m.Boot.RootHash // it was not known to adopt
	}
	// The good slot is never written. With another root in it, the record is of
	// another disk, whose state partition this one was written over.
	if r != nil && (m.Boot.Slot != r.Good || r.Slots[r.Good].RootHash == m.Boot.RootHash) {
		return r, nil
	}
	return m.newRecord(), nil
}

// errNameless says that running knows nothing.
var errNameless = errors.New("this machine does not say which image it runs: " +
	"/usr/share/goldsmith/manifest.json cannot be read")

// newRecord is the record of a machine that has none.
func (m *Machine) newRecord() *Record {
	name, version := m.running()
	return &Record{isNew: true, Format: recordFormat, Good: m.Boot.Slot, Slots: map[string]*Slot{
		m.Boot.Slot:        {State: Good, Name: name, Version: version, RootHash: m.Boot.RootHash},
		other(m.Boot.Slot): {State: Empty},
	}}
}

// running is the name and version of the image that runs; both are empty when it
// does not say them.
func (m *Machine) running() (name, version string) {
	var manifest struct{ Name, Version string }
	text, err := os.ReadFile(filepath.Join(cmp.Or(m.Root, "/"), "usr/share/goldsmith/manifest.json"))
	if err != nil || json.Unmarshal(text, &manifest) != nil ||
		!bootentry.IsName(manifest.Name) || !bootentry.IsVersion(manifest.Version) {
		return "", ""
	}
	return manifest.Name, manifest.Version
}

// shorten makes one printable line of a reason.
func shorten(s string) string {
	s = command.Plain(strings.Join(strings.Fields(s), " "))
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return s
}
