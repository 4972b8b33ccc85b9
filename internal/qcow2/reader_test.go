package qcow2

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

func readAll(image []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(r, 0, min(r.Size(), 64<<20)))
}

// What qemu-img writes in any of its variants is read as the disk that it was
// made of, and so is what this package writes.
func TestReader(t *testing.T) {
	testenv.Need(t, "qemu-img")
	for i, size := range []int64{512, 1<<20 + 512, 9 << 20} {
		src := disk(t, size, uint64(i))
		want, err := os.ReadFile(src.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, options := range []string{
			"compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=2M", "refcount_bits=1", "lazy_refcounts=on",
			"preallocation=metadata", "-c compat=0.10", "-c compat=1.1", "-c cluster_size=4096", "-c compression_type=zstd",
			"-c compression_type=zstd,cluster_size=512k",
		} {
			image := filepath.Join(t.TempDir(), "image")
			args := []string{"convert", "-O", "qcow2"}
			option, packed := strings.CutPrefix(options, "-c ")
			if packed {
				args = append(args, "-c")
			}
			args = append(args, "-o", option, "-f", "raw", src.Name(), image)
			if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
				t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
			}
			b, _ := os.ReadFile(image)
			if got, err := readAll(b); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %s: read %d other bytes, %v", size, options, len(got), err)
			}
		}
		for _, c := range []Compression{Zstd, Zlib, None} {
			b, _ := os.ReadFile(write(t, src, c))
			if got, err := readAll(b); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, compression %d: read %d other bytes, %v", size, c, len(got), err)
			}
		}
	}
}

// A cluster may be said to be zeros and still have a place.
func TestZeroFlag(t *testing.T) {
	testenv.Need(t, "qemu-img", "qemu-io")
	src := disk(t, 1<<20, 1)
	if _, err := src.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	image := write(t, src, None)
	if out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", "write -z 64k 128k", image).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, _ := os.ReadFile(src.Name())
	clear(want[64<<10 : 192<<10])
	b, _ := os.ReadFile(image)
	if got, err := readAll(b); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read something else (%v)", err)
	}
}

func TestReaderRefuses(t *testing.T) {
	src := disk(t, 1<<20, 1)
	if _, err := src.WriteAt(bytes.Repeat([]byte("golden image "), 80000), 0); err != nil {
		t.Fatal(err)
	}
	good, _ := os.ReadFile(write(t, src, Zstd))
	be := binary.BigEndian
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   string
	}{
		"empty":        {func(b []byte) []byte { return nil }, "cut off"},
		"magic":        {func(b []byte) []byte { b[0]++; return b }, "not an image"},
		"version":      {func(b []byte) []byte { b[7] = 4; return b }, "version 4"},
		"backing file": {func(b []byte) []byte { b[15] = 200; return b }, "backing file"},
		"encryption":   {func(b []byte) []byte { b[35] = 1; return b }, "encrypted"},
		"clusters":     {func(b []byte) []byte { b[23] = 40; return b }, "clusters of"},
		"size":         {func(b []byte) []byte { b[24] = 0xff; return b }, "a disk of"},
		"large":        {func(b []byte) []byte { b[26] = 0xff; return b }, "L1 table"},
		"corrupt":      {func(b []byte) []byte { b[79] |= 2; return b }, "corrupt"},
		"data file":    {func(b []byte) []byte { b[79] |= 4; return b }, "another file"},
		"extended L2":  {func(b []byte) []byte { b[79] |= 16; return b }, "extended L2"},
		"unknown":      {func(b []byte) []byte { b[79] |= 64; return b }, "0x40 are not known"},
		"compression":  {func(b []byte) []byte { b[104] = 2; return b }, "compression type 2"},
		"L1 place":     {func(b []byte) []byte { be.PutUint64(b[40:], 1<<40); return b }, "L1 table"},
		"cut off":      {func(b []byte) []byte { return b[:len(b)/2] }, ""},
		"L2 place": {func(b []byte) []byte {
			be.PutUint64(b[be.Uint64(b[40:]):], 1<<40)
			return b
		}, "was it cut off"},
		"packed badly": {func(b []byte) []byte { clear(b[1<<16:][:100]); return b }, "cannot be unpacked"},
	} {
		if _, err := readAll(c.change(slices.Clone(good))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// What a decompressor says is said once.
func TestReaderSaysItOnce(t *testing.T) {
	src := disk(t, 1<<20, 1)
	if _, err := src.WriteAt(bytes.Repeat([]byte("golden image "), 80000), 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Compression{Zstd, Zlib} {
		image, err := os.ReadFile(write(t, src, c))
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"cut off": image[:1<<16+10], "zeros": append(image[:1<<16:1<<16], make([]byte, len(image)-1<<16)...)} {
			r := &Reader{compression: c}
			err := r.unpack(make([]byte, 1<<16), b[1<<16:])
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("compression %d, %s: %v", c, name, err)
			}
		}
	}
}

// FuzzReader reads what is made of images by changing some bytes.
func FuzzReader(f *testing.F) {
	var images [][]byte
	for i, c := range []Compression{Zstd, Zlib, None} {
		b, _ := os.ReadFile(write(f, disk(f, 200<<10, uint64(i)), c))
		images = append(images, b)
	}
	f.Add(uint8(0), []byte{0, 0, 24, 3})
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		b := slices.Clone(images[int(which)%len(images)])
		for ; len(changes) >= 4; changes = changes[4:] { // three bytes of position, one of content
			at := int(changes[0])<<16 | int(changes[1])<<8 | int(changes[2])
			b[at%len(b)] = changes[3]
		}
		r, err := NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, io.NewSectionReader(r, 0, min(r.Size(), 1<<20)))
	})
}
