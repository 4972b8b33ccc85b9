package update

import (
	"strings"
	"testing"
)

// What an operator went back from is not installed again because the metadata
// want it, but by hand.
func TestRolledBack(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		is := func(img Image, want string) {
			t.Helper()
			got, f, err := b.Compare(ctx, img.Digest)
			if got != want || err != nil || want == GoneFrom && !strings.Contains(f.Reason, "an operator went back to version 1") {
				t.Errorf("version %s: %s, %+v, %v; want %s", img.Release.Version, got, f, err, want)
			}
		}
		proved(b, v1, v2)
		b.must(b.Rollback(ctx, nil))
		if done, err := b.Disarm(ctx); !done || err != nil {
			t.Fatal(done, err)
		}
		if r := b.load(); len(r.Failed) > 0 {
			t.Errorf("called off: %+v", r.Failed)
		}
		b.must(b.Rollback(ctx, nil))
		b.start(v1, v2)
		_, err := b.Check(ctx)
		b.must(err)
		b.must(b.Good(ctx))
		is(v1, Runs)
		is(v2, GoneFrom)
		// By hand, without --retry.
		b.must(b.Install(ctx, v2, Options{}))
		is(v2, Waits)
		if done, err := b.Disarm(ctx); !done || err != nil {
			t.Fatal(done, err)
		}
		is(v2, New)
	})
}

// Forward again by a rollback: that one runs, and the other one is gone from.
func TestRolledBackTwice(t *testing.T) {
	ctx := t.Context()
	b := newBench(t, false)
	v1, v2 := b.image("1", 0), b.image("2", 0)
	proved(b, v1, v2)
	for range 2 {
		b.must(b.Rollback(ctx, nil))
		b.start(v1, v2)
		b.must(b.Good(ctx))
	}
	for img, want := range map[string]string{v2.Digest: Runs, v1.Digest: GoneFrom} {
		if is, _, err := b.Compare(ctx, img); is != want || err != nil {
			t.Errorf("%s, %v; want %s", is, err, want)
		}
	}
	if r := b.load(); len(r.Failed) != 1 || r.Failed[0].Digest != v1.Digest {
		t.Errorf("%+v", r.Failed)
	}
}
