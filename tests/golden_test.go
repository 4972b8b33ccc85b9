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
// GRUB's under a BIOS. The diary on the state partition tells why.
func TestBrokenSlot(t *testing.T) {
	need(t, false)
	testenv.Need(t, "mcopy", "mtype", "mdir", "debugfs", "cp")
	one, noInit, sound := t.TempDir(), t.TempDir(), t.TempDir()
	const small = "debian, boot, read-only-root"
	build(t, one, fmt.Sprintf(golden, "1", small), nil)
	build(t, noInit, fmt.Sprintf(golden, "2", small+", no-init"), []string{elements(t)})
	build(t, sound, fmt.Sprintf(golden, "2", small), nil)
	// The version before has run: there is a state partition to note things on.
	used := filepath.Join(t.TempDir(), "used.raw")
	tool(t, one, "cp", "--sparse=always", "golden.raw", used)
	bootUntilLogin(t, used, testbed.UEFI)
	const failed = `"stage":"failed","error":"run /sbin/init: no such file or directory"`
	for _, c := range []struct {
		name, from string
		firmware   testbed.Firmware
		damage     string // partition of which a byte is changed; empty: none
		at         int64  // which byte
		console    string // each time
		diary      string // each time
	}{
		{"no init", noInit, testbed.UEFI, "", 0, "BOOT FAILED: run /sbin/init", failed},
		{"no init", noInit, testbed.BIOS, "", 0, "BOOT FAILED: run /sbin/init", failed},
		{"root", sound, testbed.UEFI, "root-b", 1100, "not syncing: dm-verity device corrupted", `"stage":"state"`},
		{"tree", sound, testbed.BIOS, "verity-b", 4096, "not syncing: dm-verity device corrupted", `"stage":"state"`},
	} {
		t.Run(c.name+" "+string(c.firmware), func(t *testing.T) {
			raw := filepath.Join(t.TempDir(), "disk.raw")
			tool(t, one, "cp", "--sparse=always", used, raw)
			l := installSlotB(t, raw, c.from)
			if c.damage != "" {
				flip(t, raw, partition(l, c.damage).Start+c.at)
			}
			text := bootUntilLogin(t, raw, c.firmware)
			if n := strings.Count(text, c.console); n != bootentry.Tries {
				t.Errorf("version 2 was started %d times:\n%s", n, text)
			}
			checkCounter(t, raw, c.firmware, l)
			// The boot that succeeds notes both of its stages.
			diary := strings.Split(strings.TrimSpace(attempts(t, raw, l)), "\n")
			tries := 0
			for _, line := range diary {
				if strings.Contains(line, l.Root.RootHash) && strings.Contains(line, c.diary) {
					tries++
				}
			}
			if last := diary[len(diary)-1]; tries != bootentry.Tries || !strings.Contains(last, `"stage":"switch-root"`) || strings.Contains(last, l.Root.RootHash) {
				t.Errorf("the diary:\n%s", strings.Join(diary, "\n"))
			}
		})
	}
}

// A machine repairs at its next start what a power cut can leave: a partition
// table half written, and a state partition without the mark of its file system.
func TestRepairsAtStart(t *testing.T) {
	need(t, false)
	testenv.Need(t, "debugfs")
	dir := t.TempDir()
	build(t, dir, fmt.Sprintf(golden, "1", "debian, boot, read-only-root"), nil)
	m, err := imagebuild.ReadManifest(filepath.Join(dir, "golden.manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(dir, "golden.raw")
	bootUntilLogin(t, raw, testbed.BIOS)
	for _, at := range []int64{1024 + 20, partition(m.Disk, "state").Start + 1024 + 56} { // entries of the table; ext4's magic
		flip(t, raw, at)
	}
	text := bootUntilLogin(t, raw, testbed.BIOS)
	if !strings.Contains(text, "the state partition was damaged, and repaired") {
		t.Errorf("nothing is said:\n%s", text)
	}
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if table, err := gpt.Read(f, m.Disk.Size, 512); err != nil || table.Backup {
		t.Errorf("the partition table: %+v, %v", table, err)
	}
	diary := attempts(t, raw, m.Disk)
	if strings.Count(diary, `"stage":"switch-root"`) != 2 || !strings.Contains(diary, `"stage":"state-repaired"`) {
		t.Errorf("the diary:\n%s", diary)
	}
}

// bootUntilLogin runs a disk until somebody could log in, and returns what the
// console has shown over all boots.
func bootUntilLogin(t *testing.T, raw string, f testbed.Firmware) string {
	t.Helper()
	console := &watched{words: []string{"login:"}, seen: make(chan struct{})}
	c := qemu.Config{Image: raw, Write: true, Firmware: f, Console: console}
	took := console.wait(t, func(ctx context.Context) error { return qemu.Run(ctx, c) })
	t.Logf("login after %.0f s", took.Seconds())
	console.mu.Lock()
	defer console.mu.Unlock()
	return console.text.String()
}

// checkCounter wants the tries of version 2 to be used up.
func checkCounter(t *testing.T, raw string, f testbed.Firmware, l *disk.Layout) {
	t.Helper()
	esp := raw + "@@" + fmt.Sprint(partition(l, "esp").Start)
	if f == testbed.UEFI {
		if list := tool(t, filepath.Dir(raw), "mdir", "-b", "-i", esp, "::/EFI/Linux"); !strings.Contains(list, "golden_2+0-3.efi") {
			t.Errorf("EFI/Linux:\n%s", list)
		}
	} else if env := tool(t, filepath.Dir(raw), "mtype", "-i", esp, "::/grub/grubenv"); !strings.Contains(env, "left=0\n") {
		t.Errorf("grubenv: %s", env)
	}
}

// flip changes a bit of a file.
func flip(t *testing.T, file string, at int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
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
	return stateFile(t, raw, l, "/boot/attempts.jsonl")
}
