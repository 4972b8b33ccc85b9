package update

import (
	"context"
	"strings"
	"testing"

	"goldsmith/internal/command"
)

// proved makes a machine that runs version 2 in slot b, and has version 1 in
// slot a.
func proved(b *bench, v1, v2 Image) {
	b.t.Helper()
	ctx := b.t.Context()
	_ = b.Install(ctx, v1, Options{}) // now its digest is known
	b.must(b.Install(ctx, v2, Options{}))
	b.start(v1, v2)
	_, err := b.Check(ctx)
	b.must(err)
	b.must(b.Good(ctx))
}

// The good version cannot be read, and the boot loader starts the one that was
// good before: an operator can have the machine stay there, and go on.
func TestAdoptOlder(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2, v3 := b.image("1", 0), b.image("2", 0), b.image("3", 0)
		proved(b, v1, v2)
		b.runs(v1)
		b.Boot.Slot, b.BootID = "a", "boot-x"
		if f, err := b.Check(ctx); err != nil || f != (Finding{}) ||
			!strings.Contains(b.said[len(b.said)-1], "imgupdate good") {
			t.Fatalf("%+v, %v, %q", f, err, b.said)
		}
		err := b.Install(ctx, v3, Options{})
		if err == nil || !strings.Contains(command.HintOf(err), "imgupdate good") ||
			strings.Contains(command.HintOf(err), "imgupdate bad") {
			t.Errorf("install: %v, hint %q", err, command.HintOf(err))
		}
		quiesced := false
		err = b.Rollback(ctx, func(context.Context) error { quiesced = true; return nil })
		if err == nil || !strings.Contains(command.HintOf(err), "imgupdate good") || quiesced {
			t.Errorf("rollback: %v, hint %q, quiesced %v", err, command.HintOf(err), quiesced)
		}
		b.must(b.Good(ctx)) // a configuration run proves what is on trial, no more
		if r := b.load(); r.Good != "b" {
			t.Fatalf("a configuration run adopted: %+v", r)
		}
		b.must(b.Adopt(ctx))
		for range 4 {
			if id := b.start(v1, v2); id != "demo_1" {
				t.Fatalf("adopted, and %s started", id)
			}
			if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
				t.Fatalf("%+v, %v", f, err)
			}
		}
		b.must(b.Install(ctx, v3, Options{}))
		if id := b.start(v1, v2, v3); id != "demo_3" {
			t.Errorf("then %s", id)
		}
	})
}

// An update that waits for its first start can be called off. It did not fail.
func TestDisarm(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		if done, err := b.Disarm(ctx); done || err != nil {
			t.Fatalf("nothing waits: %v, %v", done, err)
		}
		b.must(b.Install(ctx, v2, Options{}))
		err := b.Rollback(ctx, nil)
		if err == nil || !strings.Contains(command.HintOf(err), "imgupdate bad") {
			t.Errorf("rollback: %v, hint %q", err, command.HintOf(err))
		}
		if done, err := b.Disarm(ctx); !done || err != nil {
			t.Fatalf("%v, %v", done, err)
		}
		for range 4 {
			if id := b.start(v1, v2); id != "demo_1" {
				t.Fatalf("called off, and %s started", id)
			}
			if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
				t.Fatalf("%+v, %v", f, err)
			}
		}
		if strings.Contains(b.files(), "demo_2") {
			t.Errorf("files: %s", b.files())
		}
		b.must(b.Install(ctx, v2, Options{}))
		if id := b.start(v1, v2); id != "demo_2" {
			t.Fatalf("then %s", id)
		}
		if done, err := b.Disarm(ctx); done || err != nil {
			t.Errorf("on trial: %v, %v", done, err)
		}
	})
}

// A rollback that is called off can be asked for again, in both directions.
func TestDisarmRollback(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		proved(b, v1, v2)
		for _, ids := range [][2]string{{"demo_2", "demo_1"}, {"demo_1", "demo_2"}} {
			b.must(b.Rollback(ctx, nil))
			if done, err := b.Disarm(ctx); !done || err != nil {
				t.Fatalf("%v, %v", done, err)
			}
			for range 4 {
				if id := b.start(v1, v2); id != ids[0] {
					t.Fatalf("called off, and %s started", id)
				}
				if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
					t.Fatalf("%+v, %v", f, err)
				}
			}
			b.must(b.Rollback(ctx, nil))
			if id := b.start(v1, v2); id != ids[1] {
				t.Fatalf("then %s", id)
			}
			_, err := b.Check(ctx)
			b.must(err)
			b.must(b.Good(ctx))
		}
	})
}

// What the metadata want runs: an update is called off, a rollback is not.
func TestStay(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2, v3 := b.image("1", 0), b.image("2", 0), b.image("3", 0)
		b.must(b.Stay(ctx))
		proved(b, v1, v2)
		b.must(b.Rollback(ctx, nil))
		b.must(b.Stay(ctx))
		if r := b.load(); r.Trial == nil {
			t.Fatal("the rollback was called off")
		}
		b.must(b.Install(ctx, v3, Options{}))
		b.must(b.Stay(ctx))
		for range 4 {
			if id := b.start(v1, v2, v3); id != "demo_2" {
				t.Fatalf("called off, and %s started", id)
			}
			if f, err := b.Check(ctx); err != nil || f != (Finding{}) {
				t.Fatalf("%+v, %v", f, err)
			}
		}
	})
}
