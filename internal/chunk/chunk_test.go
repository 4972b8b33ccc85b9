package chunk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"goldsmith/internal/testenv"
)

// noise is n bytes that no encoder makes shorter, the same for the same seed.
func noise(seed uint64, n int) []byte {
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(s).Read(b)
	return b
}

func write(t testing.TB, disk []byte, cuts ...int64) ([]byte, Index) {
	t.Helper()
	var blob bytes.Buffer
	x, err := Write(t.Context(), &blob, bytes.NewReader(disk), cuts...)
	if err != nil {
		t.Fatal(err)
	}
	return blob.Bytes(), x
}

// draw makes a disk of data, zeros and nearly zeros, and places to cut it.
func draw(t *rapid.T) (disk []byte, cuts []int64) {
	for range rapid.IntRange(0, 5).Draw(t, "stretches") {
		n := rapid.IntRange(1, 400<<10).Draw(t, "length")
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			disk = append(disk, make([]byte, n)...)
		case 1:
			disk = append(disk, noise(rapid.Uint64Range(0, 9).Draw(t, "seed"), n)...)
		case 2:
			b := make([]byte, n)
			b[n/2] = 1
			disk = append(disk, b...)
		}
	}
	for range rapid.IntRange(0, 3).Draw(t, "cuts") {
		cuts = append(cuts, int64(rapid.IntRange(0, len(disk)).Draw(t, "cut")))
	}
	return disk, cuts
}

// Whatever the disk, the chunks are where the index says and what it says, the
// forced cuts are there, and one reading with short reads gives the same.
func TestChunksAreTheDisk(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		disk, cuts := draw(rt)
		blob, x := write(t, disk, cuts...)
		if x.Size() != int64(len(disk)) || x.PackedSize() != int64(len(blob)) {
			rt.Fatalf("the index describes %d and %d bytes; want %d and %d",
				x.Size(), x.PackedSize(), len(disk), len(blob))
		}
		d, err := NewDecoder()
		if err != nil {
			rt.Fatal(err)
		}
		defer d.Close()
		for _, c := range x {
			want := disk[c.Offset : c.Offset+c.Length]
			got := make([]byte, c.Length)
			if !c.Zeros() {
				if got, err = d.Chunk(c, blob[c.PackedOffset:c.PackedOffset+c.Packed], nil); err != nil {
					rt.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				rt.Fatalf("the chunk at %d differs from the disk", c.Offset)
			}
		}
		for _, at := range cuts {
			if at < int64(len(disk)) && !slices.ContainsFunc(x, func(c Chunk) bool { return c.Offset == at }) {
				rt.Fatalf("no chunk starts at the forced cut %d", at)
			}
		}
		var again bytes.Buffer
		y, err := Write(t.Context(), &again, iotest.HalfReader(bytes.NewReader(disk)), cuts...)
		if err != nil || !bytes.Equal(again.Bytes(), blob) || !slices.Equal(x, y) {
			rt.Fatalf("short reads give another blob (%v)", err)
		}
	})
}

// The blob does not depend on how many processors there are.
func TestSameBytesOnAnyNumberOfProcessors(t *testing.T) {
	disk := slices.Concat(noise(1, 3<<20), make([]byte, 1<<20), bytes.Repeat([]byte("goldsmith "), 400_000))
	want, _ := write(t, disk)
	for _, n := range []int{1, 3, 8} {
		old := runtime.GOMAXPROCS(n)
		got, _ := write(t, disk)
		runtime.GOMAXPROCS(old)
		if !bytes.Equal(got, want) {
			t.Errorf("%d processors give another blob", n)
		}
	}
}

// zstd itself makes the disk of the blob.
func TestZstdReadsTheBlob(t *testing.T) {
	testenv.Need(t, "zstd")
	disk := slices.Concat(noise(2, 300<<10), make([]byte, 40<<20), noise(3, 10))
	blob, x := write(t, disk, 100)
	if len(x) > 20 {
		t.Errorf("%d chunks; the zeros should be one", len(x))
	}
	file := filepath.Join(t.TempDir(), "disk.zst")
	if err := os.WriteFile(file, blob, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("zstd", "-dcq", file).Output()
	if err != nil || !bytes.Equal(got, disk) {
		t.Errorf("zstd -d gives %d bytes that differ (%v)", len(got), err)
	}
}

// What is inserted changes the chunks around it and no others: cuts follow the
// content. A partition is found again at another place of another disk.
func TestCutsFollowContent(t *testing.T) {
	old := slices.Concat(noise(4, 2<<20), make([]byte, 256<<10), noise(8, 6<<20))
	_, x := write(t, old)
	known := map[Sum]bool{}
	err := Find(t.Context(), bytes.NewReader(old), func(s Sum, _, _ int64) { known[s] = true })
	if err != nil {
		t.Fatal(err)
	}
	if len(known) != len(x)-1 {
		t.Errorf("Find gives %d chunks of data, the index has %d chunks and one of them is zeros", len(known), len(x))
	}
	changed := slices.Concat(noise(6, 5000), make([]byte, 1<<20), old[:4<<20], []byte("inserted"), old[4<<20:])
	_, y := write(t, changed, 5000+1<<20)
	missing := 0
	for _, c := range y {
		if !c.Zeros() && !known[c.Sum] {
			missing++
		}
	}
	if missing > 6 {
		t.Errorf("%d of %d chunks are new after one insertion", missing, len(y))
	}
	// At an odd place, zeros are found where they are found in a partition.
	_, z := write(t, slices.Concat(noise(6, 5001), old), 5001)
	in, err := z.Range(5001, int64(len(old)))
	if err != nil || len(in) != len(x) ||
		slices.ContainsFunc(in, func(c Chunk) bool { return !c.Zeros() && !known[c.Sum] }) {
		t.Errorf("behind 5001 bytes and a forced cut, chunks are %d instead of %d, or others (%v)",
			len(in), len(x), err)
	}
	if mean := len(old) / len(x); mean < averageData/2 || mean > 2*averageData {
		t.Errorf("chunks have %d bytes on average", mean)
	}
}

func TestRange(t *testing.T) {
	disk := noise(5, 1<<20)
	_, x := write(t, disk, 300<<10, 700<<10)
	got, err := x.Range(300<<10, 400<<10)
	if err != nil || got[0].Offset != 300<<10 || got.Size() != 700<<10 {
		t.Errorf("Range = %v, %v", got, err)
	}
	if all, err := x.Range(0, 1<<20); len(all) != len(x) || err != nil {
		t.Errorf("the whole disk = %d of %d chunks, %v", len(all), len(x), err)
	}
	for _, r := range [][2]int64{{1, 100}, {0, 100}, {0, 0}, {300 << 10, -5}, {0, 1<<20 + 1}, {1 << 20, 1},
		{-1, 1 << 20}} {
		if got, err := x.Range(r[0], r[1]); err == nil {
			t.Errorf("Range(%d, %d) = %v; want an error", r[0], r[1], got)
		}
	}
}

func TestIndexRoundTrip(t *testing.T) {
	_, x := write(t, slices.Concat(noise(1, 1<<20), make([]byte, 1<<20)))
	b, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	y, err := Parse(b)
	if d := cmp.Diff(x, y); d != "" || err != nil {
		t.Errorf("Parse (-want +got): %v\n%s", err, d)
	}
}

func TestBadIndex(t *testing.T) {
	entry := func(length, packed string, sum byte) string {
		return magic + length + packed + string(bytes.Repeat([]byte{sum}, 16))
	}
	for name, b := range map[string]string{
		"empty":            "",
		"another file":     "GSCHUNK2",
		"half an entry":    magic + "123",
		"no length":        entry("\x00\x00\x00\x00", "\x01\x00\x00\x00", 1),
		"no frame":         entry("\x01\x00\x00\x00", "\x00\x00\x00\x00", 1),
		"too long":         entry("\x01\x00\x04\x00", "\x01\x00\x00\x00", 1),
		"too long a frame": entry("\x01\x00\x00\x00", "\xff\xff\xff\xff", 1),
		"too many zeros":   entry("\x01\x00\x00\x40", "\x01\x00\x00\x00", 0),
	} {
		if x, err := Parse([]byte(b)); err == nil {
			t.Errorf("%s: taken as %v", name, x)
		}
	}
}

// A frame that is no chunk's is refused, one that unpacks to gigabytes too.
func TestBadFrame(t *testing.T) {
	blob, x := write(t, noise(7, 100<<10))
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	damaged := slices.Clone(blob[:x[0].Packed])
	damaged[len(damaged)/2] ^= 1
	for name, frame := range map[string][]byte{"damaged": damaged, "none": {}, "half": blob[:100],
		"a gigabyte": zeroFrame(MaxZeros)} {
		got, err := d.Chunk(x[0], frame, nil)
		if err == nil {
			t.Errorf("%s: gives %d bytes", name, len(got))
		}
		if name == "a gigabyte" && !errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestErrorsEndIt(t *testing.T) {
	want := errors.New("the disk is broken")
	disk := noise(1, 10<<20)
	if _, err := Write(t.Context(), io.Discard,
		io.MultiReader(bytes.NewReader(disk), failing{want})); !errors.Is(err, want) {
		t.Errorf("a reader's error: %v", err)
	}
	if _, err := Write(t.Context(), failing{want}, bytes.NewReader(disk)); !errors.Is(err, want) {
		t.Errorf("a writer's error: %v", err)
	}
	if err := Find(t.Context(), failing{want}, nil); !errors.Is(err, want) {
		t.Errorf("an error under Find: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	_, x := write(f, slices.Concat(noise(1, 1<<20), make([]byte, 1<<20)))
	b, _ := x.Encode()
	f.Add(b)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Parse(b)
		if err != nil {
			return
		}
		again, err := x.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x is encoded as %x, %v", b, again, err)
		}
		if got, err := x.Range(0, x.Size()); len(x) > 0 && (err != nil || len(got) != len(x)) {
			t.Errorf("the whole disk is %d of %d chunks, %v", len(got), len(x), err)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	disk := noise(1, 256<<20)
	b.SetBytes(int64(len(disk)))
	for b.Loop() {
		if err := Find(b.Context(), bytes.NewReader(disk), func(Sum, int64, int64) {}); err != nil {
			b.Fatal(err)
		}
	}
}
