package update

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/bootentry"
)

// recordFormat is what a record's member "format" says.
const recordFormat = "goldsmith.slots/1"

// Record is what a machine knows about its slots. It lies on the state
// partition, as boot/slots.json (docs/updates.md).
type Record struct {
	Format string           `json:"format"`
	Slots  map[string]*Slot `json:"slots"`           // "a" and "b"
	Good   string           `json:"good"`            // the slot that proved itself last; it is never written
	Trial  *Trial           `json:"trial,omitempty"` // a slot that has yet to prove itself
	// LastGood is the digest of the image that was good before the one that is
	// good now: the only older image that may be installed.
	LastGood string    `json:"last_good,omitempty"`
	Failed   []Failure `json:"failed,omitempty"` // newest last, at most maxFailed

	isNew bool // it was made of what runs
}

// What a slot's state can be.
const (
	Empty   = "empty"   // nothing that could start
	Writing = "writing" // an update was at it, and did not come to its end
	Trying  = "trying"  // complete and armed, not proved
	Good    = "good"
	Failed  = "failed" // it did not prove itself
)

// Slot is one of the two places for a root file system.
type Slot struct {
	State    string `json:"state"`
	Digest   string `json:"digest,omitempty"` // of the image's OCI manifest; empty: not known
	Name     string `json:"name,omitempty"`
	Version  string `json:"version,omitempty"`
	RootHash string `json:"root_hash,omitempty"`
	RootSize int64  `json:"root_size,omitempty"`
	UKI      string `json:"uki_sha256,omitempty"`
}

// ID is the name of the slot's files on the EFI partition, or "".
func (s *Slot) ID() string {
	if s == nil || s.Name == "" {
		return ""
	}
	return bootentry.ID(s.Name, s.Version)
}

// Trial is an update that was armed.
type Trial struct {
	Slot  string    `json:"slot"`
	Since time.Time `json:"since"`
	Armed string    `json:"armed"`           // boot id in which it was armed
	Boots []string  `json:"boots,omitempty"` // boot ids in which it ran up to userspace
	Back  bool      `json:"back,omitempty"`  // it is a rollback: the slot was good before
	Runs  int       `json:"runs,omitempty"`  // configuration runs that failed in the latest of these
}

// Failure is an image that did not prove itself on this machine, or that an
// operator went back from.
type Failure struct {
	Digest  string    `json:"digest"`
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	Reason  string    `json:"reason"`
	Back    bool      `json:"rolled_back,omitempty"` // an operator's word; it did prove itself
}

const (
	maxFailed = 16
	maxReason = 1000
	maxRecord = 1 << 20
)

// failure is what is known about an image that failed, or nil.
func (r *Record) failure(digest string) *Failure {
	for i := range slices.Backward(r.Failed) {
		if r.Failed[i].Digest == digest && digest != "" {
			return &r.Failed[i]
		}
	}
	return nil
}

func (r *Record) addFailure(f Failure) {
	f.Reason = shorten(f.Reason)
	r.Failed = slices.DeleteFunc(r.Failed, func(o Failure) bool { return o.Digest == f.Digest })
	r.Failed = append(r.Failed, f)
	if n := len(r.Failed) - maxFailed; n > 0 {
		r.Failed = slices.Delete(r.Failed, 0, n)
	}
}

// forgetBack has an image be one again that nobody went back from.
func (r *Record) forgetBack(digest string) {
	r.Failed = slices.DeleteFunc(r.Failed, func(f Failure) bool { return f.Back && f.Digest == digest })
}

// other is the slot beside the one called name.
func other(name string) string {
	if name == "a" {
		return "b"
	}
	return "a"
}

// errRecord says that a record is there and means nothing.
var errRecord = errors.New("not a record")

// load reads the record; nil means that there is none yet.
func load(dir string) (*Record, error) {
	name := filepath.Join(dir, "slots.json")
	st, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxRecord {
		return nil, fmt.Errorf("%s: %w", name, errRecord)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r := &Record{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, errRecord, err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, errRecord, err)
	}
	return r, nil
}

func (r *Record) check() error {
	switch {
	case r.Format != recordFormat:
		return fmt.Errorf("format %q: want %q", r.Format, recordFormat)
	case r.Slots["a"] == nil || r.Slots["b"] == nil || len(r.Slots) != 2:
		return errors.New("want the slots a and b")
	case r.Slots[r.Good] == nil:
		return fmt.Errorf("no good slot: %q", r.Good)
	case r.Trial != nil && (r.Slots[r.Trial.Slot] == nil || r.Trial.Slot == r.Good):
		return fmt.Errorf("slot %q cannot be on trial", r.Trial.Slot)
	}
	for name, s := range r.Slots {
		if s.Name != "" && !(bootentry.IsName(s.Name) && bootentry.IsVersion(s.Version)) {
			return fmt.Errorf("slot %s: name %q, version %q", name, s.Name, s.Version)
		}
	}
	if r.Trial == nil {
		return nil
	}
	s := r.Slots[r.Trial.Slot]
	if s.Name == "" || s.State != Trying && (s.State != Failed || len(r.Failed) == 0) {
		return fmt.Errorf("slot %s is on trial with name %q and state %q", r.Trial.Slot, s.Name, s.State)
	}
	return nil
}

// write is how a record is written; a test lets it fail.
var write = atomicfile.Write

// save writes the record, unless it is there as it is; it is on the disk when save
// returns.
func (r *Record) save(dir string) error {
	if err := r.check(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	name, text := filepath.Join(dir, "slots.json"), append(text, '\n')
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, text) {
		return nil // most starts have nothing new
	}
	return write(name, text, 0o600)
}
