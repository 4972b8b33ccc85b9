package netboot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"goldsmith/testbed"
	"goldsmith/testbed/lan"
)

// host is a namespace with one card, eth0, in a LAN.
type host struct {
	*testbed.Namespace
	mac  net.HardwareAddr
	card *net.Interface
	conn *packet.Conn // sees everything that arrives
}

var strangeMAC = net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 9}

// newHost adds one, whose kernel looks for routers.
func newHost(t *testing.T, network *lan.LAN, name string, mac net.HardwareAddr) *host {
	t.Helper()
	ns, err := testbed.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	h := &host{Namespace: ns, mac: mac}
	err = network.Do(func() error {
		bridge, err := netlink.LinkByName(lan.Bridge)
		if err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: bridge.Attrs().Index, Flags: net.FlagUp},
			PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns.Fd())})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		var err error
		if h.card, err = net.InterfaceByName("eth0"); err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		// It is a second until the kernel has an address to ask from.
		if h.conn, err = packet.Listen(h.card, packet.Raw, unix.ETH_P_ALL, nil); err != nil {
			return err
		}
		return h.conn.SetPromiscuous(true)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.conn.Close() })
	return h
}

// adverts collects the router advertisements that reach a host: to which
// hardware address, and to which address. It returns when there is one, or
// after a time.
func (h *host) adverts(t *testing.T, within time.Duration) []string {
	t.Helper()
	var got []string
	if err := h.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1600)
	for len(got) == 0 {
		n, _, err := h.conn.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		const frame = 14
		if p := b[:n]; n > frame+ipv6Header && p[12] == 0x86 && p[13] == 0xdd && p[frame+6] == nextICMPv6 && p[frame+ipv6Header] == typeAdvert {
			got = append(got, fmt.Sprintf("%v %v", net.HardwareAddr(p[:6]), netip.AddrFrom16([16]byte(p[frame+24:frame+40]))))
		}
	}
	return got
}

// send sends a solicitation as a frame.
func (h *host) send(t *testing.T, from net.HardwareAddr, p []byte) {
	t.Helper()
	frame := append([]byte{0x33, 0x33, 0, 0, 0, 2}, from...)
	if _, err := h.conn.WriteTo(append(append(frame, 0x86, 0xdd), p...), &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
		t.Fatal(err)
	}
}

// addresses are the global ones of a host's card.
func (h *host) addresses(t *testing.T) []netlink.Addr {
	t.Helper()
	handle, err := netlink.NewHandleAt(netns.NsHandle(h.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	link, err := handle.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := handle.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	var global []netlink.Addr
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			global = append(global, a)
		}
	}
	return global
}

// flap has our device go down and come up.
func flap(t *testing.T, network *lan.LAN) {
	t.Helper()
	err := network.Do(func() error {
		bridge, err := netlink.LinkByName(lan.Bridge)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(bridge), netlink.LinkSetUp(bridge))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		var addrs []netlink.Addr
		err = network.Do(func() error {
			bridge, err := netlink.LinkByName(lan.Bridge)
			if err == nil {
				addrs, err = netlink.AddrList(bridge, netlink.FAMILY_V6)
			}
			return err
		})
		if err == nil && slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("the bridge has no address: %v", err)
}

// solicit makes a solicitation; mac is what its option claims, nil for none.
func solicit(from netip.Addr, mac net.HardwareAddr, mend ...func([]byte)) []byte {
	m := []byte{typeSolicit, 0, 0, 0, 0, 0, 0, 0}
	if mac != nil {
		m = append(append(m, optionMAC, 1), mac...)
	}
	p := make([]byte, ipv6Header, ipv6Header+len(m))
	p[0], p[5], p[6], p[7] = 6<<4, byte(len(m)), nextICMPv6, ndHopLimit
	copy(p[8:], from.AsSlice())
	copy(p[24:], allRouters.AsSlice())
	p = append(p, m...)
	sum := checksum(p)
	p[ipv6Header+2], p[ipv6Header+3] = byte(sum>>8), byte(sum)
	for _, f := range mend {
		f(p)
	}
	return p
}

// TestAdvertisements: the kernel of a machine of the inventory gets the prefix,
// another's gets nothing, whatever it claims, and nothing goes to all.
func TestAdvertisements(t *testing.T) {
	network, _, _ := start(t, func(mac net.HardwareAddr) (Machine, bool) {
		return Machine{Name: "node1", Address: netip.MustParseAddr("10.77.0.50")}, mac.String() == testMAC.String()
	})
	// There before the other asks: it would see what goes to all.
	stranger := newHost(t, network, "strange", strangeMAC)
	node := newHost(t, network, "node", testMAC)
	if got := node.adverts(t, 10*time.Second); len(got) != 1 || !strings.HasPrefix(got[0], testMAC.String()+" fe80::") {
		t.Fatalf("the known machine gets %q; want an advertisement for it", got)
	}
	var addrs []netlink.Addr
	for range 100 {
		if addrs = node.addresses(t); len(addrs) > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if len(addrs) != 1 || !strings.HasPrefix(addrs[0].String(), "fd77::") || addrs[0].ValidLft != 0 && uint32(addrs[0].ValidLft) != 0xffffffff {
		t.Errorf("the known machine has %v; want one for ever in fd77::/64", addrs)
	}
	from, none := netip.MustParseAddr("fe80::9"), netip.IPv6Unspecified()
	stranger.send(t, strangeMAC, solicit(from, testMAC))
	stranger.send(t, strangeMAC, solicit(none, nil))
	stranger.send(t, strangeMAC, solicit(from, strangeMAC))
	// Who has no address yet, as UEFI's firmware may have none.
	node.send(t, testMAC, solicit(none, nil))
	if got := node.adverts(t, 10*time.Second); len(got) != 1 || got[0] != testMAC.String()+" ff02::1" {
		t.Errorf("the known machine gets %q; want one for all nodes in a frame for it", got)
	}
	flap(t, network)
	node.send(t, testMAC, solicit(netip.MustParseAddr("fe80::5"), nil))
	if got := node.adverts(t, 10*time.Second); len(got) != 1 || got[0] != testMAC.String()+" fe80::5" {
		t.Errorf("when the device was down and up again, the known machine gets %q", got)
	}
	if got := stranger.adverts(t, 500*time.Millisecond); len(got) != 0 {
		t.Errorf("the stranger sees %q", got)
	}
	if got := stranger.addresses(t); len(got) != 0 {
		t.Errorf("the stranger has %v", got)
	}
}

func TestSolicitation(t *testing.T) {
	from, none := netip.MustParseAddr("fe80::9"), netip.IPv6Unspecified()
	resum := func(p []byte) {
		p[ipv6Header+2], p[ipv6Header+3] = 0, 0
		sum := checksum(p)
		p[ipv6Header+2], p[ipv6Header+3] = byte(sum>>8), byte(sum)
	}
	set := func(at int, b byte) func([]byte) { return func(p []byte) { p[at] = b; resum(p) } }
	for _, c := range []struct {
		name string
		p    []byte
		want string // "": discarded
	}{
		{"with its address", solicit(from, testMAC), "fe80::9"},
		{"without option", solicit(from, nil), "fe80::9"},
		{"without address", solicit(none, nil), "ff02::1"},
		{"padded by Ethernet", append(solicit(from, nil), 0, 0, 0, 0), "fe80::9"},
		{"option without address", solicit(none, testMAC), ""},
		{"forwarded", solicit(from, nil, set(7, 254)), ""},
		{"code 1", solicit(from, nil, set(ipv6Header+1, 1)), ""},
		{"an advertisement", solicit(from, nil, set(ipv6Header, typeAdvert)), ""},
		{"checksum", solicit(from, nil, func(p []byte) { p[ipv6Header+2] ^= 1 }), ""},
		{"option of no length", solicit(from, testMAC, set(ipv6Header+9, 0)), ""},
		{"option beyond the end", solicit(from, testMAC, set(ipv6Header+9, 2)), ""},
		{"from a group", solicit(allNodes, nil), ""},
		{"from itself", solicit(netip.IPv6Loopback(), nil), ""},
		{"IPv4", solicit(from, nil, set(0, 4<<4)), ""},
		{"short", solicit(from, nil)[:ipv6Header+7], ""},
		{"longer than it is", solicit(from, nil, set(5, 16)), ""},
	} {
		got, ok := solicitation(c.p)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s: %v, %v; want %q", c.name, got, ok, c.want)
		}
	}
}

func FuzzSolicitation(f *testing.F) {
	f.Add(solicit(netip.MustParseAddr("fe80::9"), testMAC))
	f.Fuzz(func(t *testing.T, p []byte) {
		if a, ok := solicitation(p); ok && a != allNodes && a.IsMulticast() {
			t.Errorf("the answer goes to %v", a)
		}
	})
}
