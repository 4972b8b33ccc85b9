package blocklog

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// record makes a log of writes: a byte each, that fills one or two sectors.
type write struct {
	sector, n int64
	flags     uint64
	fill      byte
}

func record(writes ...write) []byte {
	le := binary.LittleEndian
	b := make([]byte, sector)
	le.PutUint64(b, Magic)
	le.PutUint64(b[8:], 1)
	le.PutUint64(b[16:], uint64(len(writes)))
	le.PutUint32(b[24:], sector)
	for _, w := range writes {
		head := make([]byte, sector)
		le.PutUint64(head, uint64(w.sector))
		le.PutUint64(head[8:], uint64(w.n))
		le.PutUint64(head[16:], w.flags)
		b = append(b, head...)
		if w.flags&Discard == 0 {
			b = append(b, bytes.Repeat([]byte{w.fill}, int(w.n*sector))...)
		}
	}
	return b
}

// memory is a disk of four sectors.
type memory []byte

func (m memory) ReadAt(b []byte, off int64) (int, error)  { return copy(b, m[off:]), nil }
func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

// String has a character for each sector, "?" for one of several bytes.
func (m memory) String() string {
	var s []byte
	for at := 0; at < len(m); at += sector {
		part := m[at : at+sector]
		c := part[0]
		if bytes.Count(part, []byte{c}) != len(part) {
			c = '?'
		}
		s = append(s, c)
	}
	return string(s)
}

func blank() memory { return bytes.Repeat([]byte{'.'}, 4*sector) }

func TestReplay(t *testing.T) {
	b := record(write{0, 1, 0, 'a'}, write{1, 2, 0, 'b'}, write{0, 0, Flush, 0}, write{1, 1, 0, 'c'},
		write{1, 1, FUA, 'd'}, write{3, 1, 0, 'e'}, write{2, 1, Discard, 0})
	l, err := Read(bytes.NewReader(append(b, make([]byte, 3*sector)...)), int64(len(b)+3*sector))
	if err != nil || len(l.Entries) != 7 {
		t.Fatalf("%d entries, %v", len(l.Entries), err)
	}
	d := blank()
	r := NewReplay(l, d)
	random := rand.New(rand.NewPCG(1, 1))
	for i, want := range []struct{ none, all string }{
		{"....", "a..."}, {"....", "abb."}, {"abb.", "abb."}, {"abb.", "acb."}, {"adb.", "adb."}, {"adb.", "adbe"},
		{"adb.", "adbe"},
	} {
		if _, more, err := r.Next(); !more || err != nil {
			t.Fatal(i, more, err)
		}
		for p, want := range map[float64]string{0: want.none, 1: want.all} {
			seen := map[string]bool{}
			for range 40 { // some are torn
				undo, err := r.Crash(random, p)
				if err != nil {
					t.Fatal(err)
				}
				seen[d.String()] = true
				if err := undo(); err != nil {
					t.Fatal(err)
				}
			}
			if !seen[want] {
				t.Errorf("entry %d, probability %v: %v; want %s among them", i, p, seen, want)
			}
		}
		if got := d.String(); got != want.none {
			t.Errorf("entry %d: undone, and the disk is %s; want %s", i, got, want.none)
		}
	}
	if _, more, err := r.Next(); more || err != nil {
		t.Error("no end", err)
	}
}

// A write of two sectors is torn in some power cuts.
func TestTorn(t *testing.T) {
	b := record(write{1, 2, 0, 'b'})
	l, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	d := blank()
	r := NewReplay(l, d)
	if _, _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	seen, random := map[string]bool{}, rand.New(rand.NewPCG(1, 1))
	for range 100 {
		undo, err := r.Crash(random, 0.5)
		if err != nil {
			t.Fatal(err)
		}
		seen[d.String()] = true
		if err := undo(); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 3 || !seen["...."] || !seen[".bb."] || !seen[".b.."] {
		t.Errorf("%v", seen)
	}
}

func TestReadRefuses(t *testing.T) {
	good := record(write{0, 1, 0, 'a'})
	for name, b := range map[string][]byte{"empty": nil, "no magic": make([]byte, sector),
		"sector size": append(bytes.Clone(good[:24]), 1, 0, 0, 0)} {
		if _, err := Read(bytes.NewReader(b), int64(len(b))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// An entry whose data are not all there does not count.
	if l, err := Read(bytes.NewReader(good[:len(good)-1]), int64(len(good)-1)); err != nil || len(l.Entries) != 0 {
		t.Errorf("cut: %v, %v", l, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(record(write{0, 1, 0, 'a'}, write{0, 0, Flush, 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, e := range l.Entries {
			if _, err := l.Data(e); err != nil {
				t.Error(err)
			}
		}
	})
}
