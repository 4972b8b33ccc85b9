package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/initramfs"
	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// liveConfig is a configuration with what a live system's initramfs needs.
func liveConfig() Config {
	c := sampleConfig()
	lib := "usr/lib/modules/" + version + "/"
	c.Root.AddFile(lib+"modules.dep", 0o644, []byte("kernel/squashfs.ko:\nkernel/loop.ko:\n"))
	c.Root.AddFile(lib+"kernel/squashfs.ko", 0o644, []byte("squashfs"))
	c.Root.AddFile(lib+"kernel/loop.ko", 0o644, []byte("loop"))
	return c
}

// packedRoot stands for a SquashFS.
func packedRoot(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(bytes.Repeat([]byte("root"), 300000)); err != nil {
		t.Fatal(err)
	}
	return f
}

func mustISO(t *testing.T, c Config, root *os.File) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "live.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := WriteISO(t.Context(), f, c, root); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// As a disk and as a CD, the image has the same two parts, and the kernel asks
// for the root that is there.
func TestWriteISO(t *testing.T) {
	root := packedRoot(t)
	name := mustISO(t, liveConfig(), root)
	image, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(mustISO(t, liveConfig(), root)); !bytes.Equal(image, again) {
		t.Error("two writes differ")
	}
	table, err := gpt.Read(bytes.NewReader(image), int64(len(image)), sector)
	if err != nil || len(table.Partitions) != 2 {
		t.Fatalf("%+v, %v", table, err)
	}
	p := table.Partitions[0]
	want, _ := os.ReadFile(root.Name())
	sum := sha256.Sum256(want)
	if got := image[p.Start:][:len(want)]; !bytes.Equal(got, want) || p.GUID != formatGUID(sum[:]) {
		t.Errorf("partition %+v is not the root", p)
	}
	if !bytes.Contains(image, []byte("root=PARTUUID="+p.GUID+" ")) {
		t.Error("the kernel asks for another root")
	}
	testenv.Need(t, "sgdisk", "xorriso", "fsck.fat", "mdir")
	if out := run(t, "sgdisk", "-v", name); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	esp := &Partition{Name: "esp", Start: table.Partitions[1].Start, Size: table.Partitions[1].Size}
	path := extract(t, name, esp)
	run(t, "mdir", "-i", path, "::EFI/BOOT/BOOTX64.EFI")
	out := run(t, "xorriso", "-abort_on", "WARNING", "-indev", name, "-report_el_torito", "plain",
		"-report_system_area", "plain")
	for _, part := range []string{"'DEMO_1_2'", "UEFI  y   none", "El Torito img path :   1  /ESP.IMG",
		"GPT partition path :   1  /ROOT.SQUASHFS", "GPT partition path :   2  /ESP.IMG"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %s in\n%s", part, out)
		}
	}
}

// A cancelled write, and an image without what it needs, end with an error.
func TestWriteISOFails(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "live.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteISO(ctx, f, liveConfig(), packedRoot(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c := liveConfig()
	c.Root.Remove(efiDir)
	if err := WriteISO(t.Context(), f, c, packedRoot(t)); err == nil ||
		!strings.Contains(err.Error(), "linuxx64.efi.stub") {
		t.Errorf("without a stub: %v", err)
	}
}

// The RAM disk is the initramfs and behind it an archive with the root, where
// the kernel looks for one.
func TestWriteInitrd(t *testing.T) {
	root := packedRoot(t)
	c := liveConfig()
	c.Root.Remove(efiDir) // a network boot needs none of it
	var out, kernel bytes.Buffer
	if err := WriteInitrd(t.Context(), &out, c, root.Name()); err != nil {
		t.Fatal(err)
	}
	if err := WriteKernel(&kernel, c); err != nil || !bytes.HasPrefix(kernel.Bytes(), []byte("MZ kernel")) {
		t.Errorf("kernel %.20q, %v", kernel.Bytes(), err)
	}
	at := bytes.Index(out.Bytes(), []byte("070701"))
	if at <= 0 || at%4 != 0 {
		t.Fatalf("the second archive is at byte %d", at)
	}
	want, _ := os.ReadFile(root.Name())
	r := cpio.NewReader(bytes.NewReader(out.Bytes()[at:]))
	h, err := r.Next()
	if err != nil || h.Name != initramfs.LiveRootPath {
		t.Fatalf("%+v, %v", h, err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the root has %d bytes (%v)", len(got), err)
	}
	z, err := zstd.NewReader(bytes.NewReader(out.Bytes()[:at]))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	// The zeros that fill it up to four bytes are no zstd, which does not matter here.
	if first, err := io.ReadAll(z); !bytes.Contains(first, []byte("\nlive file\n")) {
		t.Errorf("the initramfs is not one of a live system (%v)", err)
	}
}

func TestLiveRoot(t *testing.T) {
	got, err := LiveRoot(liveConfig())
	if err != nil {
		t.Fatal(err)
	}
	if got.Lookup("boot/vmlinuz-"+version) != nil || got.Lookup("srv") == nil ||
		got.Lookup("var/big").Kind() != tree.ModeRegular {
		t.Error("the kernel is there, or something else is not")
	}
	c := liveConfig()
	c.Name = "a/b"
	if _, err := LiveRoot(c); err == nil {
		t.Error("a bad name is taken")
	}
}
