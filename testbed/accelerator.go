package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// What Accelerator may answer, in QEMU's names.
const (
	KVM = "kvm" // the processor's virtualisation
	TCG = "tcg" // translation, works everywhere
)

// probeLimit bounds the probe guest, which needs 0.2 s where KVM works.
const probeLimit = 2 * time.Second

// Accelerator tells how guests run on this host. It answers KVM only after a
// guest really ran under it: /dev/kvm may be there, open and start a guest
// that then hangs. The first call takes up to two seconds; the answer is kept
// for the process. A cancelled ctx gives TCG for this call.
func Accelerator(ctx context.Context) string {
	answer := make(chan string, 1)
	go func() { answer <- accelerator() }()
	select {
	case a := <-answer:
		return a
	case <-ctx.Done():
		return TCG
	}
}

var accelerator = sync.OnceValue(func() string {
	if _, err := os.Stat("/dev/kvm"); err != nil || !probe(KVM) {
		return TCG
	}
	return KVM
})

// probeExit is QEMU's exit status after the guest has written 0x10 to the
// isa-debug-exit device: value*2+1.
const probeExit = 0x10<<1 | 1

// probe runs a guest of one boot sector that ends QEMU from inside.
func probe(accel string) bool {
	sector := make([]byte, 512)
	copy(sector, []byte{
		0xba, 0xf4, 0x00, // mov dx, 0xf4
		0xb0, 0x10, // mov al, 0x10
		0xee,             // out dx, al
		0xf4, 0xeb, 0xfd, // hlt; jmp back
	})
	sector[510], sector[511] = 0x55, 0xaa
	// Memory with a name in /proc: nothing that a killed process could leave.
	fd, err := unix.MemfdCreate("goldsmith-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), "goldsmith-probe")
	defer f.Close()
	if _, err := f.Write(sector); err != nil {
		return false
	}
	disk := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	ctx, cancel := context.WithTimeout(context.Background(), probeLimit)
	defer cancel()
	err = command.Exec{Args: probeArgs(accel, disk)}.Run(ctx)
	var exit *command.ExitError
	return errors.As(err, &exit) && exit.Status == probeExit
}

func probeArgs(accel, disk string) []string {
	return []string{
		"qemu-system-x86_64", "-accel", accel, "-machine", "pc", "-m", "32",
		"-display", "none", "-nodefaults", "-no-reboot", "-serial", "none", "-monitor", "none",
		"-drive", "file=" + disk + ",format=raw,if=floppy",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4",
	}
}
