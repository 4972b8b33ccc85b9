package fetch

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"goldsmith/internal/testenv"
)

// The cache leaves a quarter of its file system to others, and gives up what it
// has when they need it.
func TestCacheLeavesRoom(t *testing.T) {
	root := noise(2, 12<<20)
	s := store(t, filepath.Join(t.TempDir(), "oci"), "1", root, noise(4, 700_001))
	state := t.TempDir()
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=8m"); err != nil {
		testenv.Missing(t, "no tmpfs can be mounted: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(state, 0) })
	free := func() int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(state, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bavail) * st.Bsize
	}
	write := func() Stats {
		t.Helper()
		dst := memory(make([]byte, len(s.root)))
		st, err := s.open(t, "oci:"+s.layout.Dir()).Write(t.Context(), Root, writeOnly{dst}, Options{Cache: state})
		if err != nil || !bytes.Equal(dst, s.root) {
			t.Fatalf("%+v, %v", st, err)
		}
		return st
	}
	write()
	if n := free(); n < 2<<20 || n > 3<<20 {
		t.Errorf("%d bytes are left", n)
	}
	if st := write(); st.Cached < 4<<20 {
		t.Errorf("what was fetched is not kept: %+v", st)
	}
	other := filepath.Join(state, "service")
	if err := os.WriteFile(other, make([]byte, 3<<19), 0o600); err != nil { // 0.5 MiB are left
		t.Fatal(err)
	}
	if st := write(); st.Cached != 0 {
		t.Errorf("what is kept is in others' way: %+v", st)
	}
	if n := free(); n < 2<<20 {
		t.Errorf("then %d bytes are left", n)
	}
}
