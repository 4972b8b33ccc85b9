package tests

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/blocklog"
	"goldsmith/internal/disk"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/testenv"
	"goldsmith/internal/update"
	"goldsmith/internal/verity"
	"goldsmith/testbed"
)

var (
	crashes    = flag.Int("crashes", 2000, "how many crash images the crash lab checks, for each firmware")
	crashBoots = flag.Int("crash-boots", 10, "how many of them it boots, for each firmware")
)

// Every write of a first boot, an update, and the first boot of the new image
// with its migration, is recorded. A power cut at any moment, with any part of
// what was not flushed, leaves a machine that starts: one good slot, or both.
func TestCrashLab(t *testing.T) {
	need(t, false)
	testenv.Need(t, "debugfs", "e2fsck", "cp", "dd", "mcopy", "fsck.fat")
	r := publish(t, "good-migration")
	for _, f := range firmwares {
		t.Run(string(f), func(t *testing.T) {
			raw, log := r.machine(t), filepath.Join(t.TempDir(), "log")
			r.record = log
			signal, console := r.follow(t, raw, r.digest["good-migration"], f, nil)
			r.record = ""
			if !strings.Contains(signal, `"Status":"SUCCESS"`) {
				t.Fatalf("signal %s\n%s", signal, console)
			}
			lab := newLab(t, r, r.machine(t), log, f)
			lab.run(*crashes, *crashBoots)
			if lab.bricks > 0 {
				t.Errorf("%d bricks", lab.bricks)
			}
			// A disk that does not keep what it was told to: the lab has to see
			// what comes of it.
			liar := newLab(t, r, r.machine(t), log, f)
			liar.lies = true
			liar.run(*crashes/20, 0)
			if liar.bricks == 0 {
				t.Error("a disk that ignores flushes made no brick: the lab is blind")
			}
		})
	}
}

// lab checks what power cuts leave.
type lab struct {
	t        *testing.T
	r        *releases
	raw      string // the disk, as far as it is replayed
	file     *os.File
	replay   *blocklog.Replay
	log      *blocklog.Log
	firmware testbed.Firmware
	random   *rand.Rand
	verified map[string]bool // slot and root hash that were found whole, until the slot is written
	images   int
	bricks   int
	boots    []string // disks to be booted at the end
	lies     bool     // flushes do nothing, and bricks are no errors
	durable  kept     // what no power cut may take any more
}

// kept is what is on the state partition.
type kept struct {
	record *update.Record // nil: none
	data   string         // of the element data; empty: none
}

// before and after a migration.
const before, after = "precious\n", "precious\nmigrated\n"

func newLab(t *testing.T, r *releases, raw, logFile string, f testbed.Firmware) *lab {
	t.Helper()
	file, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	logged, err := os.Open(logFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close(); _ = logged.Close() })
	st, err := logged.Stat()
	if err != nil {
		t.Fatal(err)
	}
	log, err := blocklog.Read(logged, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return &lab{t: t, r: r, raw: raw, file: file, log: log, replay: blocklog.NewReplay(log, file), firmware: f,
		random: rand.New(rand.NewPCG(*seed, 1)), verified: map[string]bool{}}
}

// run makes images at flushes, where the most may be lost right before them,
// and spreads the rest over all moments.
func (l *lab) run(images, boots int) {
	if l.lies {
		for i := range l.log.Entries {
			l.log.Entries[i].Flags &^= blocklog.FUA
			if e := &l.log.Entries[i]; e.Size == 0 {
				e.Flags = blocklog.Mark
			}
		}
	}
	flushes := 0
	for _, e := range l.log.Entries {
		if e.Flags&blocklog.Flush != 0 {
			flushes++
		}
	}
	// Each flush gives two images: before it, with some of what it is to make
	// durable, and after it.
	atFlush := min(1, float64(images)/2/float64(max(flushes, 1)))
	each := max(images/max(boots, 1), 1) // of so many images one is booted
	elsewhere := max(0, float64(images)-2*float64(flushes)) / float64(max(len(l.log.Entries)-flushes, 1))
	for i := range l.log.Entries {
		flush := l.log.Entries[i].Flags&blocklog.Flush != 0
		chosen := l.random.Float64() < map[bool]float64{true: atFlush, false: elsewhere}[flush]
		if chosen && flush {
			l.crash(i, l.random.Float64(), len(l.boots) < boots && l.images%each == each/2)
		}
		e, _, err := l.replay.Next()
		if err != nil {
			l.t.Fatal(err)
		}
		l.touched(e)
		if chosen {
			l.crash(i, []float64{0, 1, l.random.Float64()}[l.random.IntN(3)],
				len(l.boots) < boots && l.images%each == each/2)
		}
	}
	l.t.Logf("%d writes and flushes, %d flushes; %d crash images, %d bricks",
		len(l.log.Entries), flushes, l.images, l.bricks)
	for _, raw := range l.boots {
		signal, console := l.r.follow(l.t, raw, l.r.digest["good-migration"], l.firmware, nil)
		if !strings.Contains(signal, `"Status":"SUCCESS"`) {
			l.t.Errorf("signal %s\n%s", signal, console)
		}
		l.raw = raw
		if k, err := l.state(); err != nil || k.data != after || k.record == nil || k.record.Trial != nil {
			l.t.Errorf("after all the data are %q, the record is %+v; %v", k.data, k.record, err)
		}
		if err := os.Remove(raw); err != nil {
			l.t.Error(err)
		}
	}
}

// touched forgets that a slot was whole when it is written. The one that runs
// is never written.
func (l *lab) touched(entries ...blocklog.Entry) {
	for _, e := range entries {
		for _, p := range l.r.disk.Partitions {
			if e.Size == 0 || e.Start >= p.Start+p.Size || e.Start+e.Size <= p.Start {
				continue
			}
			switch p.Name {
			case "root-a", "verity-a":
				l.t.Errorf("slot a is written: %d bytes at %d", e.Size, e.Start)
			case "root-b", "verity-b":
				clear(l.verified)
			}
		}
	}
}

// crash cuts the power after entry i, and checks the disk.
func (l *lab) crash(i int, probability float64, boot bool) {
	l.t.Helper()
	undo, err := l.replay.Crash(l.random, probability)
	if err != nil {
		l.t.Fatal(err)
	}
	l.images++
	l.touched(l.replay.Volatile()...)
	state, err := l.check()
	if err == nil && probability == 0 {
		l.durable = state
	}
	if err != nil {
		l.bricks++
		report := l.t.Errorf
		if l.lies {
			report = l.t.Logf
		} else if l.bricks > 20 {
			l.t.FailNow()
		}
		report("entry %d (%d may be lost, %.2f saved): %v", i, len(l.replay.Volatile()), probability, err)
	}
	if boot {
		raw := filepath.Join(l.t.TempDir(), "disk.raw")
		tool(l.t, l.r.dir, "cp", "--sparse=always", l.raw, raw)
		l.boots = append(l.boots, raw)
	}
	if err := undo(); err != nil {
		l.t.Fatal(err)
	}
	l.touched(l.replay.Volatile()...)
}

// check looks at a disk as firmware, boot loader and kernel would.
func (l *lab) check() (state kept, err error) {
	table, err := gpt.Read(l.file, l.r.disk.Size, 512)
	if err != nil {
		return state, fmt.Errorf("partition table: %w", err)
	}
	if table.Backup && !slices.Contains(strings.Fields(l.r.disk.Boot.Cmdline), "gpt") {
		return state, errors.New("the kernel does not look for the backup of a partition table")
	}
	esp, err := l.esp()
	defer os.RemoveAll(esp)
	if err != nil {
		return state, err
	}
	id, err := l.choose(esp)
	if err != nil {
		return state, err
	}
	if err := l.whole(table, esp, id); err != nil {
		return state, fmt.Errorf("%s would be started, and %w", id, err)
	}
	if state, err = l.state(); err != nil {
		return state, err
	}
	if err := l.recorded(state.record, id); err != nil {
		return state, err
	}
	if rec := state.record; rec != nil && rec.Trial != nil { // what it would return to is never touched
		if err := l.whole(table, esp, rec.Slots[rec.Good].ID()); err != nil {
			return state, fmt.Errorf("during a trial the good version %s is not whole: %w", rec.Slots[rec.Good].ID(), err)
		}
	}
	if l.images%fsckEvery == 0 {
		return state, l.checkFAT()
	}
	return state, nil
}

// verify checks every block of a slot, unless nothing has changed since.
func (l *lab) verify(slot string, release *disk.Layout) error {
	key := slot + " " + release.Root.RootHash
	if l.verified[key] {
		return nil
	}
	part := func(name string) *readPart {
		p := partition(l.r.disk, name+"-"+slot)
		return &readPart{l.file, p.Start}
	}
	hash, err := hex.DecodeString(release.Root.RootHash)
	if err != nil {
		return err
	}
	bad, err := verity.Verify(part("root"), part("verity"), verity.Hash(hash))
	if err != nil || len(bad) > 0 {
		return fmt.Errorf("slot %s: %v, %w", slot, bad[:min(3, len(bad))], err)
	}
	l.verified[key] = true
	return nil
}

// readPart is a partition of the disk.
type readPart struct {
	f     *os.File
	start int64
}

func (p *readPart) ReadAt(b []byte, off int64) (int, error) { return p.f.ReadAt(b, p.start+off) }

// state repairs the state partition as a boot does, and reads it. What was there
// for good must be there still, and data are as before a migration or after it.
func (l *lab) state() (kept, error) {
	p := partition(l.r.disk, "state")
	dir, err := os.MkdirTemp(l.r.dir, "state")
	if err != nil {
		return kept{}, err
	}
	defer os.RemoveAll(dir)
	copied := exec.Command("dd", "if="+l.raw, "of=state", "bs=1M", "conv=sparse", "status=none",
		fmt.Sprintf("skip=%d", p.Start>>20), fmt.Sprintf("count=%d", p.Size>>20))
	copied.Dir = dir
	if out, err := copied.CombinedOutput(); err != nil {
		return kept{}, fmt.Errorf("%w: %s", err, out)
	}
	k, err := readState(filepath.Join(dir, "state"))
	if err != nil && l.durable == (kept{}) {
		return kept{}, nil // the first boots make it anew
	}
	switch {
	case err != nil:
	case l.durable.record != nil && k.record == nil:
		err = errors.New("the record is gone")
	case k.data == "" && l.durable.data != "", k.data != "" && k.data != before && k.data != after,
		k.data == before && l.durable.data == after:
		err = fmt.Errorf("the data are %q, and were %q", k.data, l.durable.data)
	}
	return k, err
}

// readState reads a state partition after repairing it as imginit does. An error
// means that imginit would make a new one.
func readState(file string) (k kept, err error) {
	f, err := os.Open(file)
	if err != nil {
		return k, err
	}
	defer f.Close()
	var super [512]byte
	if _, err := f.ReadAt(super[:], 1024); err != nil || super == [512]byte{} {
		return k, err // nobody has used it
	}
	for _, how := range []string{"-p", "-y"} {
		var out []byte
		if out, err = exec.Command("e2fsck", "-f", how, file).CombinedOutput(); err != nil {
			err = fmt.Errorf("e2fsck %s: %w: %s", how, err, out)
		}
		if ee, ok := errors.AsType[*exec.ExitError](err); err == nil || ok && ee.ExitCode() < 4 {
			err = nil
			break
		}
	}
	if err != nil {
		return k, err
	}
	cat := func(name string) []byte {
		out, cerr := exec.Command("debugfs", "-c", "-R", "cat "+name, file).Output() // nothing of a file that is not there
		err = errors.Join(err, cerr)
		return out
	}
	k.data = string(cat("/fs/var/lib/data/file"))
	if text := cat("/boot/slots.json"); len(text) > 0 {
		k.record = &update.Record{}
		if jerr := json.Unmarshal(text, k.record); jerr != nil {
			err = errors.Join(err, fmt.Errorf("slots.json: %w: %q", jerr, text))
		}
	}
	return k, err
}

// recorded wants the record, if there is one, to know what would be started.
func (l *lab) recorded(rec *update.Record, started string) error {
	if rec == nil {
		return nil
	}
	for name, s := range rec.Slots {
		if s.ID() == started {
			if s.State == update.Good || s.State == update.Trying && rec.Trial != nil && rec.Trial.Slot == name {
				return nil
			}
			return fmt.Errorf("%s would be started, and its slot is recorded as %s", started, s.State)
		}
	}
	return fmt.Errorf("%s would be started, and no slot is recorded to have it: %v", started, rec.Slots)
}
