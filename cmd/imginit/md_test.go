package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mdSuperblock is one of version 1.minor for the disk with that number of an
// array of two, of size bytes at the offset data.
func mdSuperblock(number int, at, data, size int64) []byte {
	le := binary.LittleEndian
	b := make([]byte, mdBlock)
	for off, v := range map[int]uint32{0: mdMagic, 4: 1, 72: 1, 92: 2, 160: uint32(number), 220: 4} {
		le.PutUint32(b[off:], v)
	}
	for off, v := range map[int]uint64{80: uint64(size / 512), 128: uint64(data / 512), 144: uint64(at / 512)} {
		le.PutUint64(b[off:], v)
	}
	copy(b[16:], "a set of two    ")
	for i, role := range []uint16{0, 1, 0xffff, 0xfffe} {
		le.PutUint16(b[mdHeader+2*i:], role)
	}
	le.PutUint32(b[216:], mdChecksum(b[:mdHeader+8]))
	return b
}

func TestReadMember(t *testing.T) {
	const size = 1 << 20
	end := int64(size - 8192)
	for minor, c := range []struct{ at, data int64 }{{end, 0}, {0, 65536}, {4096, 65536}} {
		disk := make([]byte, size)
		copy(disk[c.at:], mdSuperblock(1, c.at, c.data, 512<<10))
		m := readMember(bytes.NewReader(disk), size)
		if m == nil || m.minor != minor || m.disks != 2 || !m.active || m.data != [2]int64{c.data, 512 << 10} {
			t.Errorf("version 1.%d: %+v", minor, m)
		}
		for _, spoil := range []int{0, 4, 16, 72, 92, 144, 160, 216, 220, 257} {
			b := bytes.Clone(disk)
			b[int(c.at)+spoil] ^= 0x40
			if m := readMember(bytes.NewReader(b), size); m != nil {
				t.Errorf("version 1.%d with byte %d changed: %+v", minor, spoil, m)
			}
		}
		copy(disk[c.at:], mdSuperblock(2, c.at, c.data, 512<<10))
		if m := readMember(bytes.NewReader(disk), size); m == nil || m.active {
			t.Errorf("a spare: %+v", m)
		}
		copy(disk[c.at:], mdSuperblock(0, c.at, c.data, size+512))
		if m := readMember(bytes.NewReader(disk), size); m != nil {
			t.Errorf("an array that is larger than its disk: %+v", m)
		}
	}
	if m := readMember(bytes.NewReader(make([]byte, 1000)), 1000); m != nil {
		t.Errorf("a small disk: %+v", m)
	}
}

func FuzzReadMember(f *testing.F) {
	f.Add(mdSuperblock(0, 0, 65536, 512<<10))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		if m := readMember(bytes.NewReader(b), size); m != nil && (m.data[0] < 0 || m.data[0]+m.data[1] > size) {
			t.Errorf("%+v of %d bytes", m, size)
		}
	})
}

// member makes a disk part of an array of two.
func (m *machine) member(name string, number int) {
	m.t.Helper()
	const size = 1 << 20
	f, err := os.OpenFile(filepath.Join(m.dev, name), os.O_RDWR, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	at := int64(size - 8192)
	if _, err := f.WriteAt(mdSuperblock(number, at, 0, at), at); err != nil {
		m.t.Fatal(err)
	}
}

// The root is taken of the array, and not of one of its disks; an array waits
// for all of its disks, but not for ever.
func TestFindRootInArray(t *testing.T) {
	for _, whole := range []bool{true, false} {
		m := newMachine(t)
		m.disk("vda", true, guidA, guidC)
		m.member("vda", 0)
		m.disk("vdc", true, guidB) // in an array that is not the root's
		m.member("vdc", 1)
		f, now := m.finder(guidA), time.Now()
		var got []string
		f.assemble = func(a *mdArray) (string, error) {
			got = a.members
			m.disk("md127", true, guidA, guidC)
			return "md127", nil
		}
		if d := f.look(now); d != nil || got != nil {
			t.Fatalf("found %+v, started %v", d, got)
		}
		if want := "vda: one of an array of 2 disks"; !strings.Contains(f.report(), want) {
			t.Errorf("report %q; want %q", f.report(), want)
		}
		want := "vda"
		if whole {
			m.disk("vdb", true, guidA, guidC)
			m.member("vdb", 1)
			want = "vda vdb"
		} else {
			now = now.Add(mdPatience)
		}
		if d := f.look(now); d != nil || strings.Join(got, " ") != want {
			t.Fatalf("found %+v, started %v; want %s", d, got, want)
		}
		if d := f.look(now); d == nil || d.name != "md127" || d.root != filepath.Join(m.dev, "md1271") {
			t.Errorf("found %+v", d)
		}
	}
}

func TestArrayThatDoesNotStart(t *testing.T) {
	m := newMachine(t)
	m.disk("vda", true, guidA, guidC)
	m.member("vda", 0)
	f, now := m.finder(guidA), time.Now()
	n := 0
	f.assemble = func(*mdArray) (string, error) { n++; return "", errors.New("no driver") }
	for range 3 {
		if d := f.look(now); d != nil {
			t.Errorf("found %+v", d)
		}
		now = now.Add(mdPatience)
	}
	if want := "vda: one of an array of 2 disks, which does not start: no driver"; n != 1 || !strings.Contains(f.report(), want) {
		t.Errorf("%d attempts, report %q", n, f.report())
	}
}
