package tests

import (
	"bytes"
	"debug/pe"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/disk"
	"goldsmith/internal/update"
)

// record reads what the machine recorded about its slots.
func record(t *testing.T, raw string, l *disk.Layout) *update.Record {
	t.Helper()
	r := &update.Record{}
	if err := json.Unmarshal([]byte(stateFile(t, raw, l, "/boot/slots.json")), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// copyState copies a disk's state partition to the file dir/state, and repairs
// it as a start would.
func copyState(t *testing.T, raw string, l *disk.Layout, dir string) {
	t.Helper()
	p := partition(l, "state")
	tool(t, dir, "dd", "if="+raw, "of=state", "bs=1M", "conv=sparse", "status=none",
		fmt.Sprintf("skip=%d", p.Start>>20), fmt.Sprintf("count=%d", p.Size>>20))
	tool(t, dir, "bash", "-c", "e2fsck -p state >&2 || [ $? = 1 ]") // the journal; 1 means repaired
}

// stateFile reads a file of a disk's state partition.
func stateFile(t *testing.T, raw string, l *disk.Layout, name string) string {
	t.Helper()
	dir := t.TempDir()
	copyState(t, raw, l, dir)
	return tool(t, dir, "debugfs", "-c", "-R", "cat "+name, "state")
}

// moment is when the journal last had a line with that text, in seconds.
func moment(t *testing.T, raw string, l *disk.Layout, text string) float64 {
	t.Helper()
	dir := t.TempDir()
	copyState(t, raw, l, dir)
	tool(t, dir, "debugfs", "-c", "-R", "rdump /fs/var/log/journal .", "state")
	last := 0.0
	for line := range strings.Lines(tool(t, dir, "journalctl", "--no-pager", "-D", "journal", "-o", "short-unix")) {
		if strings.Contains(line, text) {
			if _, err := fmt.Sscan(line, &last); err != nil {
				t.Fatal(err)
			}
		}
	}
	if last == 0 {
		t.Errorf("the journal has no %q", text)
	}
	return last
}

// changed is when a file of the state partition was written, in seconds. The
// record of the slots is written as soon as all health checks are good.
func changed(t *testing.T, raw string, l *disk.Layout, name string) float64 {
	t.Helper()
	dir := t.TempDir()
	copyState(t, raw, l, dir)
	_, stat, _ := strings.Cut(tool(t, dir, "debugfs", "-c", "-R", "stat "+name, "state"), "mtime: 0x")
	var seconds int64
	if _, err := fmt.Sscanf(stat, "%x:", &seconds); err != nil {
		t.Fatalf("%s: %v: %.100s", name, err, stat)
	}
	return float64(seconds)
}

// spoil damages what an update wrote, in the disk image.
func spoil(t *testing.T, raw string, l *disk.Layout, what string) {
	t.Helper()
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	at := func(start, n int64) {
		b := make([]byte, n)
		if _, err := f.ReadAt(b, start); err != nil && err != io.EOF {
			t.Error(err)
		}
		for i := range b {
			b[i] ^= 0x55
		}
		if _, err := f.WriteAt(b, start); err != nil {
			t.Error(err)
		}
	}
	switch what {
	case "root-b": // its beginning, which every mount reads
		at(partition(l, what).Start+4096, 8192)
	case "verity-b": // the first level of the tree
		at(partition(l, what).Start+4096, 64)
	case "kernel", "initramfs":
		dir, esp := t.TempDir(), raw+"@@"+fmt.Sprint(partition(l, "esp").Start)
		entry := bootentry.Entry{ID: "updating_2", Counted: true, Left: bootentry.Tries}
		for file, path := range map[string]string{
			"uki": bootentry.Dir + "/" + entry.File(), "linux": "bios/updating_2/linux", "initrd": "bios/updating_2/initrd",
		} {
			if file == map[string]string{"kernel": "initrd", "initramfs": "linux"}[what] {
				continue
			}
			tool(t, dir, "mcopy", "-i", esp, "::/"+path, file)
			garble(t, filepath.Join(dir, file), what)
			tool(t, dir, "mcopy", "-o", "-i", esp, file, "::/"+path)
		}
	}
}

// garble damages a kernel image: its beginning, or what its initramfs has in
// the middle. A file that is no kernel image of an UEFI is all initramfs.
func garble(t *testing.T, path, what string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	part := data[:4096]
	if what == "initramfs" {
		part = data
		if uki, err := pe.NewFile(bytes.NewReader(data)); err == nil {
			s := uki.Section(".initrd")
			part = data[s.Offset:][:s.VirtualSize]
			uki.Close()
		}
		part = part[len(part)/2:][:4096]
	}
	for i := range part {
		part[i] ^= 0x55
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Error(err)
	}
}
