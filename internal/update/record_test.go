package update

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"goldsmith/internal/atomicfile"
)

// What a record says is used to name files and to index lists: one that no
// update wrote is put aside at the next start.
func TestRecordThatMeansNothing(t *testing.T) {
	const start = `{"format":"goldsmith.slots/1","good":"a","slots":{"a":{"state":"good","name":"demo","version":"1"},"b":`
	for name, text := range map[string]string{
		"nothing":             "",
		"another format":      `{"format":"goldsmith.slots/2"}`,
		"one slot":            `{"format":"goldsmith.slots/1","good":"a","slots":{"a":{"state":"good"}}}`,
		"trial of the good":   start + `{"state":"empty"}},"trial":{"slot":"a"}}`,
		"trial of nothing":    start + `{"state":"empty"}},"trial":{"slot":"b"}}`,
		"trial without name":  start + `{"state":"trying"}},"trial":{"slot":"b"}}`,
		"failed for nothing":  start + `{"state":"failed","name":"demo","version":"2"}},"trial":{"slot":"b"}}`,
		"name that is a path": start + `{"state":"good","name":"../..","version":"2"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true)
			b.must(os.MkdirAll(b.State, 0o700))
			file := filepath.Join(b.State, "slots.json")
			b.must(os.WriteFile(file, []byte(text), 0o600))
			if r, err := load(b.State); !errors.Is(err, errRecord) {
				t.Errorf("load: %+v, %v", r, err)
			}
			files := b.files()
			if f, err := b.Check(t.Context()); err != nil || f != (Finding{}) || b.files() != files {
				t.Errorf("%+v, %v, %s", f, err, b.files())
			}
			if _, err := os.Stat(file + ".unreadable"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A service that is stopped for the return fails its configuration run, too.
func TestFirstReasonStays(t *testing.T) {
	ctx := t.Context()
	b := newBench(t, false)
	v1, v2 := b.image("1", 0), b.image("2", 0)
	b.must(b.Install(ctx, v2, Options{}))
	b.start(v1, v2)
	if _, err := b.Check(ctx); err != nil {
		t.Fatal(err)
	}
	b.must(b.Bad(ctx, "first"))
	b.must(b.Bad(ctx, "second"))
	for range MaxRuns {
		if _, err := b.FailedRun(ctx, "third"); err != nil {
			t.Fatal(err)
		}
	}
	if r := b.load(); len(r.Failed) != 1 || r.Failed[0].Reason != "first" {
		t.Errorf("%+v", r.Failed)
	}
}

func TestRemoveNothing(t *testing.T) {
	b := newBench(t, true)
	e, err := openESP(b.esp)
	b.must(err)
	files := b.files()
	if err := e.remove(""); err != nil || b.files() != files {
		t.Errorf("%v, %s", err, b.files())
	}
}

// A start without anything to record needs no room on the state partition.
func TestNothingToRecord(t *testing.T) {
	b := newBench(t, false)
	_, err := b.Check(t.Context())
	b.must(err)
	write = func(string, []byte, os.FileMode) error { return errors.New("no space left on device") }
	defer func() { write = atomicfile.Write }()
	if f, err := b.Check(t.Context()); err != nil || f != (Finding{}) {
		t.Errorf("%+v, %v", f, err)
	}
}

// That an image runs already is no success when it cannot be recorded: each
// configuration run would ask for it again.
func TestDigestThatCannotBeKept(t *testing.T) {
	b := newBench(t, false)
	v1 := b.image("1", 0)
	full := errors.New("no space left on device")
	write = func(string, []byte, os.FileMode) error { return full }
	defer func() { write = atomicfile.Write }()
	if err := b.Install(t.Context(), v1, Options{}); !errors.Is(err, full) || errors.Is(err, ErrRuns) {
		t.Errorf("%v", err)
	}
	write = atomicfile.Write
	if err := b.Install(t.Context(), v1, Options{}); err == nil || !errors.Is(err, ErrRuns) {
		t.Errorf("with room: %v", err)
	}
	if r := b.load(); r.Slots["a"].Digest != v1.Digest {
		t.Errorf("%+v", r.Slots["a"])
	}
}

// An image that is refused is not the one that runs, though its root is; and one
// that runs is not armed, whatever the record says of its slot.
func TestRootThatRuns(t *testing.T) {
	ctx := t.Context()
	b := newBench(t, false)
	v1, v2 := b.image("1", 0), b.image("2", 0)
	proved(b, v1, v2)
	other := b.image("2", 0)
	other.Digest, other.Release.UKI.SHA256 = v1.Digest, digestOf("another kernel")
	if err := b.Install(ctx, other, Options{}); err == nil || errors.Is(err, ErrRuns) {
		t.Errorf("another kernel image: %v", err)
	}
	if r := b.load(); r.Slots["b"].Digest != v2.Digest {
		t.Errorf("%+v", r.Slots["b"])
	}
	r := b.load()
	r.Good, r.Slots["b"] = "a", &Slot{State: Empty}
	b.must(r.save(b.State))
	if err := b.Install(ctx, v2, Options{}); !errors.Is(err, ErrRuns) {
		t.Errorf("in a slot that the record does not know: %v", err)
	}
}
