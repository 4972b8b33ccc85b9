package fetch

import (
	"context"
	"os"
	"strings"
	"testing"
)

// zeroer counts the zeros that it is asked for.
type zeroer struct {
	memory
	zeros int64
}

func (z *zeroer) Zero(off, n int64) error {
	clear(z.memory[off : off+n])
	z.zeros += n
	return nil
}

// A whole disk is written and read back; a changed byte is found, wherever.
func TestDisk(t *testing.T) {
	s := newSample(t)
	im := s.open(t, "oci:"+s.layout.Dir())
	size := im.Release().Disk.Size
	dst := &zeroer{memory: noise(99, int(size))}
	st, err := im.Write(t.Context(), Disk, dst, Options{})
	if err != nil || st.Size != size || st.Zeros != dst.zeros || dst.zeros == 0 {
		t.Fatalf("%+v, %d zeros, %v", st, dst.zeros, err)
	}
	var told int64
	if err := im.Verify(t.Context(), Disk, dst, func(done, _ int64) { told = done }); err != nil || told != size {
		t.Errorf("read back: %v, told of %d bytes", err, told)
	}
	for _, at := range []int64{0, 600, 1 << 20, 3 << 20, size - 1} {
		dst.memory[at] ^= 1
		err := im.Verify(t.Context(), Disk, dst, nil)
		if err == nil || !strings.Contains(err.Error(), "not what was written") {
			t.Errorf("byte %d: %v", at, err)
		}
		dst.memory[at] ^= 1
	}
	f, err := os.Create(t.TempDir() + "/short")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := im.Verify(t.Context(), Disk, f, nil); err == nil || !strings.Contains(err.Error(), "read back: ") {
		t.Errorf("a disk that ends early: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := im.Verify(ctx, Disk, dst, nil); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}
