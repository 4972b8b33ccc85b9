package vmdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

// disk makes a raw disk with some data at its beginning, at its end, and where
// grains and grain tables meet.
func disk(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, grainSize - 3, tableEntries*grainSize - 3, 3 * tableEntries * grainSize, size - 6} {
		if off+6 <= size {
			if _, err := f.WriteAt([]byte("golden"), off); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f
}

func write(t testing.TB, src *os.File, name string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(t.Context(), f, src, name); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// QEMU's own tool finds no fault with the image and the same disk in it.
func TestQemuImgAgrees(t *testing.T) {
	for _, size := range []int64{512, 65536, 1<<20 + 512, 40 << 20, 700 << 20, 5<<30 + 512} {
		src := disk(t, size)
		image := write(t, src, "disk.vmdk")
		testenv.QemuImg(t, "vmdk", image, src.Name())
		out, err := exec.Command("qemu-img", "info", "--output=json", image).CombinedOutput()
		for _, want := range []string{
			fmt.Sprintf(`"virtual-size": %d`, size), `"format": "vmdk"`, `"create-type": "monolithicSparse"`, `"filename": "` + image + `"`,
		} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%d bytes: %v; want %s\n%s", size, err, want, out)
			}
		}
	}
}

func TestSameBytes(t *testing.T) {
	src := disk(t, 200<<20)
	a, _ := os.ReadFile(write(t, src, "disk.vmdk"))
	b, _ := os.ReadFile(write(t, src, "disk.vmdk"))
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Error("two writes differ")
	}
	if _, err := src.WriteAt([]byte("other"), 100); err != nil {
		t.Fatal(err)
	}
	c, _ := os.ReadFile(write(t, src, "disk.vmdk"))
	if cid(a) == cid(c) {
		t.Errorf("another disk has the same content identifier %s", cid(a))
	}
}

func cid(image []byte) string {
	_, rest, _ := bytes.Cut(image[:2048], []byte("\nCID="))
	return string(rest[:8])
}

func TestRefusals(t *testing.T) {
	src := disk(t, 1<<20)
	if err := Write(t.Context(), nil, src, "a\"b"); err == nil {
		t.Error("a name that ends its own quotes is taken")
	}
	if err := src.Truncate(MaxSize + 1); err == nil { // a file system without holes this large cannot test it
		if err := Write(t.Context(), nil, src, "a"); err == nil {
			t.Error("a disk that the format cannot hold is taken")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(ctx, f, disk(t, 1<<20), "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
