package update

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/bootentry"
)

// A disk that was written over an old one finds the record of that.
func TestRecordOfAnotherDisk(t *testing.T) {
	ctx := t.Context()
	for _, slot := range []string{"a", "b"} {
		both(t, func(t *testing.T, b *bench) {
			v1, v2, v3 := b.image("1", 0), b.image("2", 0), b.image("3", 0)
			old := b.newRecord()
			old.Good = slot
			old.Slots[slot] = &Slot{State: Good, Name: "demo", Version: "2", RootHash: v2.Release.Root.RootHash}
			old.Slots[other(slot)] = &Slot{State: Empty}
			b.must(os.MkdirAll(b.State, 0o700))
			b.must(old.save(b.State))
			for range 2 {
				if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
					t.Fatalf("%+v, %v", f, err)
				}
				if id := b.start(v1, v2); id != "demo_1" {
					t.Fatalf("%s started", id)
				}
			}
			b.must(b.Install(ctx, v3, Options{}))
			if id := b.start(v1, v2, v3); id != "demo_3" {
				t.Errorf("then %s", id)
			}
		})
	}
}

// Without its record, or with one that cannot be read, a version on trial is on trial, and the one before stays.
func TestRecordLostOnTrial(t *testing.T) {
	ctx := t.Context()
	for _, lose := range []func(name string) error{
		os.Remove,
		func(name string) error { return os.WriteFile(name, []byte("{"), 0o600) },
	} {
		both(t, func(t *testing.T, b *bench) {
			v1, v2 := b.image("1", 0), b.image("2", 0)
			b.must(b.Install(ctx, v2, Options{}))
			b.start(v1, v2)
			b.must(lose(filepath.Join(b.State, "slots.json")))
			if f, err := b.Check(ctx); err != nil || !f.Trial {
				t.Fatalf("%+v, %v", f, err)
			}
			for range bootentry.Tries - 1 {
				b.start(v1, v2)
			}
			if id := b.start(v1, v2); id != "demo_1" {
				t.Fatalf("did not return: %s", id)
			}
			if f, err := b.Check(ctx); err != nil || f.Returned == nil {
				t.Errorf("%+v, %v", f, err)
			}
		})
	}
}

// A machine that lost its record still has its way back, when that is sound.
func TestRecordLostWithWayBack(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		back  bool // the older one runs
		spoil func(b *bench)
		lost  bool
	}{
		"sound":  {spoil: func(*bench) {}},
		"back":   {spoil: func(*bench) {}, back: true},
		"root":   {spoil: func(b *bench) { b.flip("root-a", 5000) }, lost: true},
		"kernel": {spoil: func(b *bench) { b.must(os.WriteFile(b.esp+"/EFI/Linux/demo_1.efi", kernel("3"), 0o600)) }, lost: true},
		"slow": {spoil: func(b *bench) {
			d := inspectTime
			inspectTime = 0
			b.t.Cleanup(func() { inspectTime = d })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, b *bench) {
				v1, v2 := b.image("1", 0), b.image("2", 0)
				proved(b, v1, v2)
				want := "demo_1"
				if c.back {
					want = "demo_2"
					b.must(b.Rollback(ctx, nil))
					b.start(v1, v2)
					b.must(b.Good(ctx))
				}
				c.spoil(b)
				files := b.files()
				b.must(os.Remove(filepath.Join(b.State, "slots.json")))
				for range 2 {
					if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
						t.Fatalf("%+v, %v", f, err)
					}
				}
				if c.lost {
					if got := b.files(); strings.Contains(got, want) {
						t.Errorf("what cannot be returned to stays: %s", got)
					}
					return
				}
				if got := b.files(); got != files {
					t.Errorf("files %s; want %s", got, files)
				}
				b.must(b.Rollback(ctx, nil))
				if id := b.start(v1, v2); id != want {
					t.Errorf("rolled back, and %s started", id)
				}
			})
		})
	}
}

// An image that has not proved itself is none to return to, however it is known.
func TestUnprovedIsNoWayBack(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		b.must(b.Install(ctx, b.image("2", 0), Options{}))
		b.must(os.Remove(filepath.Join(b.State, "slots.json")))
		if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
			t.Fatalf("%+v, %v", f, err)
		}
		if err := b.Rollback(ctx, nil); err == nil {
			t.Errorf("returned to: %+v", b.load().Slots["b"])
		}
	})
}
