package qcow2

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"goldsmith/internal/sparse"
	"goldsmith/internal/testenv"
)

// disk writes a raw disk of pieces that pack well, badly and not at all, with
// holes between them.
func disk(t testing.TB, size int64, seed uint64) *os.File {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	content := make([]byte, size)
	for off := int64(0); off < size; {
		n := min(rnd.Int64N(300<<10)+1, size-off)
		part := content[off : off+n]
		switch rnd.IntN(3) {
		case 0:
			for i := range part {
				part[i] = byte(rnd.Uint32())
			}
		case 1:
			copy(part, bytes.Repeat([]byte("golden image "), int(n/13)+1))
		}
		off += n
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := sparse.Copy(f, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t testing.TB, src *os.File, c Compression) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(context.Background(), f, src, c); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// QEMU's own tool finds no fault with the image and the same disk in it.
func TestQemuImgAgrees(t *testing.T) {
	for i, size := range []int64{512, 65536, 1<<20 + 512, 40 << 20, 700 << 20} {
		for _, c := range []Compression{Zstd, Zlib, None} {
			if size == 700<<20 && c != None {
				continue // more than one L2 table; the other compressions add nothing
			}
			src := disk(t, min(size, 40<<20), uint64(i))
			if err := src.Truncate(size); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes, compression %d", size, c)
			testenv.QemuImg(t, "qcow2", write(t, src, c), src.Name())
		}
	}
}

func TestSameBytes(t *testing.T) {
	src := disk(t, 8<<20, 7)
	for _, c := range []Compression{Zstd, Zlib, None} {
		a, _ := os.ReadFile(write(t, src, c))
		b, _ := os.ReadFile(write(t, src, c))
		if !bytes.Equal(a, b) {
			t.Errorf("compression %d: two writes differ", c)
		}
	}
}

func TestZerosTakeNoSpace(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "zeros"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(write(t, f, Zstd)); err != nil || fi.Size() > 300<<10 {
		t.Errorf("a GiB of zeros takes %d bytes (%v)", fi.Size(), err)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(ctx, f, disk(t, 40<<20, 1), None); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A destination that fails ends the writing with its error.
func TestFailingDestination(t *testing.T) {
	f, err := os.Open(os.DevNull) // cannot be written to
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(t.Context(), f, disk(t, 4<<20, 1), Zstd); err == nil {
		t.Error("writing to a file that is open for reading succeeds")
	}
}

func BenchmarkWrite(b *testing.B) {
	src := disk(b, 64<<20, 1)
	for _, c := range []Compression{Zstd, Zlib, None} {
		b.Run([]string{"zstd", "zlib", "none"}[c], func(b *testing.B) {
			b.SetBytes(64 << 20)
			for b.Loop() {
				write(b, src, c)
			}
		})
	}
}

var diskFile = flag.String("disk", "", "BenchmarkDisk packs this raw disk")

// BenchmarkDisk packs a whole disk into a file, as a build does.
func BenchmarkDisk(b *testing.B) {
	if *diskFile == "" {
		b.Skip("no -disk")
	}
	src, err := os.Open(*diskFile)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	for b.Loop() {
		f, err := os.Create(filepath.Join(b.TempDir(), "disk.qcow2"))
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(Write(b.Context(), f, src, Zstd), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
}
