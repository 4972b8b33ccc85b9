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
)

// An update that is killed while it arms what it has written did not fail: it
// is armed at the next start, or can be begun again.
func TestKilledWhileArming(t *testing.T) {
	ctx := t.Context()
	killed := errors.New("killed")
	for n := range 12 {
		both(t, func(t *testing.T, b *bench) {
			v1, v2 := b.image("1", 0), b.image("2", 0)
			left := -1
			cut = func() {
				if left--; left == 0 {
					panic(killed)
				}
			}
			write = func(name string, data []byte, mode os.FileMode) error {
				if r, err := load(b.State); err == nil && r != nil && r.Slots["b"].State == Writing {
					left = n + 1 // this one says that the slot is on trial
				}
				return atomicfile.Write(name, data, mode)
			}
			func() {
				defer func() { cut, write = func() {}, atomicfile.Write; _ = recover() }()
				_ = b.Install(ctx, v2, Options{})
			}()
			for range 4 {
				id := b.start(v1, v2)
				if f, err := b.Check(ctx); err != nil || f.Returned != nil {
					t.Fatalf("after %d changes: %+v, %v", n, f, err)
				}
				if id == "demo_2" {
					b.must(b.Good(ctx))
				} else {
					_ = b.Install(ctx, v2, Options{})
				}
			}
			if r := b.load(); r.Good != "b" || len(r.Failed) > 0 {
				t.Errorf("after %d changes: %+v", n, r)
			}
		})
	}
}

// A FAT can lose the order of what is changed in two directories.
func TestStagedBesideItsName(t *testing.T) {
	b := newBench(t, true)
	img := b.image("2", 0)
	uki := img.UKI
	img.UKI = func(ctx context.Context, dst Target, seeds []Seed) error {
		for _, name := range strings.Fields(b.files()) {
			if dir := filepath.Dir(name); dir != bootentry.Dir && dir != bootentry.GrubDir &&
				filepath.Dir(dir) != bootentry.BIOSDir {
				t.Errorf("%s is elsewhere than what it becomes", name)
			}
		}
		return uki(ctx, dst, seeds)
	}
	b.must(b.Install(t.Context(), img, Options{}))
}

// What runs has no starts left while an older image waits for its first one.
// Another image that is installed meanwhile, and does not come up, must find it
// startable.
func TestInstallInsteadOfOlder(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2, v3 := b.image("1", 0), b.image("2", 0), b.image("3", 0)
		proved(b, v1, v2)
		b.must(b.Install(ctx, v1, Options{})) // the last good one may be older
		b.must(b.Install(ctx, v3, Options{}))
		for range bootentry.Tries {
			if id := b.start(v1, v2, v3); id != "demo_3" {
				t.Fatalf("%s was started", id)
			}
		}
		if id := b.start(v1, v2, v3); id != "demo_2" {
			t.Errorf("after version 3 failed, %s starts: %s", id, b.files())
		}
	})
}

// Without its own kernel image a machine could not return, and would lose the
// image that it may have been started from.
func TestInstallNeedsWhatRuns(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.must(os.Rename(filepath.Join(b.esp, bootentry.Dir, "demo_1.efi"),
			filepath.Join(b.esp, bootentry.Dir, "demo_0.efi")))
		err := b.Install(t.Context(), b.image("2", 0), Options{})
		if err == nil || !strings.Contains(err.Error(), "no kernel image demo_1") ||
			!strings.Contains(b.files(), "demo_0.efi") {
			t.Errorf("%v, %s", err, b.files())
		}
		if r, err := load(b.State); err != nil || r != nil {
			t.Errorf("recorded: %+v, %v", r, err)
		}
	})
}
