package agent

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// picky is a disk that refuses reads past the kernel's memory after some.
type picky struct {
	file
	after int
}

func (p *picky) ReadAt(b []byte, off int64) (int, error) {
	flags, err := unix.FcntlInt(p.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_DIRECT == 0 {
		return p.file.ReadAt(b, off)
	}
	if p.after--; p.after < 0 {
		return 0, unix.EINVAL
	}
	return p.file.ReadAt(b, off)
}

// What is read past the kernel's memory is what is on the disk, at whatever
// offsets, also when the disk refuses that half-way.
func TestBypass(t *testing.T) {
	want := noise(3, 6*mib+700)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, after := range []int{1 << 20, 4, 0} {
		d, err := openDevice(path)
		if err != nil {
			t.Fatal(err)
		}
		p := &picky{file: d.file, after: after}
		d.file = p
		d.bypass()
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 200 {
			off := rnd.Int64N(d.size)
			got := make([]byte, rnd.Int64N(min(d.size-off, 3*mib))+1)
			if _, err := d.ReadAt(got, off); err != nil || !bytes.Equal(got, want[off:off+int64(len(got))]) {
				t.Fatalf("after %d: %d bytes at %d: %v", after, len(got), off, err)
			}
		}
		if (p.after >= 0) != (d.window != nil) {
			t.Errorf("after %d: %d left, and it bypasses: %v", after, p.after, d.window != nil)
		}
		if n, err := d.ReadAt(make([]byte, 10), d.size-5); n != 5 || err == nil {
			t.Errorf("beyond the end: %d, %v", n, err)
		}
		if err := d.endBypass(); err != nil {
			t.Fatal(err)
		}
		if flags, err := unix.FcntlInt(d.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_DIRECT != 0 {
			t.Errorf("flags %x, %v: reads still bypass the kernel's memory", flags, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
