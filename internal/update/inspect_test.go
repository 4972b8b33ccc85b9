package update

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/bootentry"
)

func TestInspectBoot(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		b.must(b.Install(t.Context(), v2, Options{}))
		b.start(v1, v2)
		b.must(b.Good(t.Context()))
		b.must(os.MkdirAll(filepath.Join(b.esp, "EFI/BOOT"), 0o755))
		loader := filepath.Join(b.esp, loaderFile)
		b.must(os.WriteFile(loader, []byte("loader"), 0o600))
		before, err := b.InspectBoot(t.Context())
		b.must(err)
		if len(before.Wrong) > 0 {
			t.Errorf("before: %+v", before.Wrong)
		}
		expect := func(path, detail string) {
			t.Helper()
			after, err := b.InspectBoot(t.Context())
			b.must(err)
			for _, f := range after.Wrong {
				if f.Path == path && strings.Contains(f.Detail, detail) {
					return
				}
			}
			t.Errorf("%+v; want %s: %s", after.Wrong, path, detail)
		}
		foreign := filepath.Join(b.esp, bootentry.Dir, "foreign_1.efi")
		b.must(os.WriteFile(foreign, kernel("1"), 0o600))
		expect("EFI/Linux/foreign_1.efi", "no slot has")
		b.must(os.WriteFile(filepath.Join(b.esp, bootentry.Dir, "demo_2.efi"), kernel("3"), 0o600))
		expect("EFI/Linux/demo_2.efi", "is damaged")
		b.must(os.Remove(loader))
		expect(loaderFile, "no such file")
		if b.bios {
			b.must(os.WriteFile(filepath.Join(b.esp, bootentry.ConfigFile), []byte("x"), 0o600))
			expect(bootentry.ConfigFile, "not as it is written")
		}
	})
}
