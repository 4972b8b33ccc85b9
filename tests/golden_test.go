package tests

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/disk"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/qemu"
)

// golden is an image that boots and does nothing.
const golden = `name: golden
version: "%s"
release: bookworm
elements: [%s]
`

// A version that does not start is given up after three attempts, and the
// machine is back on the one before: by systemd-boot's counter under UEFI, by
// GRUB's under a BIOS.
func TestBrokenSlot(t *testing.T) {
	need(t, false)
	testenv.Need(t, "mcopy", "mtype", "mdir", "debugfs", "cp")
	one, two := t.TempDir(), t.TempDir()
	build(t, one, fmt.Sprintf(golden, "1", "debian, boot, read-only-root"), nil)
	build(t, two, fmt.Sprintf(golden, "2", "debian, boot, read-only-root, no-init"), []string{elements(t)})
	for _, f := range []testbed.Firmware{testbed.UEFI, testbed.BIOS} {
		t.Run(string(f), func(t *testing.T) {
			raw := filepath.Join(t.TempDir(), "disk.raw")
			tool(t, one, "cp", "--sparse=always", "golden.raw", raw)
			l := installSlotB(t, raw, two)
			console := &watched{words: []string{"login:"}, seen: make(chan struct{})}
			c := qemu.Config{Image: raw, Write: true, Firmware: f, Console: console}
			took := console.wait(t, func(ctx context.Context) error { return qemu.Run(ctx, c) })
			t.Logf("back on version 1 after %.0f s", took.Seconds())
			if n := strings.Count(console.text.String(), "BOOT FAILED: run /sbin/init"); n != bootentry.Tries {
				t.Errorf("version 2 was started %d times:\n%s", n, console.text.String())
			}
			esp := raw + "@@" + fmt.Sprint(partition(l, "esp").Start)
			if f == testbed.UEFI {
				if list := tool(t, one, "mdir", "-b", "-i", esp, "::/EFI/Linux"); !strings.Contains(list, "golden_2+0-3.efi") {
					t.Errorf("EFI/Linux:\n%s", list)
				}
			} else if env := tool(t, one, "mtype", "-i", esp, "::/grub/grubenv"); !strings.Contains(env, "left=0\n") {
				t.Errorf("grubenv: %s", env)
			}
			diary := attempts(t, raw, l)
			if n := strings.Count(diary, `"stage":"failed","error":"run /sbin/init: no such file or directory"`); n != bootentry.Tries {
				t.Errorf("%d failures in the diary:\n%s", n, diary)
			}
			if last := diary[strings.LastIndex(diary, "{"):]; !strings.Contains(last, `"stage":"switch-root"`) {
				t.Errorf("the diary ends with %s", last)
			}
		})
	}
}

func partition(l *disk.Layout, name string) *disk.Partition {
	for i := range l.Partitions {
		if l.Partitions[i].Name == name {
			return &l.Partitions[i]
		}
	}
	return nil
}

// installSlotB puts the image that was built in the directory from into the
// second slot of a disk, on trial, as an update does it.
func installSlotB(t *testing.T, raw, from string) *disk.Layout {
	t.Helper()
	m, err := imagebuild.ReadManifest(filepath.Join(from, "golden.manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.Open(filepath.Join(from, "golden.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	guids := map[int]string{}
	for _, name := range []string{"root", "verity"} {
		a, b := partition(m.Disk, name+"-a"), partition(m.Disk, name+"-b")
		if _, err := io.Copy(io.NewOffsetWriter(f, b.Start), io.NewSectionReader(source, a.Start, a.Size)); err != nil {
			t.Fatal(err)
		}
		guids[b.Number] = a.GUID
	}
	if err := gpt.SetGUIDs(f, m.Disk.Size, 512, guids); err != nil {
		t.Fatal(err)
	}
	id := m.Disk.Boot.ID
	env, err := bootentry.Env{"good": "golden_1", "try": id, "left": "3"}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "grubenv"), env, 0o600); err != nil {
		t.Fatal(err)
	}
	at := "@@" + fmt.Sprint(partition(m.Disk, "esp").Start)
	entry := bootentry.Entry{ID: id, Counted: true, Left: bootentry.Tries}
	tool(t, dir, "mcopy", "-s", "-i", source.Name()+at, "::/bios/"+id, "::/"+m.Disk.Boot.UKI, ".")
	tool(t, dir, "mcopy", "-s", "-i", raw+at, id, "::/bios/")
	tool(t, dir, "mcopy", "-i", raw+at, id+".efi", "::/"+bootentry.Dir+"/"+entry.File())
	tool(t, dir, "mcopy", "-o", "-i", raw+at, "grubenv", "::/"+bootentry.EnvFile)
	return m.Disk
}

// attempts reads the diary of boots from a disk's state partition.
func attempts(t *testing.T, raw string, l *disk.Layout) string {
	t.Helper()
	p := partition(l, "state")
	dir := t.TempDir()
	tool(t, dir, "dd", "if="+raw, "of=state", "bs=1M", "conv=sparse", "status=none",
		fmt.Sprintf("skip=%d", p.Start>>20), fmt.Sprintf("count=%d", p.Size>>20))
	tool(t, dir, "bash", "-c", "e2fsck -p state >&2 || [ $? = 1 ]") // the journal; 1 means repaired
	return tool(t, dir, "debugfs", "-c", "-R", "cat /boot/attempts.jsonl", "state")
}
