package vhd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

func TestQemuImgAgrees(t *testing.T) {
	testenv.Need(t, "qemu-img")
	for _, size := range []int64{1 << 20, 3<<20 + 512, 127 << 20, 5 << 30, 200 << 30} {
		dir := t.TempDir()
		raw, image := filepath.Join(dir, "d.raw"), filepath.Join(dir, "d.vhd")
		for _, path := range []string{raw, image} {
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("golden"), size-6); err != nil {
				t.Fatal(err)
			}
			if path == image {
				err = Append(f, size, [16]byte{1, 2, 3})
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", "vpc", raw, image).CombinedOutput()
		if err != nil {
			t.Errorf("%d bytes: %v\n%s", size, err, out)
		}
		rounded := (size + Unit - 1) / Unit * Unit
		out, err = exec.Command("qemu-img", "info", "--output=json", "-f", "vpc", image).CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"virtual-size": `+strconv.FormatInt(rounded, 10)) {
			t.Errorf("%d bytes: %v; want a virtual size of %d\n%s", size, err, rounded, out)
		}
	}
}

func TestTooLarge(t *testing.T) {
	if err := Append(nil, MaxSize+1, [16]byte{}); err == nil {
		t.Error("a disk that the format cannot hold is taken")
	}
}
