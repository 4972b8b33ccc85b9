package update

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/metadata"
)

// Where elements put programs that imgupdate runs.
const (
	DefaultHealth  = "/usr/libexec/goldsmith/health.d"
	DefaultQuiesce = "/usr/libexec/goldsmith/quiesce.d"
)

// CheckTime is how long one health check may take.
const CheckTime = 60 * time.Second

// Health is what one health check said.
type Health struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// RunHealth runs all health checks of a directory, whatever they say. Without
// the directory there are none. The error is the first check's that failed.
func (m *Machine) RunHealth(ctx context.Context, dir string) ([]Health, error) {
	names, err := hook.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := m.sayUnused(dir, names); err != nil {
		return nil, err
	}
	var list []Health
	var first error
	for _, name := range names {
		h := Health{Name: name}
		if err := m.check(ctx, filepath.Join(dir, name)); err != nil {
			if ctx.Err() != nil {
				return list, ctx.Err()
			}
			h.Error = shorten(err.Error())
			m.say("health check %s: %s", name, h.Error)
			if first == nil {
				first = fmt.Errorf("health check %s: %s", name, h.Error)
			}
		} else {
			h.OK = true
			m.say("health check %s: good", name)
		}
		list = append(list, h)
	}
	return list, first
}

// sayUnused names the programs of a directory that are none by their names or
// modes: whoever put them there means them to run.
func (m *Machine) sayUnused(dir string, run []string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || !fi.Mode().IsRegular() || slices.Contains(run, e.Name()) {
			continue
		}
		switch named := hook.Name.MatchString(e.Name()); {
		case !named && fi.Mode()&0o111 != 0:
			m.say("health check %s is not run: a name has letters, digits, - and _ only", e.Name())
		case named:
			m.say("health check %s is not run: it is not executable", e.Name())
		}
	}
	return nil
}

// check runs one health check.
func (m *Machine) check(ctx context.Context, path string) error {
	limited, stop := context.WithTimeout(ctx, CheckTime)
	defer stop()
	err := command.Exec{Args: []string{path}}.Run(limited)
	exit, ran := errors.AsType[*command.ExitError](err)
	switch {
	case err == nil:
		return nil
	case ctx.Err() == nil && limited.Err() != nil:
		return fmt.Errorf("no answer after %s", CheckTime)
	case !ran:
		return err
	case len(exit.Tail) > 0:
		return fmt.Errorf("status %d: %s", exit.Status, exit.Tail[len(exit.Tail)-1])
	}
	return fmt.Errorf("status %d", exit.Status)
}

// Quiesce runs the programs that stop what must not lose anything when the
// machine restarts, one after the other, up to the first that fails.
func (m *Machine) Quiesce(ctx context.Context, dir string) error {
	names, err := hook.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		m.say("quiesce: %s", name)
		if err := m.check(ctx, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("quiesce: %s: %w", name, err)
		}
	}
	return nil
}

// Wanted is what the metadata say about the image of this machine.
type Wanted struct {
	Digest string // "sha256:" and 64 hexadecimal digits; empty: nothing is wanted
	Source string // where it is, without the digest
	Kexec  bool   // start it without the firmware
}

// ParseWanted reads the member "image" of the metadata (docs/formats.md).
// Without a digest and a source nothing is wanted: a seed that says what the
// machine was deployed with has no source.
func ParseWanted(doc *metadata.Object) (Wanted, error) {
	get := func(key string) string {
		v, _ := metadata.Lookup(doc, key)
		s, _ := v.(string)
		return s
	}
	digest, source, restart := get("image.digest"), get("image.source"), get("image.restart")
	if _, there := metadata.Lookup(doc, "image.source"); !there {
		return Wanted{}, nil
	}
	bad := func(key, want string) (Wanted, error) {
		return Wanted{}, command.BadInput(fmt.Errorf("metadata: %s: want %s", key, want),
			"docs/formats.md describes the member image")
	}
	switch {
	case !isDigest(digest):
		return bad("image.digest", "sha256: and 64 hexadecimal digits in lower case")
	case source == "" || strings.Contains(source, "@"):
		return bad("image.source",
			"where the image is: HOST/REPOSITORY, oci:DIRECTORY or an http URL, without a digest")
	case restart != "" && restart != "reboot" && restart != "kexec":
		return bad("image.restart", "reboot or kexec")
	}
	return Wanted{digest, source, restart == "kexec"}, nil
}

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// What Compare says about a wanted image.
const (
	Runs     = "runs"        // it runs
	Waits    = "waits"       // it is armed, for the next start
	HasBeen  = "failed"      // it failed on this machine
	GoneFrom = "rolled back" // an operator went back from it
	New      = "missing"     // it has to be installed
)

// Compare tells how a wanted image stands, and why it is not to be had if it
// failed or an operator went back from it. It does
// not know the digest of an image that was not installed by an update: that one
// is New, until Install finds that it runs.
func (m *Machine) Compare(ctx context.Context, digest string) (state string, f *Failure, err error) {
	r, err := m.record()
	if err != nil {
		return "", nil, err
	}
	run, o := r.Slots[m.Boot.Slot], r.Slots[other(m.Boot.Slot)]
	switch f = r.failure(digest); {
	case run.Digest == digest:
		return Runs, nil, nil
	case r.Trial != nil && o.Digest == digest && o.State == Trying:
		return m.compareTrial(ctx, r)
	case f != nil && f.Back:
		return GoneFrom, f, nil
	case f != nil:
		return HasBeen, f, nil
	}
	return New, nil, nil
}

// compareTrial is Compare for an image that was armed and does not run. It waits
// for its first start only if that was in this boot, and if the boot loaders
// know: to restart for it would not end otherwise.
func (m *Machine) compareTrial(ctx context.Context, r *Record) (state string, f *Failure, err error) {
	if s, t := r.Slots[r.Trial.Slot], r.Trial; t.Armed != m.BootID {
		return HasBeen, &Failure{Digest: s.Digest, Version: s.Version, Time: t.Since,
			Reason: "the machine came back from it, and that is not recorded yet"}, nil
	}
	state = New
	err = m.locked(ctx, func(r *Record) error {
		d, err := openDisk(m.Boot.Disk)
		if err != nil {
			return err
		}
		return m.withESP(d, func(e *esp) error {
			if r.Trial != nil && e.waits(r.Slots[r.Trial.Slot], r.Slots[m.Boot.Slot]) {
				state = Waits
			}
			return nil
		})
	})
	return state, nil, err
}

// Status is what a machine says about itself.
type Status struct {
	Boot    Boot    `json:"boot"`
	Record  *Record `json:"record"`
	Trial   bool    `json:"trial"`   // what runs has yet to prove itself
	Waiting bool    `json:"waiting"` // another image will be tried at the next start
	Loader  string  `json:"loader"`  // what the boot loaders would do, where the EFI partition can be read
}

// Status reports the slots, and what the boot loaders know of them. While an
// update is at work, these are left out.
func (m *Machine) Status(ctx context.Context) (s Status, err error) {
	r, err := m.record()
	if err != nil {
		return s, err
	}
	s = Status{Boot: m.Boot, Record: r, Trial: m.onTrial(r), Waiting: r.Trial != nil && !m.onTrial(r)}
	err = m.reading(ctx, func(*Record) error {
		if m.Boot.From == FromNetwork {
			s.Loader = "none: it starts from the network"
			return nil
		}
		d, err := openDisk(m.Boot.Disk)
		if err != nil {
			return err
		}
		return m.withESP(d, func(e *esp) error {
			s.Loader, err = e.describe()
			return err
		})
	})
	if command.Status(err) == command.StatusBusy {
		s.Loader, err = "an update is at work", nil
	}
	if errors.Is(err, errNoState) {
		s.Loader, err = "not read: "+err.Error(), nil
	}
	return s, err
}

// describe says in a line what the boot loaders know.
func (e *esp) describe() (string, error) {
	entries, err := e.entries()
	if err != nil {
		return "", err
	}
	var words []string
	for _, entry := range entries {
		words = append(words, entry.File())
	}
	env, err := e.env()
	if err != nil {
		words = append(words, err.Error())
	}
	for _, name := range []string{bootentry.EnvGood, bootentry.EnvTry, bootentry.EnvLeft} {
		if env[name] != "" {
			words = append(words, "GRUB "+name+"="+env[name])
		}
	}
	return strings.Join(words, ", "), nil
}
