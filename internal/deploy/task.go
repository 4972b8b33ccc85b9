package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"goldsmith/internal/command"
)

// Kind is what a task is about.
type Kind string

// Kinds of tasks.
const (
	Inspect Kind = "inspect" // say what the machine has
	Deploy  Kind = "deploy"  // write an image to a disk, and start it
	Clean   Kind = "clean"   // forget what is on all disks
	Wait    Kind = "wait"    // there is nothing to do: ask again
)

// Task is what an agent is to do.
type Task struct {
	ID      string  `json:"id"` // the server's; empty in one that is yet to be assigned
	Kind    Kind    `json:"kind"`
	Image   *Image  `json:"image,omitempty"` // of Deploy
	Storage Storage `json:"storage"`         // of Deploy
	Seed    *Seed   `json:"seed,omitempty"`  // of Deploy; nil writes none
	Finish  Finish  `json:"finish,omitempty"`
}

// Image is what is written.
type Image struct {
	Source string   `json:"source"` // as package fetch names it, without "@" and digest
	Digest string   `json:"digest"` // of the image's manifest, sha256:…
	Keys   []string `json:"keys"`   // trusted public keys, in PEM; none takes an image without signature, too
}

// Storage is what the image's disk is to be.
type Storage struct {
	Level string `json:"level,omitempty"` // LevelSingle, LevelRAID1; empty is LevelSingle
	Disks int    `json:"disks,omitempty"` // how many at least; 0 is what the level needs
	Size  int64  `json:"size,omitempty"`  // how large each is at least, in bytes
	// Hints say which disks may be taken: all that are given must be true of
	// one. The zero value takes any.
	Hints Hints `json:"hints"`
}

// Levels of storage. Deploy steps may know more.
const (
	LevelSingle = "single"
	LevelRAID1  = "raid1"
)

// Hints choose disks.
type Hints struct {
	Serial     string `json:"serial,omitempty"`     // the whole of it
	WWN        string `json:"wwn,omitempty"`        // the whole of it, with or without what is before the number, such as naa. or 0x
	Size       int64  `json:"size,omitempty"`       // exactly, in bytes; 0 takes any
	Model      string `json:"model,omitempty"`      // a part of it
	Rotational *bool  `json:"rotational,omitempty"` // nil takes both
}

// Seed is what the machine is told at its first boot, as internal/seed takes it.
type Seed struct {
	InstanceID     string          `json:"instance_id"`
	Hostname       string          `json:"hostname"`
	AuthorizedKeys []string        `json:"authorized_keys,omitempty"`
	Metadata       json.RawMessage `json:"metadata,omitempty"`
}

// Finish is how a deploy task ends.
type Finish string

// Ends of a deploy task. Empty is Reboot.
const (
	Reboot Finish = "reboot"
	Kexec  Finish = "kexec" // start the image's kernel without firmware and boot loader
	Off    Finish = "off"
)

// MaxKeys is how many trusted keys a task may name.
const MaxKeys = 64

var (
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	levelForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
)

// Check says what is wrong with a task.
func (t *Task) Check() error {
	bad := func(format string, args ...any) error {
		return command.BadInput(fmt.Errorf("task: "+format, args...), "")
	}
	switch t.Kind {
	case Inspect, Clean, Wait:
		if t.Image != nil || t.Seed != nil || t.Finish != "" {
			return bad("%s takes neither image nor seed nor finish", t.Kind)
		}
		return nil
	case Deploy:
	default:
		return bad("kind %q: want inspect, deploy, clean or wait", t.Kind)
	}
	switch t.Finish {
	case "", Reboot, Kexec, Off:
	default:
		return bad("finish %q: want reboot, kexec or off", t.Finish)
	}
	switch im := t.Image; {
	case im == nil:
		return bad("deploy needs an image")
	case im.Source == "" || strings.ContainsAny(im.Source, "@ \n"):
		return bad("image source %q: want a URL or HOST/REPOSITORY, without the digest", im.Source)
	case strings.HasPrefix(im.Source, "oci:"):
		return bad("image source %q: the machine has no such directory", im.Source)
	case !digestForm.MatchString(im.Digest):
		return bad("image digest %q: want sha256: and 64 hexadecimal digits", im.Digest)
	case len(im.Keys) > MaxKeys:
		return bad("more than %d trusted keys", MaxKeys)
	}
	switch s := t.Storage; {
	case s.Level != "" && !levelForm.MatchString(s.Level):
		return bad("storage level %q", s.Level)
	case s.Disks < 0 || s.Disks > 64 || s.Size < 0:
		return bad("storage of %d disks of %d bytes", s.Disks, s.Size)
	}
	if err := t.Seed.check(); err != nil {
		return bad("seed: %w", err)
	}
	return nil
}

func (s *Seed) check() error {
	switch {
	case s == nil:
		return nil
	case s.InstanceID == "" || s.Hostname == "":
		return errors.New("instance id and host name must not be empty")
	case len(s.Metadata) > 0 && !json.Valid(s.Metadata):
		return errors.New("metadata are no JSON")
	}
	return nil
}

// Ref is the image as package fetch takes it.
func (im *Image) Ref() string { return im.Source + "@" + im.Digest }

// Need is how many disks the storage takes at least.
func (s *Storage) Need() int {
	n := max(s.Disks, 1)
	if s.Level == LevelRAID1 {
		n = max(n, 2)
	}
	return n
}
