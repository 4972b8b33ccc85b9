package netboot

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// leaseTime is how long an address belongs to a machine that asked. It belongs
// to it in any case: the inventory says so.
const leaseTime = time.Hour

// handleDHCP answers one packet.
func (s *Server) handleDHCP(c net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
	r, what := s.answer(m)
	if what != "" {
		name := ""
		if mach, ok := s.cfg.Lookup(m.ClientHWAddr); ok {
			name = mach.Name
		}
		s.event(m.ClientHWAddr, name, "%s", what)
	}
	if r == nil {
		return
	}
	// A client without an address yet cannot be sent to: broadcast, which the
	// socket keeps on its interface. One that renews has one (RFC 2131, 4.1).
	to := net.IPv4bcast
	if !m.ClientIPAddr.IsUnspecified() && m.ClientIPAddr != nil && r.MessageType() == dhcpv4.MessageTypeAck {
		to = m.ClientIPAddr
	}
	if _, err := c.WriteTo(r.ToBytes(), &net.UDPAddr{IP: to, Port: dhcpv4.ClientPort}); err != nil {
		s.event(m.ClientHWAddr, "", "DHCP answer not sent: %v", err)
	}
}

// answer makes the reply to a packet, nil when there is none, and says what is
// worth telling about it.
func (s *Server) answer(m *dhcpv4.DHCPv4) (reply *dhcpv4.DHCPv4, what string) {
	// Relays are not served: what they forward is not on our network.
	if m.OpCode != dhcpv4.OpcodeBootRequest || len(m.ClientHWAddr) != 6 || !m.GatewayIPAddr.IsUnspecified() && m.GatewayIPAddr != nil {
		return nil, ""
	}
	mach, ok := s.cfg.Lookup(m.ClientHWAddr)
	if !ok {
		return nil, "asks for an address; not in the inventory"
	}
	if !s.cfg.Address.Contains(mach.Address) {
		return nil, fmt.Sprintf("asks for an address; the inventory's %v is not in %v", mach.Address, s.cfg.Address.Masked())
	}
	ours := net.IP(s.cfg.Address.Addr().AsSlice())
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.reply(m, mach, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		if id := m.ServerIdentifier(); id != nil && !id.IsUnspecified() && !id.Equal(ours) {
			return nil, "takes the offer of another DHCP server, " + id.String()
		}
		if wanted, ok := wants(m); ok && wanted != mach.Address {
			r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ours)))
			if err != nil {
				return nil, err.Error()
			}
			return r, fmt.Sprintf("wants the address %v, which is not its own", wanted)
		}
		return s.reply(m, mach, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeInform:
		mach.Address = netip.IPv4Unspecified()
		return s.reply(m, mach, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeDecline:
		return nil, fmt.Sprintf("declines %v: another machine uses it", mach.Address)
	}
	return nil, ""
}

// wants returns the address that a request is about.
func wants(m *dhcpv4.DHCPv4) (netip.Addr, bool) {
	ip := m.RequestedIPAddress()
	if ip == nil || ip.IsUnspecified() {
		ip = m.ClientIPAddr
	}
	if ip == nil || ip.IsUnspecified() {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(ip.To4())
	return a, ok
}

func (s *Server) reply(m *dhcpv4.DHCPv4, mach Machine, t dhcpv4.MessageType) (*dhcpv4.DHCPv4, string) {
	ours := net.IP(s.cfg.Address.Addr().AsSlice())
	what := ""
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(t),
		dhcpv4.WithServerIP(ours),
		dhcpv4.WithYourIP(mach.Address.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ours)),
		dhcpv4.WithNetmask(net.CIDRMask(s.cfg.Address.Bits(), 32)),
		dhcpv4.WithLeaseTime(uint32(leaseTime / time.Second)),
		dhcpv4.WithOption(dhcpv4.OptHostName(mach.Name)),
	}
	if file, class := s.bootFile(m); file != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptBootFileName(file)), dhcpv4.WithOption(dhcpv4.OptTFTPServerName(ours.String())),
			func(d *dhcpv4.DHCPv4) {
				if len(file) < 128 { // the field's size; option 67 has the rest
					d.BootFileName = file
				}
			})
		if class != "" {
			mods = append(mods, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)))
		}
		what = "starts from the network: " + firmwareOf(m)
	} else if len(m.ClientArch()) > 0 {
		what = "starts from the network with firmware that nothing is there for: " + firmwareOf(m)
	}
	if t != dhcpv4.MessageTypeAck {
		what = "" // told once, when the offer is taken
	}
	r, err := dhcpv4.NewReplyFromRequest(m, mods...)
	if err != nil {
		return nil, err.Error()
	}
	return r, what
}

// bootFile is what a client starts, and the class to answer with (option 60):
// nothing for a client that only wants an address.
func (s *Server) bootFile(m *dhcpv4.DHCPv4) (file, class string) {
	if isIPXE(m) {
		return s.fileURL(m.ClientHWAddr, "script"), ""
	}
	arch := m.ClientArch()
	if len(arch) == 0 {
		return "", ""
	}
	switch arch[0] {
	case iana.INTEL_X86PC:
		return biosLoader, ""
	case iana.EFI_BC, iana.EFI_X86_64: // firmware calls x86-64 either (RFC 4578 errata)
		return uefiLoader, ""
	case iana.EFI_X86_64_HTTP:
		return s.URL() + "/netboot/" + uefiLoader, "HTTPClient"
	}
	return "", ""
}

// isIPXE tells iPXE by its user class, which it sends with or without the
// length that RFC 3004 wants, or by its encapsulated options.
func isIPXE(m *dhcpv4.DHCPv4) bool {
	class := m.Options.Get(dhcpv4.OptionUserClassInformation)
	return m.Options.Has(dhcpv4.GenericOptionCode(175)) || bytes.Equal(class, []byte("iPXE")) || bytes.Equal(class, []byte("\x04iPXE"))
}

func firmwareOf(m *dhcpv4.DHCPv4) string {
	name := "unknown firmware"
	if arch := m.ClientArch(); len(arch) > 0 {
		name = arch[0].String()
	}
	if isIPXE(m) {
		return "iPXE, " + name
	}
	return name
}
