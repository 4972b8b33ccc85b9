package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/secureboot"
	"goldsmith/internal/testenv"
)

// With a key, firmware finds signed programs, and no key.
func TestSecureBoot(t *testing.T) {
	keys, err := secureboot.MakeKeys(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := sampleConfig()
	c.Root.AddFile(efiDir+"systemd-bootx64.efi", 0o644, testenv.EFIProgram())
	if c.Signer, err = secureboot.NewSigner(keys["db.key"], keys["db.crt"]); err != nil {
		t.Fatal(err)
	}
	c.Enroll = map[string][]byte{"PK.auth": []byte("PK"), "KEK.auth": []byte("KEK"), "db.auth": []byte("db")}
	name, l := mustCreate(t, c)
	if l.Boot.SignedBy != c.Signer.Fingerprint() {
		t.Errorf("signed by %q", l.Boot.SignedBy)
	}
	dir := t.TempDir()
	esp := extract(t, name, l.part("esp"))
	if err := os.WriteFile(filepath.Join(dir, "db.crt"), keys["db.crt"], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"EFI/BOOT/BOOTX64.EFI", l.Boot.UKI} {
		file := filepath.Join(dir, "program")
		run(t, "mcopy", "-o", "-i", esp, "::/"+p, file)
		run(t, "sbverify", "--cert", filepath.Join(dir, "db.crt"), file)
	}
	if conf := run(t, "mtype", "-i", esp, "::/loader/loader.conf"); !strings.Contains(conf,
		"secure-boot-enroll force\n") {
		t.Errorf("loader.conf: %s", conf)
	}
	if got := run(t, "mtype", "-i", esp, "::/loader/keys/auto/KEK.auth"); got != "KEK" {
		t.Errorf("KEK.auth: %q", got)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range keys {
		if strings.HasSuffix(name, ".key") && bytes.Contains(b, key[60:200]) {
			t.Errorf("%s is in the disk", name)
		}
	}
	again, _ := mustCreate(t, c)
	if other, _ := os.ReadFile(again); !bytes.Equal(b, other) {
		t.Error("two signed disks of the same input differ")
	}
}
