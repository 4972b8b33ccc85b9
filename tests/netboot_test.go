package tests

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/lan"
	"goldsmith/testbed/netboot"
	"goldsmith/testbed/qemu"
	"goldsmith/testbed/testbedtest"
)

// Firmware of the UEFI kind starts a kernel, by the iPXE in the card's ROM. One
// that is sent on to its disk tries the other ways into the network first, with
// PXE of its own and iPXE by TFTP, and comes to the disk then.
func TestNetbootUEFI(t *testing.T) {
	need(t, false)
	testenv.NeedFile(t, "/usr/lib/ipxe/snponly.efi")
	kernels, _ := filepath.Glob("/boot/vmlinuz-*")
	if len(kernels) == 0 {
		testenv.NeedFile(t, "/boot/vmlinuz-*")
	}
	disk, err := testbedtest.Guest{Text: "from its own disk"}.UEFIDisk()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	initrd, raw := filepath.Join(dir, "initrd"), filepath.Join(dir, "disk.raw")
	if err := errors.Join(os.WriteFile(initrd, make([]byte, 512), 0o600), os.WriteFile(raw, disk, 0o600)); err != nil {
		t.Fatal(err)
	}
	for want, boot := range map[string]*netboot.Boot{
		"over-the-network":  {Kernel: kernels[0], Initrd: initrd, Cmdline: "console=ttyS0 over-the-network"},
		"from its own disk": nil,
	} {
		t.Run(want, func(t *testing.T) { startUEFI(t, raw, boot, want) })
	}
}

func startUEFI(t *testing.T, raw string, boot *netboot.Boot, want string) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ours := netip.MustParsePrefix("10.77.0.1/24")
	network, err := lan.New(ctx, ours, netip.MustParsePrefix("fd77::1/64"))
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	const mac = "52:54:00:77:00:01"
	var mu sync.Mutex
	var events []string
	s, err := netboot.Start(ctx, netboot.Config{Interface: lan.Bridge, Address: ours, Prefix6: netip.MustParsePrefix("fd77::/64"), Network: network,
		Lookup: func(hw net.HardwareAddr) (netboot.Machine, bool) {
			return netboot.Machine{Name: "node1", Address: netip.MustParseAddr("10.77.0.50"), Boot: boot}, hw.String() == mac
		},
		At: func(a netip.Addr) (string, bool) { return "node1", a == netip.MustParseAddr("10.77.0.50") },
		Event: func(e netboot.Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e.What)
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tap, err := network.Tap()
	if err != nil {
		t.Fatal(err)
	}
	m, err := qemu.New(ctx, qemu.MachineConfig{Name: "node1", Dir: t.TempDir(), Network: network, Firmware: testbed.UEFI,
		Disks: []qemu.Disk{{Image: raw}}, NICs: []qemu.NIC{{MAC: mac, Boot: true, Tap: tap}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Release(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	if err := errors.Join(m.SetBoot(ctx, testbed.Boot{Device: testbed.FromNetwork}), m.PowerOn(ctx)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, _, err := m.Console().Wait(ctx, 0, regexp.MustCompile(regexp.QuoteMeta(want))); err != nil {
		t.Fatal(err)
	}
	t.Logf("after %.0f s", time.Since(start).Seconds())
	mu.Lock()
	defer mu.Unlock()
	all := strings.Join(events, "\n")
	own := strings.Contains(all, "starts from the network: EFI")
	if !strings.Contains(all, "iPXE, EFI") || own != (boot == nil) {
		t.Errorf("events:\n%s", all)
	}
}
