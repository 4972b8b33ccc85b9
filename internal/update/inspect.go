package update

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/uki"
)

// Inspection is what is on the EFI partition beside what should be there.
type Inspection struct {
	Wrong   []Fault  // in the order of slots, then of files
	Unknown []string // what there is nothing to compare with, for people
}

// Fault is one file.
type Fault struct{ Path, Detail string }

const loaderFile = "EFI/BOOT/BOOTX64.EFI"

// InspectBoot compares the files that start this machine with the record and
// with what runs. The path of a fault is that on the EFI partition.
func (m *Machine) InspectBoot(ctx context.Context) (found Inspection, err error) {
	err = m.reading(ctx, func(r *Record) error {
		if m.Boot.From == FromNetwork {
			found.Unknown = append(found.Unknown, "the EFI partition: this machine starts from the network")
			return nil
		}
		d, err := openDisk(m.Boot.Disk)
		if err != nil {
			return err
		}
		return m.withESP(d, func(e *esp) error {
			found, err = m.inspectBoot(r, e)
			return err
		})
	})
	return found, err
}

func (m *Machine) inspectBoot(r *Record, e *esp) (found Inspection, err error) {
	wrong := func(path, detail string) { found.Wrong = append(found.Wrong, Fault{path, detail}) }
	known := map[string]bool{}
	for _, name := range []string{"a", "b"} {
		s := r.Slots[name]
		if s.ID() == "" || s.State != Good && s.State != Trying {
			continue
		}
		known[s.ID()] = true
		file := path.Join(bootentry.Dir, s.ID()+".efi")
		if damage := e.inspect(s); damage != "" {
			wrong(file, damage)
		} else if damage := e.wrongRoot(s); damage != "" {
			wrong(file, damage)
		} else if s.UKI == "" {
			found.Unknown = append(found.Unknown, file+": no update brought it, so nothing but its root hash is known")
		}
	}
	if s := r.Slots[m.Boot.Slot]; s.RootHash != m.Boot.RootHash {
		wrong("slot "+m.Boot.Slot, "the record has another root hash than what runs")
	}
	entries, err := e.entries()
	if err != nil {
		return found, err
	}
	for _, entry := range entries {
		if !known[entry.ID] {
			wrong(path.Join(bootentry.Dir, entry.File()), "no slot has this version")
		}
	}
	m.inspectLoaders(e, &found)
	return found, nil
}

// wrongRoot says when a version's kernel image asks for another root than the
// slot has.
func (e *esp) wrongRoot(s *Slot) string {
	parts, err := e.parse(s.ID())
	if err != nil {
		return err.Error()
	}
	for word := range strings.FieldsSeq(parts.Cmdline) {
		if word == "roothash="+s.RootHash {
			return ""
		}
	}
	return "its kernel image starts another root than the slot has"
}

// parse reads a version's kernel image.
func (e *esp) parse(id string) (uki.Image, error) {
	found, err := e.find(id)
	if err != nil {
		return uki.Image{}, err
	}
	if len(found) == 0 {
		return uki.Image{}, fmt.Errorf("EFI partition: no kernel image %s", id)
	}
	image, err := os.ReadFile(e.path(bootentry.Dir, found[0].File()))
	if err != nil {
		return uki.Image{}, err
	}
	parts, err := uki.Parse(image)
	if err != nil {
		return uki.Image{}, fmt.Errorf("EFI partition: kernel image %s: %w", id, err)
	}
	return parts, nil
}

func (m *Machine) inspectLoaders(e *esp, found *Inspection) {
	loader, err := os.ReadFile(e.path(loaderFile))
	if err != nil {
		found.Wrong = append(found.Wrong, Fault{loaderFile, err.Error()})
	}
	own, missing := os.ReadFile(filepath.Join(cmp.Or(m.Root, "/"), "usr/lib/systemd/boot/efi/systemd-bootx64.efi"))
	if err == nil && (missing != nil || !bytes.Equal(own, loader)) {
		found.Unknown = append(found.Unknown,
			loaderFile+": not this image's as it is: signed, or of the image that the disk was made with")
	}
	if !e.bios {
		return
	}
	if config, err := os.ReadFile(e.path(bootentry.ConfigFile)); err != nil || string(config) != bootentry.GrubConfig {
		found.Wrong = append(found.Wrong, Fault{bootentry.ConfigFile, "not as it is written with an image"})
	}
	if _, err := e.env(); err != nil {
		found.Wrong = append(found.Wrong, Fault{bootentry.EnvFile, err.Error()})
	}
	found.Unknown = append(found.Unknown, "GRUB before its configuration: the first sector and the partition bios")
}
