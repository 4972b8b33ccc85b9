package netboot

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
	"goldsmith/testbed/lan"
	"goldsmith/testbed/testbedtest"
)

var testMAC = net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 1}

// journal keeps what the server says.
type journal struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (j *journal) event(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, e.Machine+" "+e.What)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}

// lookFor ends a machine when its console shows a text.
type lookFor struct {
	text string
	b    bytes.Buffer
	seen func()
}

func (l *lookFor) Write(p []byte) (int, error) {
	l.b.Write(p)
	if strings.Contains(l.b.String(), l.text) {
		l.seen()
	}
	return len(p), nil
}

// start serves in a network of its own.
func start(t *testing.T, lookup func(net.HardwareAddr) (Machine, bool)) (*lan.LAN, *Server, *journal) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFile(t, filepath.Join(defaultLoaders, biosLoader))
	ours := netip.MustParsePrefix("10.77.0.1/24")
	network, err := lan.New(t.Context(), ours, netip.MustParsePrefix("fd77::1/64"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = network.Close() })
	j := &journal{}
	s, err := Start(t.Context(), Config{Interface: lan.Bridge, Address: ours, Prefix6: netip.MustParsePrefix("fd77::/64"),
		Lookup: lookup, At: at, Network: network, Event: j.event})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return network, s, j
}

// TestBoot has firmware start a kernel, and its own disk: iPXE in the card's
// ROM, as it is in QEMU's. Tests of the system tier take the other ways.
func TestBoot(t *testing.T) {
	testenv.Need(t, "qemu-system-x86_64")
	kernels, _ := filepath.Glob("/boot/vmlinuz-*")
	if len(kernels) == 0 {
		testenv.NeedFile(t, "/boot/vmlinuz-*")
	}
	initrd, disk := filepath.Join(t.TempDir(), "initrd"), filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(initrd, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, testbedtest.Guest{Text: "from its own disk"}.BIOSDisk(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		boot         *Boot
		console, log string
	}{
		{&Boot{Kernel: kernels[0], Initrd: initrd, Cmdline: "console=ttyS0 earlyprintk=ttyS0 over-the-network"}, "over-the-network",
			"node1 is told to start vmlinuz-"},
		{nil, "from its own disk", "node1 is told to start its own disk"},
	} {
		t.Run(c.console, func(t *testing.T) {
			t.Parallel()
			network, _, j := start(t, func(mac net.HardwareAddr) (Machine, bool) {
				return Machine{Name: "node1", Address: netip.MustParseAddr("10.77.0.50"), Boot: c.boot}, mac.String() == testMAC.String()
			})
			tap, err := network.Tap()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			console := &lookFor{text: c.console, seen: cancel}
			err = network.Exec(ctx, command.Exec{Args: []string{"qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "512",
				"-display", "none", "-nodefaults", "-device", "virtio-rng-pci", "-serial", "stdio", "-no-reboot",
				"-netdev", "tap,id=n,script=no,downscript=no,ifname=" + tap, "-device", fmt.Sprintf("virtio-net-pci,netdev=n,mac=%s,bootindex=1", testMAC),
				"-drive", "if=none,id=d,format=raw,snapshot=on,file=" + disk, "-device", "virtio-blk-pci,drive=d,bootindex=2"},
				Stdout: console})
			if ctx.Err() == nil || !strings.Contains(console.b.String(), c.console) {
				t.Errorf("console shows no %q: %v\n%s\nserver: %s", c.console, err, console.b.String(), j)
			}
			for _, part := range []string{"node1 starts from the network: iPXE, Intel x86PC", c.log} {
				if !strings.Contains(j.String(), part) {
					t.Errorf("no event %q in:\n%s", part, j)
				}
			}
		})
	}
}
