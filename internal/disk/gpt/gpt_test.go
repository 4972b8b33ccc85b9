package gpt

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const blocks = 4096

// makeDisk builds a disk with a table; damage changes it before the checksums are
// made.
func makeDisk(sector int, damage func(header, array []byte)) []byte {
	disk := make([]byte, blocks*sector)
	array := make([]byte, 128*128)
	entry := func(i int, name string, first, last uint64) {
		e := array[i*128:]
		for j := range 16 {
			e[j], e[16+j] = byte(j+1), byte(0x10*i+j)
		}
		le.PutUint64(e[32:], first)
		le.PutUint64(e[40:], last)
		for j, r := range []rune(name) {
			le.PutUint16(e[56+2*j:], uint16(r))
		}
	}
	entry(0, "esp", 64, 127)
	entry(3, "zustand-ü\n", 200, 299)
	for _, h := range []struct{ at, array int }{{1, 2}, {blocks - 1, blocks - 40}} {
		header := disk[h.at*sector:][:sector]
		copy(header, "EFI PART")
		le.PutUint32(header[8:], 0x10000)
		le.PutUint32(header[12:], 92)
		le.PutUint64(header[24:], uint64(h.at))
		le.PutUint64(header[72:], uint64(h.array))
		le.PutUint32(header[80:], 128)
		le.PutUint32(header[84:], 128)
		own := bytes.Clone(array)
		if damage != nil {
			damage(header, own)
		}
		le.PutUint32(header[88:], crc32.ChecksumIEEE(own))
		sealHeader(header)
		copy(disk[h.array*sector:], own)
	}
	return disk
}

func sealHeader(header []byte) {
	le.PutUint32(header[16:], 0)
	le.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
}

func read(disk []byte, sector int) (*Table, error) {
	return Read(bytes.NewReader(disk), int64(len(disk)), sector)
}

func TestRead(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		got, err := read(makeDisk(sector, nil), sector)
		if err != nil {
			t.Fatal(err)
		}
		s := int64(sector)
		want := &Table{GUID: unused, Sector: sector, Partitions: []Partition{
			{Number: 1, Name: "esp", Type: "04030201-0605-0807-090a-0b0c0d0e0f10",
				GUID: "03020100-0504-0706-0809-0a0b0c0d0e0f", Start: 64 * s, Size: 64 * s},
			{Number: 4, Name: "zustand-ü?", Type: "04030201-0605-0807-090a-0b0c0d0e0f10",
				GUID: "33323130-3534-3736-3839-3a3b3c3d3e3f", Start: 200 * s, Size: 100 * s},
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sector %d (-want +got):\n%s", sector, diff)
		}
	}
}

func TestBackup(t *testing.T) {
	for name, at := range map[string]int{"signature": 512, "header": 512 + 60, "entries": 1024 + 40} {
		disk := makeDisk(512, nil)
		disk[at] ^= 0xff
		got, err := read(disk, 512)
		if err != nil || !got.Backup || len(got.Partitions) != 2 {
			t.Errorf("%s damaged: %+v, %v", name, got, err)
		}
	}
}

func TestHostile(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(header, array []byte)
		want   string
	}{
		{"header size 0", func(h, _ []byte) { le.PutUint32(h[12:], 0) }, "header of 0"},
		{"huge header", func(h, _ []byte) { le.PutUint32(h[12:], 1<<31) }, "header of"},
		{"elsewhere", func(h, _ []byte) { le.PutUint64(h[24:], 77) }, "another place"},
		{"huge entries", func(h, _ []byte) { le.PutUint32(h[84:], 1<<31) }, "entries of"},
		{"tiny entries", func(h, _ []byte) { le.PutUint32(h[84:], 1) }, "entries of"},
		{"many entries", func(h, _ []byte) { le.PutUint32(h[80:], 0xffffffff) }, "entries of"},
		{"entries outside", func(h, _ []byte) { le.PutUint64(h[72:], 1<<63) }, "outside"},
		{"entries at the end", func(h, _ []byte) { le.PutUint64(h[72:], blocks-1) }, "outside"},
		{"backwards", func(_, a []byte) { le.PutUint64(a[32:], 500) }, "partition 1 lies outside"},
		{"beyond the disk", func(_, a []byte) { le.PutUint64(a[40:], blocks) }, "partition 1 lies outside"},
		{"overflow", func(_, a []byte) { le.PutUint64(a[40:], 1<<63) }, "partition 1 lies outside"},
		{"overlap", func(_, a []byte) { le.PutUint64(a[40:], 250) }, "partitions 1 and 4 overlap"},
	} {
		if _, err := read(makeDisk(512, c.damage), 512); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error about %q", c.name, err, c.want)
		}
	}
	for _, size := range []int64{0, 1, 511, 2560} {
		if _, err := Read(bytes.NewReader(nil), size, 512); !errors.Is(err, ErrNoTable) {
			t.Errorf("disk of %d bytes: %v", size, err)
		}
	}
	if _, err := Read(bytes.NewReader(nil), 1<<40, 512); !errors.Is(err, io.EOF) {
		t.Errorf("a disk shorter than it says: %v", err)
	}
	if _, err := read(make([]byte, 1<<20), 3); err == nil {
		t.Error("sector size 3 was taken")
	}
}

func FuzzRead(f *testing.F) {
	good := makeDisk(512, nil)
	f.Add(good[512:1024], good[1024:1024+1024])
	f.Fuzz(func(t *testing.T, header, array []byte) {
		disk := make([]byte, 64<<10)
		copy(disk[512:1024], header)
		copy(disk[1024:], array)
		// Right checksums, or nothing else would ever be reached.
		h := disk[512:1024]
		if n, each := uint64(le.Uint32(h[80:])), uint64(le.Uint32(h[84:])); n*each < 32<<10 {
			le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[1024:1024+n*each]))
		}
		if n := le.Uint32(h[12:]); n >= 92 && n <= 512 {
			le.PutUint32(h[16:], 0)
			le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
		}
		got, err := read(disk, 512)
		if err != nil {
			return
		}
		for _, p := range got.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > int64(len(disk)) {
				t.Errorf("partition %d: %d + %d", p.Number, p.Start, p.Size)
			}
		}
	})
}
