package vmdk

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"goldsmith/internal/testenv"
)

func open(t testing.TB, name string) *Reader {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r, err := NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What we and qemu-img write is read as the disk that it was.
func TestRead(t *testing.T) {
	testenv.Need(t, "qemu-img")
	for _, size := range []int64{512, 1<<20 + 512, 140 << 20} {
		src := disk(t, size)
		want, err := os.ReadFile(src.Name())
		if err != nil {
			t.Fatal(err)
		}
		theirs := filepath.Join(t.TempDir(), "qemu.vmdk")
		convert := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vmdk", src.Name(), theirs)
		if out, err := convert.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, name := range []string{write(t, src, "disk.vmdk"), theirs} {
			r := open(t, name)
			if r.Size() != size {
				t.Errorf("%s: %d bytes; want %d", name, r.Size(), size)
			}
			got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: another disk of %d bytes, %v", name, len(got), err)
			}
			if n, err := r.ReadAt(make([]byte, 8), size-4); n != 4 || err != io.EOF {
				t.Errorf("%s: at the end: %d, %v", name, n, err)
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	image, err := os.ReadFile(write(f, disk(f, 1<<20), "disk.vmdk"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image[:4096])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		_, _ = r.ReadAt(make([]byte, 4096), 0)
		_, _ = r.ReadAt(make([]byte, 4096), max(0, r.Size()-4096))
	})
}
