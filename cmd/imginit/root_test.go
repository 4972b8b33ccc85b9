package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// machine is a /sys/block and a /dev with disks.
type machine struct {
	t        *testing.T
	sys, dev string
}

func newMachine(t *testing.T) *machine {
	return &machine{t: t, sys: t.TempDir(), dev: t.TempDir()}
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

const (
	guidA = "aaaaaaaa-0000-1111-2222-333333333333"
	guidB = "bbbbbbbb-0000-1111-2222-333333333333"
	guidC = "cccccccc-0000-1111-2222-333333333333"
)

// disk adds a disk; kernelKnows tells whether its partitions showed up yet.
func (m *machine) disk(name string, kernelKnows bool, guids ...string) {
	m.t.Helper()
	const size = 1 << 20
	m.write(filepath.Join(m.sys, name, "size"), fmt.Sprint(size/512))
	m.write(filepath.Join(m.sys, name, "queue/logical_block_size"), "512\n")
	m.write(filepath.Join(m.dev, name), strings.Repeat("\x00", size))
	f, err := os.OpenFile(filepath.Join(m.dev, name), os.O_RDWR, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	table := &gpt.Table{GUID: guidC, ProtectiveMBR: true}
	for i, g := range guids {
		start := uint64(100 * (i + 1))
		table.Partitions = append(table.Partitions, &gpt.Partition{Index: i + 1, Start: start, End: start + 49, GUID: g,
			Type: gpt.LinuxFilesystem, Name: []string{"root-a", "state"}[i%2]})
		if kernelKnows {
			m.partition(name, i+1, start)
		}
	}
	if err := table.Write(f, size); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) partition(disk string, n int, start uint64) {
	part := fmt.Sprintf("%s%d", disk, n)
	m.write(filepath.Join(m.sys, disk, part, "partition"), fmt.Sprintln(n))
	m.write(filepath.Join(m.sys, disk, part, "start"), fmt.Sprintln(start))
	m.write(filepath.Join(m.dev, part), "")
}

func (m *machine) finder(guid string) *finder {
	return &finder{sys: m.sys, dev: m.dev, guid: guid, tree: guidC}
}

func TestFindRoot(t *testing.T) {
	m := newMachine(t)
	m.disk("loop0", true, guidA) // not a disk to boot from
	m.disk("sda", true, guidB)
	m.disk("sdc", true, guidB, guidB) // with a "root-a" and a "state"
	m.write(filepath.Join(m.sys, "sdb/size"), "0")
	m.write(filepath.Join(m.sys, "sdb/queue/logical_block_size"), "512")
	m.write(filepath.Join(m.dev, "sdb"), "")
	f, now := m.finder(guidA), time.Now()
	if d := f.look(now); d != nil {
		t.Fatalf("found %+v", d)
	}
	want := "disks: sda: 1 other partitions; sdb: no GUID partition table; sdc: 2 other partitions"
	if got := f.report(); got != want {
		t.Errorf("report %q, want %q", got, want)
	}
	if d := f.home(); d == nil || d.name != "sdc" {
		t.Errorf("the disk that should have the root is %+v", d)
	}
	m.disk("vda", false, guidA, guidC)
	if d := f.look(now); d != nil {
		t.Fatalf("found %+v, which the kernel does not have yet", d)
	}
	m.partition("vda", 1, 100)
	if d := f.look(now); d != nil || !strings.Contains(f.report(), "no partition 2") {
		t.Fatalf("found %+v, but the kernel does not have the hash tree yet; %s", d, f.report())
	}
	m.partition("vda", 2, 200)
	m.partition("vda", 1, 7)
	if d := f.look(now); d != nil || !strings.Contains(f.report(), "elsewhere") {
		t.Fatalf("found %+v where the kernel's partition starts elsewhere; %s", d, f.report())
	}
	m.partition("vda", 1, 100)
	d := f.look(now)
	if d == nil || d.name != "vda" || d.root != filepath.Join(m.dev, "vda1") || d.tree != filepath.Join(m.dev, "vda2") {
		t.Fatalf("found %+v", d)
	}
	f = m.finder(guidA)
	f.tree = guidB
	if d := f.look(now); d != nil || !strings.Contains(f.report(), "root-a has the root, but no partition "+guidB) {
		t.Fatalf("found %+v without its hash tree; %s", d, f.report())
	}
}

// A live system takes a CD, and a disk whose partitions the kernel does not
// know, whatever size its blocks have.
func TestFindLiveRoot(t *testing.T) {
	for name, block := range map[string]string{"sr0": "2048", "vda": "512", "sdx": "4096"} {
		m := newMachine(t)
		m.disk(name, false, guidC, guidA)
		m.write(filepath.Join(m.sys, name, "queue/logical_block_size"), block)
		f := m.finder(guidA)
		if d := f.look(time.Now()); d != nil {
			t.Errorf("%s: an installed system found %+v", name, d)
		}
		f = m.finder(guidA)
		f.live = true
		d := f.look(time.Now())
		if d == nil || d.root != filepath.Join(m.dev, name) || d.part.Start != 200*512 || d.part.Size != 50*512 {
			t.Errorf("%s: found %+v; %s", name, d, f.report())
		}
	}
}

func TestNoDisk(t *testing.T) {
	f := newMachine(t).finder(guidA)
	if d := f.look(time.Now()); d != nil || f.report() != "there is no disk" {
		t.Errorf("%+v, %q", d, f.report())
	}
}

// A disk that cannot be read is asked again, but not all the time: each read
// of a dying disk may take seconds.
func TestUnreadableDisk(t *testing.T) {
	m := newMachine(t)
	m.disk("sda", true, guidA, guidC)
	dev := filepath.Join(m.dev, "sda")
	if err := os.Rename(dev, dev+".gone"); err != nil {
		t.Fatal(err)
	}
	f, now := m.finder(guidA), time.Now()
	if d := f.look(now); d != nil {
		t.Fatalf("found %+v", d)
	}
	if err := os.Rename(dev+".gone", dev); err != nil {
		t.Fatal(err)
	}
	if d := f.look(now.Add(500 * time.Millisecond)); d != nil {
		t.Error("asked again too soon")
	}
	if d := f.look(now.Add(1500 * time.Millisecond)); d == nil {
		t.Errorf("not asked again: %s", f.report())
	}
}
