package update

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/release"
)

func TestUpdate(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		ctx := t.Context()
		v1, v2, v3 := b.image("1", 0), b.image("2", 0), b.image("3", 0)
		if err := b.Install(ctx, v1, Options{}); !errors.Is(err, ErrRuns) {
			t.Fatalf("the image that runs: %v", err)
		}
		for i, img := range []Image{v2, v3} {
			want := []string{"b", "a"}[i]
			b.must(b.Install(ctx, img, Options{}))
			if f, err := b.Check(ctx); err != nil || f.Trial || f.Returned != nil {
				t.Fatalf("before the restart: %+v, %v", f, err)
			}
			if id := b.start(v1, v2, v3); id != img.Release.UKI.ID || b.Machine.Boot.Slot != want {
				t.Fatalf("started %s in slot %s", id, b.Machine.Boot.Slot)
			}
			if f, err := b.Check(ctx); err != nil || !f.Trial || f.Start != 1 {
				t.Fatalf("on trial: %+v, %v", f, err)
			}
			if err := b.Install(ctx, v3, Options{}); i == 0 && command.Status(err) != command.StatusBusy {
				t.Fatalf("an update on trial: %v", err)
			}
			b.must(b.Good(ctx))
			if r := b.load(); r.Good != want || r.Trial != nil || r.Slots[want].Digest != img.Digest {
				t.Fatalf("record %+v", r)
			}
			for range 5 {
				if id := b.start(v1, v2, v3); id != img.Release.UKI.ID {
					t.Fatalf("good, and %s started", id)
				}
				if f, err := b.Check(ctx); err != nil || f.Trial || f.Returned != nil {
					t.Fatalf("good: %+v, %v", f, err)
				}
			}
		}
		want := "EFI/Linux/demo_2.efi EFI/Linux/demo_3.efi"
		if b.bios {
			want += " bios/demo_2/boot.cfg bios/demo_2/initrd bios/demo_2/linux bios/demo_3/boot.cfg bios/demo_3/initrd bios/demo_3/linux grub/grub.cfg grub/grubenv"
		}
		if got := b.files(); got != want {
			t.Errorf("files: %s", got)
		}
	})
}

func TestVersionsGoForward(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2, v3 := b.image("1", 0), b.image("2", 0), b.image("3", 0)
		prove := func(img Image, want string) {
			t.Helper()
			b.must(b.Install(ctx, img, Options{}))
			if id := b.start(v1, v2, v3); id != want {
				t.Fatalf("started %s, want %s", id, want)
			}
			_, err := b.Check(ctx)
			b.must(err)
			b.must(b.Good(ctx))
		}
		_ = b.Install(ctx, v1, Options{}) // now its digest is known
		prove(v2, "demo_2")
		prove(v3, "demo_3")
		for name, img := range map[string]Image{"it does not go back": v1, "but another one": b.image("3", 1)} {
			if err := b.Install(ctx, img, Options{}); command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
		other := b.image("4", 0)
		other.Release.Name, other.Release.UKI.ID = "else", "else_4"
		if err := b.Install(ctx, other, Options{}); command.Status(err) != command.StatusUsage {
			t.Errorf("another name: %v", err)
		}
		prove(v2, "demo_2") // the last good one
		if id := b.start(v1, v2, v3); id != "demo_2" {
			t.Errorf("went back, and %s started", id)
		}
		prove(v3, "demo_3")
		// A rollback needs no download.
		b.must(b.Rollback(ctx, nil))
		if id := b.start(v1, v2, v3); id != "demo_2" {
			t.Errorf("rolled back, and %s started", id)
		}
		// It does not prove itself: version 3 comes again.
		for range bootentry.Tries - 1 {
			b.start(v1, v2, v3)
		}
		if id := b.start(v1, v2, v3); id != "demo_3" {
			t.Errorf("rolled back in vain, and %s started", id)
		}
		f, err := b.Check(ctx)
		if err != nil || f.Returned == nil {
			t.Errorf("%+v, %v", f, err)
		}
	})
}

// What stops an update before it is armed leaves a machine that starts what it
// started before, and the next update clears up.
func TestInterrupted(t *testing.T) {
	ctx := t.Context()
	stop := errors.New("stop")
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		for name, spoil := range map[string]func(img *Image, o *Options){
			"root":    func(img *Image, _ *Options) { img.Root = func(context.Context, Target, []Seed) error { return stop } },
			"uki":     func(img *Image, _ *Options) { img.UKI = func(context.Context, Target, []Seed) error { return stop } },
			"quiesce": func(_ *Image, o *Options) { o.Quiesce = func(context.Context) error { return stop } },
			"other root": func(img *Image, _ *Options) {
				img.Root = func(_ context.Context, dst Target, _ []Seed) error { return put(dst, content("x")) }
			},
			"other uki": func(img *Image, _ *Options) {
				img.UKI = func(_ context.Context, dst Target, _ []Seed) error { return put(dst, kernel("x")) }
			},
		} {
			img, o := v2, Options{}
			spoil(&img, &o)
			if err := b.Install(ctx, img, o); err == nil {
				t.Errorf("%s: no error", name)
			}
			if id := b.start(v1, v2); id != "demo_1" {
				t.Errorf("%s: %s started", name, id)
			}
			if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
				t.Errorf("%s: %+v, %v", name, f, err)
			}
			if r := b.load(); r.Slots["b"].State != Empty {
				t.Errorf("%s: %+v", name, r.Slots["b"])
			}
			if _, err := os.Stat(filepath.Join(b.esp, bootentry.Dir, stagingName)); err == nil {
				t.Errorf("%s: something is left: %s", name, b.files())
			}
		}
		b.must(b.Install(ctx, v2, Options{}))
		if id := b.start(v1, v2); id != "demo_2" {
			t.Errorf("then %s", id)
		}
	})
}

func TestRoom(t *testing.T) {
	b := newBench(t, false)
	img := b.image("2", 0)
	img.Release.Root.Size = slotSize + 4096
	if err := b.Install(t.Context(), img, Options{}); command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), "root-b") {
		t.Errorf("large root: %v", err)
	}
	img = b.image("2", 0)
	img.Release.UKI.Size = 1 << 60
	if err := b.Install(t.Context(), img, Options{}); command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), "EFI partition") {
		t.Errorf("large kernel image: %v", err)
	}
	if r := b.load(); r != nil {
		t.Errorf("something was recorded: %+v", r)
	}
}

// A new system that fills the state partition, or whose record cannot be
// written for another reason, is given up nevertheless.
func TestRecordCannotBeWritten(t *testing.T) {
	ctx := t.Context()
	for name, end := range map[string]func(b *bench) error{
		"bad": func(b *bench) error { return b.Bad(ctx, "full") },
		"run": func(b *bench) error {
			over, err := b.FailedRun(ctx, "migration.d/50-x")
			if !over {
				b.t.Error("a run that cannot be counted is not the last")
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, b *bench) {
				v1, v2 := b.image("1", 0), b.image("2", 0)
				b.must(b.Install(ctx, v2, Options{}))
				b.start(v1, v2)
				_, err := b.Check(ctx)
				b.must(err)
				write = func(string, []byte, os.FileMode) error { return errors.New("no space left on device") }
				err = end(b)
				write = atomicfile.Write
				b.must(err)
				if id := b.start(v1, v2); id != "demo_1" {
					t.Fatalf("did not return: %s", id)
				}
				if f, err := b.Check(ctx); err != nil || f.Returned == nil {
					t.Errorf("%+v, %v", f, err)
				}
			})
		})
	}
}

// One root cannot be in both slots: kernels find it by its root hash.
func TestSameRootOtherKernel(t *testing.T) {
	b := newBench(t, false)
	if err := b.Install(t.Context(), b.image("1", 0), Options{}); !errors.Is(err, ErrRuns) {
		t.Fatal(err)
	}
	for name, change := range map[string]func(u *release.UKI){
		"kernel":  func(u *release.UKI) { u.SHA256 = digestOf("another") },
		"version": func(u *release.UKI) { u.ID = "demo_2" },
	} {
		img := b.image("1", 0)
		change(img.Release.UKI)
		if err := b.Install(t.Context(), img, Options{}); command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), "another kernel image") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if id := b.start(b.image("1", 0)); id != "demo_1" {
		t.Error(id)
	}
}

// A rollback with an environment block that cannot be read leaves a way back.
func TestRollbackWithoutEnv(t *testing.T) {
	ctx := t.Context()
	b := newBench(t, true)
	v1, v2 := b.image("1", 0), b.image("2", 0)
	b.must(b.Install(ctx, v2, Options{}))
	b.start(v1, v2)
	_, err := b.Check(ctx)
	b.must(err)
	b.must(b.Good(ctx))
	b.must(os.WriteFile(filepath.Join(b.esp, bootentry.EnvFile), make([]byte, bootentry.EnvSize), 0o600))
	b.must(b.Rollback(ctx, nil))
	for range bootentry.Tries {
		if id := b.start(v1, v2); id != "demo_1" {
			t.Fatalf("%s started", id)
		}
	}
	if id := b.start(v1, v2); id != "demo_2" {
		t.Errorf("did not return: %s", id)
	}
}
