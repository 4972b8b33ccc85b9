package gpt

import (
	"bytes"
	"strings"
	"testing"
)

func TestFit(t *testing.T) {
	seed := &Partition{Name: "seed", Type: "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
		GUID: "01234567-89ab-cdef-0123-456789abcdef", Size: 1000, Attributes: 1 << 63}
	for _, sector := range []int{512, 4096} {
		d := larger(sector)
		size := int64(len(d.data))
		made, err := Fit(d, size, sector, 4, seed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(d.data, sector)
		if err != nil || got.Backup || len(got.Partitions) != 3 {
			t.Fatalf("sector %d: %+v, %v", sector, got, err)
		}
		if made.Size != 1<<20 || made.Number != 2 || size-made.Start-made.Size > 2<<20 {
			t.Errorf("sector %d: made %+v", sector, made)
		}
		if got.Partitions[1] != *made {
			t.Errorf("sector %d: the table has %+v; want %+v", sector, got.Partitions[1], *made)
		}
		if p := got.Partitions[2]; p.Number != 4 || p.Start+p.Size != made.Start {
			t.Errorf("sector %d: grown: %+v", sector, p)
		}
		d.data[sector] ^= 0xff
		if backup, err := read(d.data, sector); err != nil || !backup.Backup || backup.Partitions[1] != *made {
			t.Errorf("sector %d: the backup has %+v, %v", sector, backup, err)
		}
	}
}

// Without a new partition and none to grow, only the backup table moves.
func TestFitMovesBackup(t *testing.T) {
	d := larger(512)
	before, _ := read(d.data, 512)
	made, err := Fit(d, int64(len(d.data)), 512, 0, nil)
	after, readErr := read(d.data, 512)
	if made != nil || err != nil || readErr != nil || after.Partitions[1] != before.Partitions[1] {
		t.Errorf("%+v, %v, %v", made, err, readErr)
	}
	if !bytes.HasPrefix(d.data[len(d.data)-512:], []byte("EFI PART")) {
		t.Error("there is no backup table at the end")
	}
}

func TestFitRefuses(t *testing.T) {
	good := Partition{Name: "seed", Type: "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
		GUID: "01234567-89ab-cdef-0123-456789abcdef", Size: 1}
	for want, change := range map[string]func(*Partition){
		"no room": func(p *Partition) { p.Size = 100 << 20 }, "no entry": func(p *Partition) { p.Name = strings.Repeat("x", 37) },
		"GUID": func(p *Partition) { p.GUID = "x" },
	} {
		p := good
		change(&p)
		d := larger(512)
		d.writes = 0
		if _, err := Fit(d, int64(len(d.data)), 512, 0, &p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
