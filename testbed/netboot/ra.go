package netboot

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// advertiser answers router solicitations with the network's prefix, so that
// machines make themselves addresses (RFC 4861, RFC 4862), and iPXE does not
// wait for a router that never comes. It is no router: its lifetime as one is 0.
type advertiser struct {
	conn   *icmp.PacketConn
	link   *net.Interface
	packet []byte
}

var allNodes, allRouters = net.ParseIP("ff02::1"), net.ParseIP("ff02::2")

func advertise(link string, prefix netip.Prefix) (*advertiser, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return nil, err
	}
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("router advertisements: %w", err)
	}
	a := &advertiser{conn, ifi, advertisement(prefix)}
	if err := a.prepare(); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("router advertisements: %w", err)
	}
	return a, nil
}

func (a *advertiser) prepare() error {
	p := a.conn.IPv6PacketConn()
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	for _, err := range []error{
		p.SetICMPFilter(&filter),
		p.JoinGroup(a.link, &net.UDPAddr{IP: allRouters}),
		p.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true),
		p.SetMulticastInterface(a.link),
		p.SetMulticastHopLimit(255), // receivers drop others: RFC 4861, 6.1.2
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// advertisement is an ICMPv6 router advertisement with one prefix (RFC 4861,
// 4.2 and 4.6.2): addresses on the link and made by machines themselves. The
// kernel adds the checksum.
func advertisement(prefix netip.Prefix) []byte {
	m := make([]byte, 16+32)
	m[0] = 134
	m[4] = 64 // hop limit for hosts
	o := m[16:]
	o[0], o[1] = 3, 4 // prefix information, 4*8 bytes
	o[2] = byte(prefix.Bits())
	o[3] = 0xc0 // on link, autonomous
	const day = 24 * 60 * 60
	binary.BigEndian.PutUint32(o[4:], day)
	binary.BigEndian.PutUint32(o[8:], day)
	addr := prefix.Masked().Addr().As16()
	copy(o[16:], addr[:])
	return m
}

// serve answers until the socket is closed.
func (a *advertiser) serve() error {
	p := a.conn.IPv6PacketConn()
	b := make([]byte, 1500)
	for {
		n, cm, _, err := p.ReadFrom(b)
		if err != nil {
			return err
		}
		// From elsewhere than the link it has lost hops on its way.
		if n < 8 || cm == nil || cm.IfIndex != a.link.Index || cm.HopLimit != 255 {
			continue
		}
		_, _ = p.WriteTo(a.packet, &ipv6.ControlMessage{HopLimit: 255, IfIndex: a.link.Index}, &net.UDPAddr{IP: allNodes, Zone: a.link.Name})
	}
}

func (a *advertiser) close() error { return a.conn.Close() }
