package update

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/bootentry"
)

// What a machine would return to is looked at before another image is tried.
func TestDamagedFallback(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		known bool // the running kernel image's digest
		spoil string
		text  []byte
		want  string
	}{
		"rot":          {true, "EFI/Linux/demo_1.efi", []byte("MZ rot"), "is damaged"},
		"rot, unknown": {false, "EFI/Linux/demo_1.efi", []byte("MZ rot"), "kernel image"},
		"other root":   {false, "EFI/Linux/demo_1.efi", kernel("7"), "another root"},
		"grub":         {true, "bios/demo_1/initrd", []byte("rot"), "bios/demo_1/initrd"},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, b *bench) {
				if strings.HasPrefix(c.spoil, "bios") {
					if !b.bios {
						return
					}
					b.Boot.Firmware = "bios"
				}
				v1, v2 := b.image("1", 0), b.image("2", 0)
				if c.known {
					_ = b.Install(ctx, v1, Options{})
				}
				b.must(os.WriteFile(filepath.Join(b.esp, c.spoil), c.text, 0o600))
				files := b.files()
				err := b.Install(ctx, v2, Options{})
				if err == nil || !strings.Contains(err.Error(), c.want) || b.files() != files {
					t.Errorf("install: %v, %s", err, b.files())
				}
				if r := b.load(); r != nil && r.Slots["b"].State != Empty {
					t.Errorf("recorded: %+v", r.Slots["b"])
				}
			})
		})
	}
}

// What GRUB needs is of no interest where UEFI firmware starts the machine.
func TestDamagedFilesOfTheOtherFirmware(t *testing.T) {
	b := newBench(t, true)
	b.must(os.Remove(filepath.Join(b.esp, bootentry.BIOSDir, "demo_1", "initrd")))
	b.must(b.Install(t.Context(), b.image("2", 0), Options{}))
}

// A rollback looks at the kernel files of what it returns to. Those of what runs
// are no reason to stay.
func TestRollbackLooksAtKernels(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, b *bench) {
		v1, v2 := b.image("1", 0), b.image("2", 0)
		proved(b, v1, v2)
		quiesce := func(context.Context) error { return errors.New("quiesced") }
		for id, want := range map[string]string{"demo_1": "kernel image", "demo_2": "quiesced"} {
			name := filepath.Join(b.esp, bootentry.Dir, id+".efi")
			before, err := os.ReadFile(name)
			b.must(err)
			b.must(os.WriteFile(name, []byte("MZ rot"), 0o600))
			if err := b.Rollback(ctx, quiesce); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", id, err)
			}
			b.must(os.WriteFile(name, before, 0o600))
		}
		if r := b.load(); r.Trial != nil {
			t.Errorf("armed: %+v", r.Trial)
		}
		b.must(b.Rollback(ctx, nil))
	})
}
