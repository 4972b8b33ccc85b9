package update

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/atomicfile"
)

// errCut is what a program ends with that is killed.
var errCut = errors.New("killed")

// walk is a machine to which things happen by chance.
type walk struct {
	*bench
	random *rand.Rand
	images []Image
	trace  []string
	good   map[string]bool // IDs that may be good by now
}

func (w *walk) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *walk) fatal(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n"), w.files())
}

// try does something, which by chance is killed in the middle of it.
func (w *walk) try(what string, f func() error) (killed bool) {
	left := w.random.IntN(40)
	count := func() {
		if left--; left == 0 {
			panic(errCut)
		}
	}
	cut, write = count, func(name string, data []byte, mode os.FileMode) error {
		count()
		err := atomicfile.Write(name, data, mode)
		count()
		return err
	}
	defer func() {
		cut, write = func() {}, atomicfile.Write
		if r := recover(); r != nil {
			if r != errCut { //nolint:errorlint // it is that one
				panic(r)
			}
			killed = true
			w.log("%s: killed", what)
		}
	}()
	err := f()
	w.log("%s: %v", what, err)
	return false
}

// whole tells whether a slot and its files are all there.
func (w *walk) whole(slot string, s *Slot) {
	w.t.Helper()
	img := w.images[slices.IndexFunc(w.images, func(i Image) bool { return i.Release.UKI.ID == s.ID() })]
	want := *s
	want.RootHash, want.UKI = img.Release.Root.RootHash, img.Release.UKI.SHA256
	d, err := openDisk(w.Boot.Disk)
	w.must(err)
	if damage := w.inspect(w.t.Context(), d, slot, &want); damage != "" {
		w.fatal("%s: %s", s.ID(), damage)
	}
	e, err := openESP(w.bench.esp)
	w.must(err)
	if damage := e.inspect(&want); damage != "" && (!w.bios || strings.Contains(damage, "bios/")) {
		w.fatal("%s: %s", s.ID(), damage)
	}
}

// boot starts the machine.
func (w *walk) boot() {
	id := w.start(w.images...)
	w.log("start of %s in slot %s", id, w.Boot.Slot)
	img := w.images[slices.IndexFunc(w.images, func(i Image) bool { return i.Release.UKI.ID == id })]
	w.whole(w.Boot.Slot, &Slot{Name: "demo", Version: img.Release.Version})
}

// check is what runs at a start.
func (w *walk) check() {
	for {
		var f Finding
		var err error
		if w.try("check", func() error { f, err = w.Check(context.Background()); return err }) {
			if w.random.IntN(2) == 0 {
				w.boot()
			}
			continue
		}
		if err != nil {
			w.fatal("check: %v", err)
		}
		if f.Restart {
			w.boot()
			continue
		}
		break
	}
	r := w.load()
	if s := r.Slots[w.Boot.Slot]; s.State != Good && !(s.State == Trying && w.onTrial(r)) {
		w.fatal("after a check, what runs is %s", s.State)
	}
	files := w.files()
	f, err := w.Check(context.Background())
	if err != nil || f.Returned != nil || f.Restart || w.files() != files {
		w.fatal("a second check: %+v, %v, %s", f, err, files)
	}
}

func TestWalk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	ctx := t.Context()
	for seed := range uint64(walks) {
		both(t, func(t *testing.T, b *bench) {
			w := &walk{bench: b, random: rand.New(rand.NewPCG(seed, 0)), good: map[string]bool{"demo_1": true}}
			for v := range 4 {
				w.images = append(w.images, b.image(fmt.Sprint(v+1), 0))
			}
			w.log("seed %d", seed)
			w.check()
			for range 25 {
				running := func() string { return "demo_" + w.load().Slots[w.Boot.Slot].Version }
				killed := false
				switch w.random.IntN(8) {
				case 0, 1:
					img := w.images[w.random.IntN(len(w.images))]
					killed = w.try("install "+img.Release.Version, func() error {
						return w.Install(ctx, img, Options{Retry: w.random.IntN(2) == 0})
					})
				case 2, 3:
					r := w.load()
					if w.onTrial(r) && r.Slots[w.Boot.Slot].State == Trying {
						w.good[running()] = true
					}
					killed = w.try("good", func() error { return w.Adopt(ctx) })
				case 4:
					killed = w.try("bad", func() error {
						if done, err := w.Disarm(ctx); done || err != nil {
							return err
						}
						return w.Bad(ctx, "no")
					})
				case 5:
					killed = w.try("failed run", func() error { _, err := w.FailedRun(ctx, "hook"); return err })
				case 6:
					killed = w.try("rollback", func() error { return w.Rollback(ctx, nil) })
				case 7:
					w.boot()
					if w.random.IntN(3) == 0 {
						continue // it does not come to its check
					}
					w.check()
				}
				if killed && w.random.IntN(2) == 0 {
					w.boot()
					w.check()
				}
				r := w.load()
				w.whole(r.Good, r.Slots[r.Good])
			}
		})
	}
}

const walks = 12 // a few hundred were walked when this was written
