package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

func TestArgs(t *testing.T) {
	c := Config{Image: "/a,b.raw", ImageFormat: "raw", Seed: "/seed", Firmware: testbed.BIOS, CPUs: 2, MemoryMiB: 512,
		Accelerator: testbed.TCG, SSHPort: 2222, Console: &bytes.Buffer{}}
	got, err := c.args()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(`qemu-system-x86_64 -nodefaults -no-user-config -display none
		-machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 512 -device virtio-rng-pci
		-drive if=none,id=disk,format=raw,discard=unmap,snapshot=on,cache=unsafe,file=/a,,b.raw -device virtio-blk-pci,drive=disk,bootindex=1
		-drive if=none,id=seed,format=raw,readonly=on,file=/seed -device virtio-blk-pci,drive=seed
		-netdev user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22 -device virtio-net-pci,netdev=net,romfile=
		-serial stdio`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	c = Config{Image: "/a", ImageFormat: "qcow2", Write: true, Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 512,
		Accelerator: testbed.KVM, Network: true}
	got, _ = c.args()
	line := strings.Join(got, " ")
	for _, part := range []string{"-accel kvm -cpu host", "format=qcow2,discard=unmap,file=/a ", "-netdev user,id=net ", "-serial mon:stdio"} {
		if !strings.Contains(line+" ", part) {
			t.Errorf("no %q in %s", part, line)
		}
	}
}

func image(t *testing.T, disk []byte) string {
	t.Helper()
	testenv.Need(t, program)
	path := filepath.Join(t.TempDir(), "image, with comma")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRun(t *testing.T) {
	disk := testbedtest.Guest{Text: "hello from BIOS", Off: true}.BIOSDisk()
	for _, write := range []bool{false, true} {
		img := image(t, disk)
		var console bytes.Buffer
		err := Run(t.Context(), Config{Image: img, Write: write, Seed: image(t, make([]byte, 1<<20)), Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 64,
			Accelerator: testbed.TCG, Console: &console})
		if err != nil || !strings.Contains(console.String(), "hello from BIOS") {
			t.Errorf("Run = %v, console %q", err, console.String())
		}
		after, _ := os.ReadFile(img)
		if changed := !bytes.Equal(disk, after); changed != write {
			t.Errorf("Write: %v, but the image changed: %v", write, changed)
		}
	}
}

func TestRunUEFI(t *testing.T) {
	t.Parallel()
	testenv.NeedFile(t, "/usr/share/OVMF/OVMF_CODE_4M.fd")
	disk, err := testbedtest.Guest{Text: "hello from UEFI", Off: true}.UEFIDisk()
	if err != nil {
		t.Fatal(err)
	}
	var console bytes.Buffer
	err = Run(t.Context(), Config{Image: image(t, disk), CPUs: 1, MemoryMiB: 128, Accelerator: testbed.TCG, Console: &console})
	if err != nil || !strings.Contains(console.String(), "hello from UEFI") {
		t.Errorf("Run = %v, console %q", err, console.String())
	}
}

// signalled is a console that tells when text was seen.
type signalled struct {
	mu   sync.Mutex // guards b
	b    bytes.Buffer
	text string
	seen func()
}

func (s *signalled) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Write(p)
	if strings.Contains(s.b.String(), s.text) {
		s.seen()
	}
	return len(p), nil
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := time.Now()
	err := Run(ctx, Config{Image: image(t, testbedtest.Guest{Text: "waiting"}.BIOSDisk()), Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 64,
		Accelerator: testbed.TCG, Console: &signalled{text: "waiting", seen: cancel}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want the context's error", err)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestErrors(t *testing.T) {
	ctx := t.Context()
	if err := Run(ctx, Config{Image: "/nonexistent", Accelerator: testbed.TCG}); command.Status(err) != command.StatusUsage {
		t.Errorf("no image: %v", err)
	}
	img := image(t, make([]byte, 1<<20))
	err := Run(ctx, Config{Image: img, ImageFormat: "qcow2", Firmware: testbed.BIOS, Accelerator: testbed.TCG, Console: &bytes.Buffer{}})
	var exit *command.ExitError
	if !errors.As(err, &exit) || !strings.Contains(err.Error(), "Image is not in qcow2 format") {
		t.Errorf("wrong format: %v", err)
	}
	if err := Run(ctx, Config{Image: img, Firmware: "coreboot", Accelerator: testbed.TCG}); command.Status(err) != command.StatusUsage {
		t.Errorf("unknown firmware: %v", err)
	}
}
