package update

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/bootentry"
)

// A machine that came back and cannot say so in its record, or did not come to
// its check, does not take the image for one that waits for its first start:
// it would restart for ever.
func TestReturnedIsNotWaiting(t *testing.T) {
	ctx := t.Context()
	for name, check := range map[string]func(b *bench){
		"full": func(b *bench) {
			write = func(string, []byte, os.FileMode) error { return errors.New("no space left on device") }
			if _, err := b.Check(ctx); err == nil {
				b.t.Error("recorded")
			}
		},
		"no EFI partition": func(b *bench) {
			b.ESP = func() (string, func() error, error) { return "", nil, os.ErrPermission }
			if _, err := b.Check(ctx); err == nil {
				b.t.Error("no error")
			}
		},
		"killed": func(*bench) {},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, b *bench) {
				defer func() { write = atomicfile.Write }()
				v1, v2 := b.image("1", 0), b.image("2", 0)
				b.must(b.Install(ctx, v2, Options{}))
				for range bootentry.Tries + 1 {
					b.start(v1, v2)
				}
				for range 3 {
					check(b)
					if is, f, err := b.Compare(ctx, v2.Digest); is != HasBeen || f == nil || err != nil {
						t.Fatalf("%s, %+v, %v", is, f, err)
					}
					b.start(v1, v2)
				}
				write, b.ESP = atomicfile.Write, b.mount
				if f, err := b.Check(ctx); err != nil || f.Returned == nil {
					t.Errorf("at last: %+v, %v", f, err)
				}
			})
		})
	}
}

// An image that cannot be armed does not wait for a start, and leaves nothing.
func TestNotArmed(t *testing.T) {
	ctx := t.Context()
	for _, broken := range []bool{false, true} { // the EFI partition, when the update is called off
		b := newBench(t, true)
		v1, v2 := b.image("1", 0), b.image("2", 0)
		img := b.image("2", 0)
		img.UKI = func(_ context.Context, dst Target, _ []Seed) error { return put(dst, []byte("MZ no kernel")) }
		img.Release.UKI.SHA256 = digestOf("MZ no kernel")
		if broken {
			write = func(name string, data []byte, mode os.FileMode) error {
				if r := b.load(); r != nil && r.Trial != nil {
					return errors.New("no space left on device")
				}
				return atomicfile.Write(name, data, mode)
			}
		}
		err := b.Install(ctx, img, Options{})
		write = atomicfile.Write
		if err == nil {
			t.Fatal("no kernel was armed")
		}
		if is, _, err := b.Compare(ctx, img.Digest); is != New || err != nil {
			t.Errorf("broken %v: %s, %v", broken, is, err)
		}
		if r := b.load(); !broken && (r.Trial != nil || r.Slots["b"].State != Empty) {
			t.Errorf("%+v", r)
		}
		if id := b.start(v1, v2); id != "demo_1" {
			t.Fatalf("%s started", id)
		}
		if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
			t.Errorf("%+v, %v", f, err)
		}
		b.must(b.Install(ctx, v2, Options{}))
		if is, _, err := b.Compare(ctx, v2.Digest); is != Waits || err != nil {
			t.Errorf("then %s, %v", is, err)
		}
	}
}

// A slot that takes long to be looked at does not keep the machine from saying
// that it came back.
func TestReturnInTime(t *testing.T) {
	ctx := t.Context()
	defer func(d time.Duration) { inspectTime = d }(inspectTime)
	b := newBench(t, false)
	v1, v2 := b.image("1", 0), b.image("2", 0)
	b.must(b.Install(ctx, v2, Options{}))
	for range bootentry.Tries + 1 {
		b.start(v1, v2)
	}
	inspectTime = 0
	f, err := b.Check(ctx)
	if err != nil || f.Returned == nil || !strings.Contains(f.Returned.Reason, "was not looked at to its end") {
		t.Errorf("%+v, %v", f.Returned, err)
	}
}
