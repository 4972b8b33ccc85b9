package tests

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
)

// The firmware with Secure Boot, and variables without keys: setup mode.
const (
	secureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	secureVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Firmware without keys learns ours from the disk. From then on it starts our
// kernel image, and no other and none that was changed. A version on trial that
// is refused leaves the machine without anything to boot until somebody resets
// it; then it is back on the version before.
func TestSecureBoot(t *testing.T) {
	need(t, false)
	testenv.NeedFile(t, secureCode)
	testenv.Need(t, "mcopy", "mdir", "cp")
	dir := t.TempDir()
	run(t, []string{"imgbuild", "keys", "secure-boot", filepath.Join(dir, "keys")}, nil, 0)
	key := "secure-boot: {key: " + dir + "/keys/db.key, certificate: " + dir + "/keys/db.crt, enroll: " + dir + "/keys}\n"
	one, two, plain := t.TempDir(), t.TempDir(), t.TempDir()
	const small = "debian, boot, read-only-root"
	build(t, one, fmt.Sprintf(golden, "1", small)+key, nil)
	build(t, two, fmt.Sprintf(golden, "2", small)+key, nil)
	build(t, plain, fmt.Sprintf(golden, "1", small), nil)

	vars, raw := filepath.Join(dir, "vars"), filepath.Join(dir, "disk.raw")
	tool(t, dir, "cp", secureVars, vars)
	tool(t, dir, "cp", "--sparse=always", filepath.Join(one, "golden.raw"), raw)
	if text := secureBoot(t, raw, vars, "login:"); strings.Count(text, `Enrolling secure boot keys from directory: \loader\keys\auto`) != 1 {
		t.Errorf("the keys were not enrolled once:\n%s", text)
	}
	const nothing = "No bootable option or device was found"
	if text := secureBoot(t, filepath.Join(plain, "golden.raw"), vars, nothing, "login:"); !strings.Contains(text, "Access Denied") {
		t.Errorf("a disk without a signature:\n%s", text)
	}

	l := installSlotB(t, raw, two)
	esp := raw + "@@" + fmt.Sprint(partition(l, "esp").Start)
	name := bootentry.Entry{ID: "golden_2", Counted: true, Left: bootentry.Tries}.File()
	tool(t, dir, "mcopy", "-i", esp, "::/EFI/Linux/"+name, ".")
	flip(t, filepath.Join(dir, name), l.Boot.UKISize/2)
	tool(t, dir, "mcopy", "-o", "-i", esp, name, "::/EFI/Linux/"+name)
	refusals := 0
	for start := 1; ; start++ {
		text := secureBoot(t, raw, vars, nothing, "login:")
		refusals += strings.Count(text, `Error loading \EFI\Linux\golden_2`)
		if strings.Contains(text, "login:") {
			t.Logf("back on version 1 after %d refusals, at start %d of the machine", refusals, start)
			break
		}
		if start == bootentry.Tries+1 {
			t.Fatalf("still nothing to boot:\n%s", text)
		}
	}
	if refusals != bootentry.Tries {
		t.Errorf("%d refusals", refusals)
	}
}

// secureBoot runs a disk with Secure Boot until the console has shown one of
// the words, and returns what it showed.
func secureBoot(t *testing.T, disk, vars string, words ...string) string {
	t.Helper()
	console := &watched{words: words, seen: make(chan struct{})}
	args := []string{"-nodefaults", "-display", "none", "-machine", "q35,smm=on", "-accel", testbed.Accelerator(t.Context()), "-cpu", "max",
		"-smp", "2", "-m", "1024", "-device", "virtio-rng-pci", "-serial", "stdio",
		"-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + secureCode, "-drive", "if=pflash,unit=1,format=raw,file=" + vars,
		"-drive", "if=none,id=disk,format=raw,file=" + disk, "-device", "virtio-blk-pci,drive=disk,bootindex=1"}
	took := console.wait(t, func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Stdout, cmd.Stderr = console, console
		return cmd.Run()
	})
	console.mu.Lock()
	defer console.mu.Unlock()
	text := string(bytes.ToValidUTF8(console.text.Bytes(), []byte("?")))
	t.Logf("%.0f s", took.Seconds())
	return text
}
