package update

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/bootentry"
)

// What is written is read back from the disk, not from memory, and compared.
func TestReadBack(t *testing.T) {
	defer func() { dropped = drop }()
	for name, c := range map[string]struct {
		spoil func(b *bench) // the disk, once it is asked for instead of memory
		want  string
	}{
		"root":   {func(b *bench) { b.flip("root-b", 5000) }, "partition root-b has root hash"},
		"tree":   {func(b *bench) { b.flip("verity-b", 4100) }, "partition verity-b reads back"},
		"kernel": {func(b *bench) { b.spoil(bootentry.Dir, stagingName) }, "the kernel image reads back"},
		"grub":   {func(b *bench) { b.spoil(bootentry.BIOSDir, stagingName, "initrd") }, "initrd reads back"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true)
			dropped = func(f *os.File, start, size int64) {
				drop(f, start, size)
				c.spoil(b)
			}
			err := b.Install(t.Context(), b.image("2", 0), Options{})
			dropped = drop
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "the disk is failing") {
				t.Errorf("%v", err)
			}
			if id := b.start(b.image("1", 0)); id != "demo_1" {
				t.Errorf("%s started", id)
			}
		})
	}
}

// spoil changes a file of the EFI partition, if it is there.
func (b *bench) spoil(words ...string) {
	name := filepath.Join(append([]string{b.esp}, words...)...)
	if text, err := os.ReadFile(name); err == nil {
		text[len(text)-1] ^= 1
		b.must(os.WriteFile(name, text, 0o600))
	}
}
