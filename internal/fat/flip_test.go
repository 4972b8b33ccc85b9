package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// One bit of a directory or of the table is not as it was written: nothing that
// a file had before is given away. Aside are the entries of lost clusters: there
// nothing is to be guarded.
func TestFreeLostAfterFlip(t *testing.T) {
	b := losing(t, map[string]string{
		"EFI/Linux/demo_1.efi": strings.Repeat("kernel", 600), "EFI/BOOT/BOOTX64.EFI": strings.Repeat("shim", 400),
		"LOST1.BIN": strings.Repeat("\x00", 3000), "bios/linux": strings.Repeat("l", 700), "empty": "", "n": "n",
		"bios/LOST2.BIN": strings.Repeat("lost", 1300), "TAIL.BIN": "tail", "eight888.conf": "c",
	})
	b[bytes.Index(b, []byte("TAIL    BIN"))+11] = attrLong &^ attrVolume
	before, err := readTable(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	lost, err := before.lost()
	if err != nil || len(lost) != 6+11 {
		t.Fatalf("%d are lost, %v", len(lost), err)
	}
	usedAsFsckCounts(t, b, before)
	var spots []int64 // bytes to be spoilt
	for _, c := range before.directories(t) {
		at := before.dataStart + int64(c-2)*before.clusterSize
		for e := at; e < at+before.clusterSize; e += entrySize {
			if b[e] != 0 && b[e] != 0xe5 {
				spots = append(spots, bytesFrom(e, entrySize)...)
			}
		}
	}
	free := 0
	for c := uint32(2); int(c) < len(before.owned); c++ {
		if before.value(c) == 0 {
			free++
		}
		if before.owned[c] || before.value(c) == 0 && free < 4 {
			spots = append(spots, bytesFrom(before.fatStart+int64(c)*4, 4)...)
		}
	}
	refused, accepted := 0, 0
	for _, at := range spots {
		for bit := range 8 {
			b[at] ^= 1 << bit
			if problem := givenAway(b, before); errors.Is(problem, errOdd) {
				refused++
			} else if accepted++; problem != nil {
				t.Errorf("byte %#x (%d of 32), bit %d: %v", at, at%entrySize, bit, problem)
			}
			b[at] ^= 1 << bit
		}
	}
	t.Logf("%d flips refused, %d accepted", refused, accepted)
	if refused == 0 || accepted == 0 {
		t.Error("the property is empty")
	}
}

// givenAway is what is wrong with what FreeLost does to a volume that had the
// files of before; errOdd, when it does nothing.
func givenAway(b []byte, before *table) error {
	v := &tape{b, 0} // which takes no writes
	_, err := FreeLost(v)
	switch {
	case errors.Is(err, errOdd), err == nil:
		return err
	case !errors.Is(err, errTorn):
		return fmt.Errorf("neither refused nor done: %v", err)
	}
	lost, err := Lost(v)
	if err != nil {
		return fmt.Errorf("written first, refused later: %v", err)
	}
	for _, c := range lost {
		if before.owned[c] {
			return fmt.Errorf("cluster %d of a file is freed", c)
		}
	}
	return nil
}

func bytesFrom(at, n int64) (list []int64) {
	for i := range n {
		list = append(list, at+i)
	}
	return list
}

// usedAsFsckCounts holds what belongs to files to what fsck.fat counts, when
// what is lost is free.
func usedAsFsckCounts(t *testing.T, b []byte, before *table) {
	t.Helper()
	v := &tape{bytes.Clone(b), 1 << 20}
	if _, err := FreeLost(v); err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, owned := range before.owned {
		if owned {
			used++
		}
	}
	want := fmt.Sprintf(" %d/%d clusters", used, before.clusters)
	if said := complaints(t, v.b); !strings.Contains(said, want) {
		t.Errorf("fsck.fat says %q; want%s", said, want)
	}
}

// directories are the clusters of all directories, told by the first entry.
func (t *table) directories(tb testing.TB) []uint32 {
	list := []uint32{t.rootCluster}
	e := make([]byte, 11)
	for c := uint32(3); int(c) < len(t.owned); c++ {
		if _, err := t.r.ReadAt(e, t.dataStart+int64(c-2)*t.clusterSize); err != nil {
			tb.Fatal(err)
		}
		if t.owned[c] && text(e) == "." {
			list = append(list, c)
		}
	}
	if len(list) != 5 {
		tb.Fatalf("%d directories", len(list))
	}
	return list
}

// A cluster that is marked as bad belongs to nobody, and stays marked.
func TestFreeLostLeavesBadClusters(t *testing.T) {
	b := lossy(t)
	before, err := Lost(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	r, err := readTable(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	at := r.fatStart + int64(len(r.owned)-5)*4
	for i := range r.copies {
		binary.LittleEndian.PutUint32(b[at+i*r.size:], clusterBad)
	}
	v := &tape{b, 1 << 20}
	freed, err := FreeLost(v)
	if freed != int64(len(before))*r.clusterSize || err != nil {
		t.Errorf("freed %d bytes, %v; want %d", freed, err, int64(len(before))*r.clusterSize)
	}
	if value := binary.LittleEndian.Uint32(v.b[at:]); value != 0x0ffffff7 {
		t.Errorf("the bad cluster is %#x", value)
	}
}

// An entry that begins with zero was never used, whatever is behind that.
func TestFreeLostPassesUnusedEntries(t *testing.T) {
	b := lossy(t)
	before, err := Lost(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte("\xe5OST1   BIN"))] = 0
	if lost, err := Lost(bytes.NewReader(b)); len(lost) != len(before) || err != nil {
		t.Errorf("%d are lost, %v; want %d", len(lost), err, len(before))
	}
}
