package update

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/bootentry"
)

// A machine that came back says why, even when that cannot be recorded.
func TestReturnCannotBeRecorded(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		b.must(b.Install(ctx, v2, Options{}))
		for range bootentry.Tries + 1 {
			b.start(v1, v2)
		}
		write = func(string, []byte, os.FileMode) error { return errors.New("no space left on device") }
		defer func() { write = atomicfile.Write }()
		f, err := b.Check(ctx)
		if err == nil || f.Returned == nil || !strings.Contains(strings.Join(b.said, " "), "version 2 failed: its kernel") {
			t.Errorf("%+v, %v, said %q", f, err, b.said)
		}
		if _, err := os.Stat(filepath.Join(b.esp, bootentry.Dir, "demo_1.efi")); err != nil {
			t.Error(err)
		}
	})
}
