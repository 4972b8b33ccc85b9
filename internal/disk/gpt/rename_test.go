package gpt

import (
	"errors"
	"testing"
)

const newGUID = "01234567-89ab-cdef-0123-456789abcdef"

// A table as goldsmith's disks have it: the backup's entries before its header.
func usual() *device {
	disk := makeDisk(512, nil)
	backup := disk[(blocks-1)*512:]
	copy(disk[(blocks-33)*512:(blocks-1)*512], disk[(blocks-40)*512:])
	le.PutUint64(backup[72:], blocks-33)
	sealHeader(backup)
	return &device{data: disk, writes: -1}
}

func TestSetGUIDs(t *testing.T) {
	d := usual()
	if err := SetGUIDs(d, int64(len(d.data)), 512, map[int]string{4: newGUID}); err != nil {
		t.Fatal(err)
	}
	before, _ := read(usual().data, 512)
	for name, damage := range map[string]int{"primary": -1, "backup": 512} {
		if damage > 0 {
			d.data[damage] ^= 0xff
		}
		got, err := read(d.data, 512)
		if err != nil || got.Backup != (damage > 0) || got.Partitions[0] != before.Partitions[0] ||
			got.Partitions[1].GUID != newGUID {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// The damaged primary table is made anew, though the GUIDs are there.
	if err := SetGUIDs(d, int64(len(d.data)), 512, map[int]string{4: newGUID}); err != nil {
		t.Fatal(err)
	}
	if got, err := read(d.data, 512); err != nil || got.Backup {
		t.Errorf("repaired: %+v, %v", got, err)
	}
	d.writes = 0
	if err := SetGUIDs(d, int64(len(d.data)), 512, map[int]string{4: newGUID}); err != nil {
		t.Errorf("nothing to do: %v", err)
	}
}

func TestSetGUIDsRefuses(t *testing.T) {
	for number, guid := range map[int]string{2: newGUID, 4: "01234567", 1: "0123456789AB-cdef-0123-456789abcdef0"} {
		d := usual()
		d.writes = 0
		if err := SetGUIDs(d, int64(len(d.data)), 512, map[int]string{number: guid}); err == nil ||
			errors.Is(err, errPower) {
			t.Errorf("partition %d, %s: %v", number, guid, err)
		}
	}
}

// At whatever write the power goes, a sound table has all of the new GUIDs or
// none.
func TestSetGUIDsPowerCut(t *testing.T) {
	for writes := range 4 {
		d := usual()
		d.writes = writes
		want := map[int]string{1: newGUID, 4: newGUID[:35] + "e"}
		_ = SetGUIDs(d, int64(len(d.data)), 512, want)
		got, err := read(d.data, 512)
		if err != nil || got.Backup {
			t.Fatalf("%d writes: %+v, %v", writes, got, err)
		}
		if is := got.Partitions[0].GUID == want[1]; is != (got.Partitions[1].GUID == want[4]) || is != (writes > 1) {
			t.Errorf("%d writes: %+v", writes, got.Partitions)
		}
	}
}
