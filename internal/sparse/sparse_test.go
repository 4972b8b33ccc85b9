package sparse

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// Whatever the pattern of data and holes, Copy and NewReader agree with plain
// reads and writes.
func TestSameAsPlain(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var want []byte
		for range rapid.IntRange(0, 6).Draw(t, "stretches") {
			n := rapid.IntRange(1, 200<<10).Draw(t, "length")
			fill := rapid.SampledFrom([]byte{0, 0, 'x'}).Draw(t, "fill")
			want = append(want, bytes.Repeat([]byte{fill}, n)...)
		}
		f, err := os.Create(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		n, err := Copy(f, bytes.NewReader(want))
		if n != int64(len(want)) || err != nil {
			t.Fatalf("Copy = %d, %v; want %d", n, err, len(want))
		}
		plain, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(plain, want) {
			t.Fatalf("the file differs from what was copied (%v)", err)
		}
		r, err := NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("NewReader gives something else (%v)", err)
		}
	})
}

func TestHolesTakeNoSpace(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := make([]byte, 32<<20)
	content[20<<20] = 1
	if _, err := Copy(f, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 1<<20 {
		t.Errorf("one byte of data takes %d bytes", st.Blocks*512)
	}
}
