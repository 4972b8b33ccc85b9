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
)

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
		"root": {starts: bootentry.Tries, want: "slot b is damaged: ",
			damage: func(b *bench) { b.flip("root-b", 5000) }},
		"tree": {starts: bootentry.Tries, want: "slot b is damaged: ",
			damage: func(b *bench) { b.flip("verity-b", 4100) }},
		"kernel": {starts: bootentry.Tries, want: "kernel image on the EFI partition is damaged",
			damage: func(b *bench) {
				b.must(os.WriteFile(filepath.Join(b.esp, bootentry.Dir, "demo_2+3.efi"), []byte("MZ"), 0o600))
			}},
		"imginit": {starts: bootentry.Tries, want: "its imginit reported: no state", boot: func(b *bench) {
			f, err := os.OpenFile(filepath.Join(b.State, "attempts.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			b.must(err)
			_, err = f.WriteString(`{"roothash":"` + b.Boot.RootHash + `","boot_id":"` + b.BootID +
				`","stage":"failed","error":"no state"}` + "\n")
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
				if err != nil || f.Returned == nil || !strings.Contains(f.Returned.Reason, c.want) ||
					strings.Contains(f.Returned.Reason, "\n") {
					t.Fatalf("returned: %+v, %v", f.Returned, err)
				}
				if f, err := b.Check(ctx); err != nil || f.Returned != nil {
					t.Errorf("once more: %+v, %v", f, err)
				}
				if err := b.Install(ctx, v2, Options{}); command.Status(err) != command.StatusUsage ||
					!strings.Contains(err.Error(), c.want) {
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
	if f, err := b.Check(ctx); err != nil || f.Returned == nil ||
		!strings.Contains(f.Returned.Reason, "does not count") {
		t.Errorf("%+v, %v", f, err)
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

// A machine that came back says why, even when that cannot be recorded.
func TestReturnCannotBeRecorded(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		b.must(b.Install(ctx, v2, Options{}))
		for range bootentry.Tries + 1 {
			b.start(v1, v2)
		}
		write = func(string, []byte, os.FileMode) error { return errors.New("no space left on device") }
		defer func() { write = atomicfile.Write }()
		f, err := b.Check(ctx)
		if err == nil || f.Returned == nil ||
			!strings.Contains(strings.Join(b.said, " "), "version 2 failed: its kernel") {
			t.Errorf("%+v, %v, said %q", f, err, b.said)
		}
		if _, err := os.Stat(filepath.Join(b.esp, bootentry.Dir, "demo_1.efi")); err != nil {
			t.Error(err)
		}
	})
}
