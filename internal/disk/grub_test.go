package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/release"
)

// GRUB's sectors find each other, and leave the partition table alone.
func TestGRUB(t *testing.T) {
	c := sampleConfig()
	name, l := mustCreate(t, c)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	p := l.part("bios")
	if p.Number != 7 || p.Start != 34*sector || p.Start+p.Size != mib {
		t.Errorf("bios: %+v", p)
	}
	at := le.Uint64(b[bootSector:])
	if string(b[:4]) != "boot" || at != 34 || string(b[bootDrive:bootDrive+2]) != "\x90\x90" {
		t.Errorf("first sector: %q, core at %d", b[:4], at)
	}
	core := b[p.Start:]
	if next := le.Uint64(core[coreBlocks:]); next != 35 || !strings.HasPrefix(string(core[sector:]), "core") {
		t.Errorf("core.img: the rest of it is at %d", next)
	}
	esp := extract(t, name, l.part("esp"))
	env, err := bootentry.ParseEnv([]byte(run(t, "mtype", "-i", esp, "::/grub/grubenv")))
	if diff := cmp.Diff(bootentry.Env{"good": "demo_1.2"}, env); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if boot := run(t, "mtype", "-i", esp, "::/bios/demo_1.2/boot.cfg"); !strings.Contains(boot,
		"'roothash="+l.Root.RootHash+"'") {
		t.Errorf("boot.cfg: %s", boot)
	}
	if kernel := run(t, "mtype", "-i", esp, "::/bios/demo_1.2/linux"); !strings.HasPrefix(kernel, "MZ kernel") {
		t.Errorf("kernel: %.20q", kernel)
	}
	if got := strings.Join(l.Boot.Firmware, " "); got != "uefi bios" {
		t.Errorf("firmware: %s", got)
	}
}

// Without GRUB the disk is for UEFI only, and says so.
func TestWithoutGRUB(t *testing.T) {
	c := sampleConfig()
	c.Root.Remove(GrubDir + "/core.img")
	name, l := mustCreate(t, c)
	if got := strings.Join(l.Boot.Firmware, " "); got != "uefi" {
		t.Errorf("firmware: %s", got)
	}
	listing := run(t, "mdir", "-/", "-b", "-i", extract(t, name, l.part("esp")), "::")
	if strings.Contains(listing, "bios") || strings.Contains(listing, "grub") {
		t.Errorf("EFI partition:\n%s", listing)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[:bootCode], make([]byte, bootCode)) {
		t.Error("there is code in the first sector")
	}
}

// What the description names is in the disk, at that place.
func TestDescribe(t *testing.T) {
	name, l := mustCreate(t, sampleConfig())
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r := &release.Release{
		Format: release.Format, Name: "demo", Version: "1.2", Arch: "amd64",
		Disk: release.Disk{Size: l.Size, SHA256: hash(b)},
	}
	l.Describe(r)
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if got := hash(b[r.UKI.Offset : r.UKI.Offset+r.UKI.Size]); got != r.UKI.SHA256 {
		t.Errorf("at the kernel image's place there is %s; want %s", got, r.UKI.SHA256)
	}
	if got := hash(b[r.Root.Offset : r.Root.Offset+r.Root.Size]); got != l.part("root-a").SHA256 {
		t.Errorf("at the root's place there is %s; want %s", got, l.part("root-a").SHA256)
	}
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
