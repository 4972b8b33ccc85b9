package libvirt

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

// TestAddress asks the bed's DHCP server as a machine would, and wants the
// address that the driver tells.
func TestAddress(t *testing.T) {
	b := bed(t)
	var macs []string
	for _, name := range []string{"one", "two"} {
		dir := t.TempDir()
		image := filepath.Join(dir, "image")
		writeFile(t, image, testbedtest.Guest{}.BIOSDisk())
		m, err := b.Define(t.Context(), Config{Name: name, Dir: filepath.Join(dir, "m"), Image: image,
			Firmware: testbed.BIOS, Accelerator: testbed.TCG})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.Release(context.Background()) }()
		want, err := m.Address(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		guest := guestNamespace(t, b, m.MAC())
		var got netip.Addr
		err = guest.Do(func() error {
			got, err = askDHCP(m.MAC())
			return err
		})
		if err != nil || got != want {
			t.Errorf("%s: DHCP offers %v, %v; want %v", m.MAC(), got, err, want)
		}
		macs = append(macs, m.MAC())
	}
	if macs[0] == macs[1] {
		t.Errorf("both have the hardware address %s", macs[0])
	}
}

// guestNamespace makes a network namespace with a network card "eth0" of that
// hardware address, plugged into the bed's bridge.
func guestNamespace(t *testing.T, b *Bed, mac string) *testbed.Namespace {
	t.Helper()
	ns, err := testbed.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	err = b.Network.Do(func() error {
		bridge, err := netlink.LinkByName("gsbr0")
		if err != nil {
			return err
		}
		hw, err := net.ParseMAC(mac)
		if err != nil {
			return err
		}
		port := "p" + strings.ReplaceAll(mac[9:], ":", "")
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index},
			PeerName: "eth0", PeerHardwareAddr: hw, PeerNamespace: netlink.NsFd(ns.Fd())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// askDHCP returns the address that eth0 is offered.
func askDHCP(mac string) (netip.Addr, error) {
	const name = "eth0"
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return netip.Addr{}, err
	}
	eth0, err := netlink.LinkByName(name)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		return netip.Addr{}, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.BindToDevice(int(fd), name))
		})
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp4", "0.0.0.0:68")
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	discover := discoverMessage(hw)
	// eth0 has no address yet: read the answer below IP.
	raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(htons(unix.ETH_P_IP)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(raw)
	wait := unix.NsecToTimeval(int64(500 * time.Millisecond))
	err = errors.Join(unix.SetsockoptTimeval(raw, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(raw, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: eth0.Attrs().Index}))
	if err != nil {
		return netip.Addr{}, err
	}
	packet := make([]byte, 1500)
	for range 20 {
		if _, err := conn.WriteTo(discover, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return netip.Addr{}, err
		}
		for {
			n, _, err := unix.Recvfrom(raw, packet, 0)
			if err != nil {
				break // ask again
			}
			const headers = 20 + 8 // IP and UDP
			answer := packet[headers:]
			if n > headers+240 && answer[0] == 2 && string(answer[4:8]) == string(discover[4:8]) {
				return netip.AddrFrom4([4]byte(answer[16:20])), nil
			}
		}
	}
	return netip.Addr{}, errors.New("no answer")
}

// discoverMessage is a DHCPDISCOVER.
func discoverMessage(hw net.HardwareAddr) []byte {
	discover := make([]byte, 240, 300)
	copy(discover, []byte{1, 1, 6, 0})
	copy(discover[4:], hw[2:])                        // transaction
	binary.BigEndian.PutUint16(discover[10:], 0x8000) // answer by broadcast
	copy(discover[28:], hw)
	copy(discover[236:], []byte{99, 130, 83, 99})   // DHCP
	return append(discover, 53, 1, 1, 255, 0, 0, 0) // DISCOVER
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
