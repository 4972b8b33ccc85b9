package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/release"
	"goldsmith/internal/verity"
)

// Image is an image that was verified: its manifest has that digest, and a
// trusted key has signed it.
type Image struct {
	Digest  string
	Release *release.Release
	// Root and UKI write these parts from offset 0 on. What the machine has
	// that may be like them is in seeds.
	Root, UKI func(ctx context.Context, dst Target, seeds []Seed) error
}

// Target is where a part is written; what was written can be read.
type Target interface {
	io.ReaderAt
	io.WriterAt
}

// Seed is something on the machine that may share content with an image.
type Seed struct {
	io.ReaderAt
	Size int64 // in bytes
}

// Options are how an image is installed. The zero value refuses what an
// operator has to confirm, and goes on without stopping anything.
type Options struct {
	Retry bool // install an image that failed on this machine before
	// Quiesce runs when everything is written, before the new image is armed.
	// When it fails the machine stays as it is.
	Quiesce func(ctx context.Context) error
}

// ErrRuns says that the image is the one that runs.
var ErrRuns = errors.New("the image runs already")

// Install writes an image into the slot that does not run, and arms it: the
// machine has to be restarted then. An image that runs already is [ErrRuns].
// When it fails or is killed before it is armed, the machine goes on starting
// what runs now.
func (m *Machine) Install(ctx context.Context, img Image, o Options) error {
	return m.locked(ctx, func(r *Record) error {
		done, err := m.admit(r, img, o)
		if err != nil {
			return err
		}
		if done {
			return m.knowDigest(r, img)
		}
		if m.Boot.From == FromNetwork {
			return errFromNetwork
		}
		if err := m.noReset(); err != nil {
			return err
		}
		d, err := openDisk(m.Boot.Disk)
		if err != nil {
			return err
		}
		m.freeLost(d)
		return m.withESP(d, func(e *esp) error { return m.install(ctx, r, d, e, img, o) })
	})
}

// knowDigest notes which digest the running image has, and is [ErrRuns] then. A
// disk cannot hold its own.
func (m *Machine) knowDigest(r *Record, img Image) error {
	s := r.Slots[m.Boot.Slot]
	if s.RootHash != img.Release.Root.RootHash || s.Digest == img.Digest {
		return ErrRuns
	}
	s.Digest, s.RootSize, s.UKI = img.Digest, img.Release.Root.Size, img.Release.UKI.SHA256
	s.Name, s.Version = img.Release.Name, img.Release.Version
	if err := r.save(m.state()); err != nil {
		return command.Hint(fmt.Errorf("image %s runs already, but that cannot be recorded: %w", img.Digest, err),
			"make room on the state partition")
	}
	return ErrRuns
}

// admit decides whether an image may be installed. It is done when it runs.
func (m *Machine) admit(r *Record, img Image, o Options) (done bool, err error) {
	rel := img.Release
	if rel.Root == nil {
		return false, command.BadInput(fmt.Errorf("image %s has no root and kernel that a slot could take", img.Digest),
			"build it with goldsmith's own disk, without the elements block-device-*")
	}
	if rel.Arch != runtime.GOARCH { // Debian's names of the architectures there are, and Go's, are the same
		return false, command.BadInput(fmt.Errorf("image %s is for %s, this machine is %s",
			img.Digest, rel.Arch, runtime.GOARCH), "")
	}
	run := r.Slots[m.Boot.Slot]
	if rel.Root.RootHash == m.Boot.RootHash {
		if run.Name != "" && run.ID() != rel.UKI.ID || run.UKI != "" && run.UKI != rel.UKI.SHA256 {
			return false, command.BadInput(fmt.Errorf("image %s has the root that runs, but another kernel image",
				img.Digest),
				"build it with a version of its own")
		}
		return true, nil
	}
	switch {
	case m.beside(r):
		return false, m.errBeside(r)
	case m.Boot.Slot != r.Good:
		return false, command.Busy(fmt.Errorf("version %s has not proved itself yet: slot %s is what the machine would return to",
			run.Version, r.Good),
			"wait, or end the trial: imgupdate good, imgupdate bad")
	case run.Name != "" && run.Name != rel.Name:
		return false, command.BadInput(fmt.Errorf("image %s is called %s, this machine runs %s",
			img.Digest, rel.Name, run.Name),
			"an update keeps the image's name; another image is deployed")
	}
	if f := r.failure(img.Digest); f != nil && !f.Back && !o.Retry {
		return false, command.BadInput(fmt.Errorf("image %s failed on this machine: %s", img.Digest, f.Reason),
			"--retry tries it once more")
	}
	if run.Version == "" || img.Digest == r.LastGood || img.Digest == r.Slots[other(r.Good)].goodDigest() {
		return false, nil
	}
	switch c := bootentry.CompareVersions(rel.Version, run.Version); {
	case c < 0:
		return false, command.BadInput(fmt.Errorf("image %s is version %s, this machine runs %s: it does not go back",
			img.Digest, rel.Version, run.Version),
			"only the image that was good before may be older: imgupdate rollback")
	case c == 0:
		return false, command.BadInput(fmt.Errorf("image %s is version %s, as is the image that runs, but another one",
			img.Digest, rel.Version),
			"build it with a version of its own")
	}
	return false, nil
}

// goodDigest is the digest of a slot that holds an image that was good.
func (s *Slot) goodDigest() string {
	if s.State != Good {
		return ""
	}
	return s.Digest
}

// withESP gives f the EFI partition, of a machine that starts from it.
func (m *Machine) withESP(d *slotDisk, f func(e *esp) error) error {
	if m.Boot.From == FromNetwork {
		return errFromNetwork
	}
	get := m.ESP
	if get == nil {
		get = d.mountESP
	}
	dir, release, err := get()
	if err != nil {
		return err
	}
	e, err := openESP(dir)
	if err == nil {
		err = f(e)
	}
	return errors.Join(err, release())
}

func (m *Machine) install(ctx context.Context, r *Record, d *slotDisk, e *esp, img Image, o Options) error {
	name := other(m.Boot.Slot)
	id := img.Release.UKI.ID
	running := r.Slots[m.Boot.Slot].ID()
	if running == "" {
		return errNameless
	}
	if err := m.room(d, e, name, r.Slots[m.Boot.Slot], img); err != nil {
		return err
	}
	// From here on the slot is nothing that could start.
	r.Slots[name] = &Slot{State: Writing}
	r.Trial = nil
	r.forgetBack(img.Digest)
	if err := r.save(m.state()); err != nil {
		return err
	}
	// What runs has a counter, too, while an older image waits for its start.
	if err := e.good(running); err != nil {
		return err
	}
	if err := e.clean(running); err != nil {
		return err
	}
	s, err := m.write(ctx, d, e, name, img)
	if err != nil {
		return err
	}
	if o.Quiesce != nil {
		if err := o.Quiesce(ctx); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.State = Trying
	r.Slots[name], r.Trial = s, &Trial{Slot: name, Since: m.now(), Armed: m.BootID}
	if err := r.save(m.state()); err != nil {
		return err
	}
	if err := m.arm(r, e, id); err != nil {
		return errors.Join(err, m.forget(r, e))
	}
	m.say("version %s is in slot %s and will be tried at the next start", s.Version, name)
	return nil
}

// room says whether the image fits beside what runs, and whether that could be
// returned to, before anything is changed.
func (m *Machine) room(d *slotDisk, e *esp, name string, run *Slot, img Image) error {
	rel, running := img.Release, run.ID()
	for _, part := range []struct {
		name string
		need int64
	}{{"root-" + name, rel.Root.Size}, {"verity-" + name, verity.Size(rel.Root.Size)}} {
		p, err := d.part(part.name)
		if err != nil {
			return err
		}
		if p.Size < part.need {
			return command.BadInput(fmt.Errorf("image %s needs %d MiB in partition %s, which has %d",
				img.Digest, mib(part.need), part.name, mib(p.Size)),
				"build the first image with larger slots, and deploy it anew")
		}
	}
	found, err := e.find(running)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return command.BadInput(fmt.Errorf("EFI partition: no kernel image %s, which runs: nothing could be returned to",
			running),
			"put it back, or deploy the machine anew")
	}
	if damage := e.unstartable(run, m.Boot.Firmware); damage != "" {
		return command.Hint(fmt.Errorf("version %s, which runs, could not be returned to: %s", run.Version, damage),
			"go back first (imgupdate rollback), put the file back, as it is in the image, or deploy the machine anew")
	}
	free, err := e.free()
	if err != nil {
		return err
	}
	used, err := e.reclaimable(running)
	if err != nil {
		return err
	}
	if need := e.need(rel.UKI.Size); free+used < need {
		return command.BadInput(fmt.Errorf("image %s needs %d MiB on the EFI partition, %d are free",
			img.Digest, mib(need), mib(free+used)),
			"remove what does not belong there, check the partition when it is not mounted (fsck.fat -a), "+
				"or build with fewer modules")
	}
	return nil
}

func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// arm lets the boot loaders try a version that is complete. An older version
// than the one that runs would not be tried by itself: systemd-boot takes the
// newest that has tries left, so the one that runs is given none.
func (m *Machine) arm(r *Record, e *esp, id string) error {
	run := r.Slots[m.Boot.Slot]
	if err := e.place(id); err != nil {
		return err
	}
	if bootentry.CompareVersions(r.Slots[r.Trial.Slot].Version, run.Version) < 0 {
		return e.rename(bootentry.Entry{ID: run.ID(), Counted: true})
	}
	return nil
}
