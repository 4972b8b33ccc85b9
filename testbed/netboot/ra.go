package netboot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"goldsmith/testbed"
)

// advertiser answers router solicitations with the network's prefix, so that
// machines make themselves addresses (RFC 4861, RFC 4862), and iPXE does not
// wait for a router that never comes. It is no router: its lifetime as one is 0.
//
// Who asks is told by the frame that the question came in, as it is where the
// answer goes: whoever forges that address has the answer sent to somebody
// else. What the message says of its sender (the source link-layer address
// option) counts for nothing. The answer is one frame to that address. Nothing
// goes to all, neither answers nor, from time to time, what nobody asked for:
// so the prefix is for ever.
type advertiser struct {
	conn   *packet.Conn
	group  *icmp.PacketConn // member of the group of all routers; nothing is read
	link   *net.Interface
	where  testbed.Network
	prefix netip.Prefix
	known  func(net.HardwareAddr) bool
}

var allNodes, allRouters = netip.MustParseAddr("ff02::1"), netip.MustParseAddr("ff02::2")

// Sizes and numbers of RFC 8200 and RFC 4861.
const (
	ipv6Header  = 40
	nextICMPv6  = 58
	ndHopLimit  = 255 // of whom nobody has forwarded
	typeSolicit = 133
	typeAdvert  = 134
	optionMAC   = 1 // source link-layer address
)

// advertise opens an advertiser; it is called in the network of the link, where.
// known says whether a machine gets an answer.
func advertise(link string, prefix netip.Prefix, where testbed.Network, known func(net.HardwareAddr) bool) (*advertiser, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return nil, err
	}
	a := &advertiser{link: ifi, where: where, prefix: prefix, known: known}
	if err := a.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("router advertisements: %w", err), a.close())
	}
	return a, nil
}

func (a *advertiser) open() error {
	// The kernel drops all else: ICMPv6 without extension headers, type 133.
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: nextICMPv6, SkipFalse: 3},
		bpf.LoadAbsolute{Off: ipv6Header, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeSolicit, SkipFalse: 1},
		bpf.RetConstant{Val: 1500},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	if a.conn, err = packet.Listen(a.link, packet.Datagram, unix.ETH_P_IPV6, &packet.Config{Filter: filter}); err != nil {
		return err
	}
	// Bridges and switches that listen to who is in which group send us the
	// questions only then.
	if a.group, err = icmp.ListenPacket("ip6:ipv6-icmp", "::"); err != nil {
		return err
	}
	var nothing ipv6.ICMPFilter
	nothing.SetAll(true)
	p := a.group.IPv6PacketConn()
	if err := p.SetICMPFilter(&nothing); err != nil {
		return err
	}
	return p.JoinGroup(a.link, &net.UDPAddr{IP: allRouters.AsSlice()})
}

// serve answers until the socket is closed.
func (a *advertiser) serve() error {
	b := make([]byte, 1500)
	for {
		n, from, err := a.conn.ReadFrom(b)
		if errors.Is(err, unix.ENETDOWN) {
			continue // said once; the socket goes on when the device is up again
		}
		if err != nil {
			return err
		}
		mac, ok := from.(*packet.Addr)
		if !ok || len(mac.HardwareAddr) != 6 {
			continue
		}
		asker, ok := solicitation(b[:n])
		if !ok || !a.known(mac.HardwareAddr) {
			continue
		}
		if ours, ok := a.address(); ok {
			_, _ = a.conn.WriteTo(advertisement(a.prefix, ours, asker), &packet.Addr{HardwareAddr: mac.HardwareAddr})
		}
	}
}

// address is our own on the link, which a device has only while it is up.
func (a *advertiser) address() (ours netip.Addr, ok bool) {
	err := a.where.Do(func() error {
		addrs, err := a.link.Addrs()
		for _, addr := range addrs {
			p, perr := netip.ParsePrefix(addr.String())
			if perr == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				ours, ok = p.Addr(), true
			}
		}
		return err
	})
	return ours, ok && err == nil
}

func (a *advertiser) close() error {
	var errs []error
	if a.conn != nil {
		errs = append(errs, a.conn.Close())
	}
	if a.group != nil {
		errs = append(errs, a.group.Close())
	}
	return errors.Join(errs...)
}

// solicitation reads an IPv6 packet with a router solicitation and tells where
// the answer goes: to who asks, or, who has no address yet, to all nodes, in a
// frame that only the one gets (RFC 6085). What RFC 4861, 6.1.1 says must be
// discarded is not ok.
func solicitation(p []byte) (answer netip.Addr, ok bool) {
	if len(p) < ipv6Header+8 || p[0]>>4 != 6 || p[6] != nextICMPv6 || p[7] != ndHopLimit {
		return answer, false
	}
	size := int(binary.BigEndian.Uint16(p[4:]))
	if size < 8 || ipv6Header+size > len(p) {
		return answer, false
	}
	p = p[:ipv6Header+size] // Ethernet pads short frames
	m := p[ipv6Header:]
	if m[0] != typeSolicit || m[1] != 0 || checksum(p) != 0 {
		return answer, false
	}
	from := netip.AddrFrom16([16]byte(p[8:24]))
	for o := m[8:]; len(o) > 0; {
		if len(o) < 8 || o[1] == 0 || int(o[1])*8 > len(o) || from.IsUnspecified() && o[0] == optionMAC {
			return answer, false
		}
		o = o[int(o[1])*8:]
	}
	switch {
	case from.IsUnspecified():
		return allNodes, true
	case from.IsMulticast() || from.IsLoopback() || from.Is4In6():
		return answer, false
	}
	return from, true
}

// advertisement is an IPv6 packet with a router advertisement of one prefix
// (RFC 4861, 4.2 and 4.6.2): addresses on the link, and made by machines
// themselves.
func advertisement(prefix netip.Prefix, from, to netip.Addr) []byte {
	p := make([]byte, ipv6Header+16+32)
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-ipv6Header))
	p[6], p[7] = nextICMPv6, ndHopLimit
	copy(p[8:], from.AsSlice())
	copy(p[24:], to.AsSlice())
	m := p[ipv6Header:]
	m[0] = typeAdvert
	m[4] = 64 // hop limit for hosts
	o := m[16:]
	o[0], o[1] = 3, 4 // prefix information, 4*8 bytes
	o[2] = byte(prefix.Bits())
	o[3] = 0xc0 // on link, autonomous
	const infinity = 0xffffffff
	binary.BigEndian.PutUint32(o[4:], infinity)
	binary.BigEndian.PutUint32(o[8:], infinity)
	addr := prefix.Masked().Addr().As16()
	copy(o[16:], addr[:])
	binary.BigEndian.PutUint16(m[2:], checksum(p))
	return p
}

// checksum is that of an IPv6 packet that holds an ICMPv6 message and nothing
// else (RFC 4443, 2.3; RFC 8200, 8.1): over a message with its checksum it is 0.
func checksum(p []byte) uint16 {
	sum := uint32(len(p)-ipv6Header) + nextICMPv6
	for b := p[8:]; len(b) > 0; b = b[min(2, len(b)):] { // the addresses, and the message
		sum += uint32(b[0]) << 8
		if len(b) > 1 {
			sum += uint32(b[1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
