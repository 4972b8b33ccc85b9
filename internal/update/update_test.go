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
	"goldsmith/internal/testenv"
	"goldsmith/internal/uki"
)

// fakeUKI is a unified kernel image as far as uki.Parse looks.
func fakeUKI(version string) []byte {
	b, err := uki.Build(testenv.EFIProgram(), uki.Image{Cmdline: "roothash=" + version, Linux: []byte("kernel " + version), Initrd: []byte("initrd")})
	if err != nil {
		panic(err)
	}
	return b
}

func both(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Run("uefi", func(t *testing.T) { f(t, newBench(t, false)) })
	t.Run("bios", func(t *testing.T) { f(t, newBench(t, true)) })
}

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

// An image that never comes up, one that hangs in userspace, one that says that
// it is bad, one whose configuration fails: the machine is back in version 1
// and knows why, and does not try that image again by itself.
func TestReturns(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		damage func(b *bench)
		boot   func(b *bench) // what the new system does at each start
		starts int
		want   string
	}{
		"panic": {starts: bootentry.Tries, want: "did not come up far enough"},
		"hang": {starts: bootentry.Tries, want: "it came up 3 times and did not prove itself",
			boot: func(b *bench) { _, err := b.Check(ctx); b.must(err) }},
		"bad": {starts: 1, want: "health check redis",
			boot: func(b *bench) {
				_, err := b.Check(ctx)
				b.must(err)
				b.must(b.Bad(ctx, "health check redis: no\nanswer"))
			}},
		"runs": {starts: 1, want: "3 configuration runs failed, the last by migration.d/50-x",
			boot: func(b *bench) {
				_, err := b.Check(ctx)
				b.must(err)
				for i := range MaxRuns {
					over, err := b.FailedRun(ctx, "migration.d/50-x")
					b.must(err)
					if over != (i == MaxRuns-1) {
						b.t.Errorf("run %d: %v", i, over)
					}
				}
			}},
		"root": {starts: bootentry.Tries, want: "slot b is damaged: ", damage: func(b *bench) { b.flip("root-b", 5000) }},
		"tree": {starts: bootentry.Tries, want: "slot b is damaged: ", damage: func(b *bench) { b.flip("verity-b", 4100) }},
		"kernel": {starts: bootentry.Tries, want: "kernel image on the EFI partition is damaged", damage: func(b *bench) {
			b.must(os.WriteFile(filepath.Join(b.esp, bootentry.Dir, "demo_2+3.efi"), []byte("MZ"), 0o600))
		}},
		"imginit": {starts: bootentry.Tries, want: "its imginit reported: no state", boot: func(b *bench) {
			f, err := os.OpenFile(filepath.Join(b.State, "attempts.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			b.must(err)
			_, err = f.WriteString(`{"roothash":"` + b.Boot.RootHash + `","boot_id":"` + b.BootID + `","stage":"failed","error":"no state"}` + "\n")
			b.must(errors.Join(err, f.Close()))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, b *bench) {
				v1, v2 := b.image("1", 0), b.image("2", 0)
				b.must(b.Install(ctx, v2, Options{}))
				if c.damage != nil {
					c.damage(b)
				}
				for i := range c.starts {
					if id := b.start(v1, v2); id != "demo_2" {
						t.Fatalf("start %d: %s", i, id)
					}
					if c.boot != nil {
						c.boot(b)
					}
				}
				if id := b.start(v1, v2); id != "demo_1" {
					t.Fatalf("did not return: %s", id)
				}
				f, err := b.Check(ctx)
				if err != nil || f.Returned == nil || !strings.Contains(f.Returned.Reason, c.want) || strings.Contains(f.Returned.Reason, "\n") {
					t.Fatalf("returned: %+v, %v", f.Returned, err)
				}
				if f, err := b.Check(ctx); err != nil || f.Returned != nil {
					t.Errorf("once more: %+v, %v", f, err)
				}
				if err := b.Install(ctx, v2, Options{}); command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), c.want) {
					t.Errorf("again: %v", err)
				}
				if id := b.start(v1, v2); id != "demo_1" {
					t.Errorf("then %s", id)
				}
				b.must(b.Install(ctx, v2, Options{Retry: true}))
				if id := b.start(v1, v2); id != "demo_2" {
					t.Errorf("retried, and %s started", id)
				}
			})
		})
	}
}

// flip changes a byte of a partition.
func (b *bench) flip(part string, off int64) {
	d, err := openDisk(b.Boot.Disk)
	b.must(err)
	a, err := d.open(part, os.O_RDWR)
	b.must(err)
	defer a.Close()
	var x [1]byte
	_, err = a.ReadAt(x[:], off)
	b.must(err)
	x[0] ^= 0x10
	_, err = a.WriteAt(x[:], off)
	b.must(err)
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

// A boot loader that does not count is found out by our own count.
func TestOwnCount(t *testing.T) {
	ctx := t.Context()
	b := newBench(t, false)
	v1, v2 := b.image("1", 0), b.image("2", 0)
	b.must(b.Install(ctx, v2, Options{}))
	for i := range bootentry.Tries + 2 {
		b.start(v1, v2)
		e := &esp{dir: b.esp}
		b.must(e.rename(bootentry.Entry{ID: "demo_2", Counted: true, Left: bootentry.Tries}))
		f, err := b.Check(ctx)
		b.must(err)
		if f.Restart != (i == bootentry.Tries+1) {
			t.Errorf("start %d: %+v", i, f)
		}
	}
	if id := b.start(v1, v2); id != "demo_1" {
		t.Errorf("%s started", id)
	}
	if f, err := b.Check(ctx); err != nil || f.Returned == nil || !strings.Contains(f.Returned.Reason, "does not count") {
		t.Errorf("%+v, %v", f, err)
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

// What was given up is not good, whoever comes to say so before the restart.
func TestGoodAfterBad(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		b.must(b.Install(ctx, v2, Options{}))
		b.start(v1, v2)
		b.must(b.Bad(ctx, "no"))
		if err := b.Good(ctx); command.Status(err) != command.StatusUsage {
			t.Errorf("good after bad: %v", err)
		}
		if id := b.start(v1, v2); id != "demo_1" {
			t.Errorf("%s started", id)
		}
	})
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
