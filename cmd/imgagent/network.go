package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"goldsmith/internal/deploy"
	"goldsmith/internal/earlyboot"
)

// network brings network cards up: each asks DHCP for an IPv4 address, and the
// kernel makes its IPv6 addresses of what routers advertise.
type network struct {
	say     func(string, ...any)
	bootMAC string // of the only card that is used; empty uses all
	static  *static
	resolv  string // /etc/resolv.conf

	mu    sync.Mutex // guards the fields below
	known map[string]bool
	state map[string]string // card to what became of DHCP, for people
}

// static is an address that the command line gives.
type static struct {
	address netip.Prefix
	gateway netip.Addr // invalid: none
	dns     []string
}

func newNetwork(args earlyboot.Cmdline, say func(string, ...any)) (*network, error) {
	n := &network{say: say, known: map[string]bool{}, state: map[string]string{}, resolv: "/etc/resolv.conf"}
	var err error
	if n.bootMAC, err = bootMAC(args.Get("BOOTIF")); err != nil {
		return nil, err
	}
	n.static, err = staticAddress(args)
	return n, err
}

// bootMAC reads BOOTIF: the kind of hardware, 01 for Ethernet, and the
// address, with dashes, or, as iPXE's ${net0/mac} has it, only the address.
func bootMAC(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	mac, err := net.ParseMAC(strings.ReplaceAll(strings.TrimPrefix(text, "01-"), "-", ":"))
	if err != nil || len(mac) != 6 {
		return "", fmt.Errorf("kernel command line: BOOTIF=%s: want 01-AA-BB-CC-DD-EE-FF", text)
	}
	return mac.String(), nil
}

func staticAddress(args earlyboot.Cmdline) (*static, error) {
	bad := func(name string) error {
		return fmt.Errorf("kernel command line: goldsmith.%s=%s is no address", name, args.Get("goldsmith."+name))
	}
	if args.Get("goldsmith.address") == "" {
		return nil, nil
	}
	s := &static{}
	var err error
	if s.address, err = netip.ParsePrefix(args.Get("goldsmith.address")); err != nil {
		return nil, bad("address")
	}
	if g := args.Get("goldsmith.gateway"); g != "" {
		if s.gateway, err = netip.ParseAddr(g); err != nil {
			return nil, bad("gateway")
		}
	}
	for d := range strings.SplitSeq(args.Get("goldsmith.dns"), ",") {
		if _, err := netip.ParseAddr(d); err != nil && d != "" {
			return nil, bad("dns")
		} else if d != "" {
			s.dns = append(s.dns, d)
		}
	}
	return s, nil
}

// patience is how often reach says what is wrong.
const patience = 15 * time.Second

// reach brings the network up and returns when the server can be connected to.
func (n *network) reach(ctx context.Context, c *deploy.Client) error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo) // nobody needs it to deploy
	}
	n.say("looking for the server at %s", c.Server())
	for last := time.Now(); ctx.Err() == nil; {
		if err := n.up(ctx); err != nil {
			n.say("network: %v", err)
		}
		limited, stop := context.WithTimeout(ctx, 3*time.Second)
		err := c.Reach(limited)
		stop()
		if err == nil {
			n.say("the server can be reached; %s", n.report())
			return nil
		}
		if time.Since(last) >= patience {
			last = time.Now()
			n.say("no way to the server: %v; %s", err, n.report())
		}
		time.Sleep(100 * time.Millisecond)
	}
	return ctx.Err()
}

// up configures cards that came up since the last call.
func (n *network) up(ctx context.Context) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	var all []error
	for _, l := range links {
		a := l.Attrs()
		if _, err := os.Stat(filepath.Join("/sys/class/net", a.Name, "device")); err != nil {
			continue // no hardware
		}
		if n.bootMAC != "" && a.HardwareAddr.String() != n.bootMAC || n.known[a.Name] {
			continue
		}
		n.known[a.Name] = true
		n.say("network card %s, %s", a.Name, a.HardwareAddr)
		if err := netlink.LinkSetUp(l); err != nil {
			all = append(all, fmt.Errorf("%s: %w", a.Name, err))
			continue
		}
		if n.static == nil {
			go n.dhcp(ctx, l)
			continue
		}
		all = append(all, n.configure(l, n.static))
	}
	return errors.Join(all...)
}

func (n *network) note(card, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state[card] = text
}

// dhcp asks for a lease until there is one, and again at half of its time.
func (n *network) dhcp(ctx context.Context, l netlink.Link) {
	name := l.Attrs().Name
	for pause := time.Duration(0); ; {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		s, half, err := lease(ctx, name)
		if err == nil {
			err = n.configure(l, s)
		}
		if err != nil {
			n.note(name, "DHCP: "+err.Error())
			pause = time.Second
			continue
		}
		pause = max(half, 30*time.Second)
	}
}

// lease asks once for a lease, and says what half of its time is.
func lease(ctx context.Context, card string) (*static, time.Duration, error) {
	c, err := nclient4.New(card, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(3))
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	got, err := c.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer))
	if err != nil {
		return nil, 0, err
	}
	addr, ok := netip.AddrFromSlice(got.ACK.YourIPAddr.To4())
	length, bits := got.ACK.SubnetMask().Size()
	if !ok || bits != 32 {
		return nil, 0, fmt.Errorf("the server offers %s with the mask %s", got.ACK.YourIPAddr, got.ACK.SubnetMask())
	}
	s := &static{address: netip.PrefixFrom(addr, length)}
	if r := got.ACK.Router(); len(r) > 0 {
		s.gateway, _ = netip.AddrFromSlice(r[0].To4())
	}
	for _, d := range got.ACK.DNS() {
		s.dns = append(s.dns, d.String())
	}
	return s, got.ACK.IPAddressLeaseTime(time.Hour) / 2, nil
}

// configure gives a card an address. Twice the same changes nothing.
func (n *network) configure(l netlink.Link, s *static) error {
	name := l.Attrs().Name
	address, err := netlink.ParseAddr(s.address.String())
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(l, address); err != nil {
		return fmt.Errorf("%s: address %s: %w", name, s.address, err)
	}
	if s.gateway.IsValid() {
		// The first card's way is the one that is taken.
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: s.gateway.AsSlice(), Priority: l.Attrs().Index}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("%s: gateway %s: %w", name, s.gateway, err)
		}
	}
	n.note(name, "")
	if len(s.dns) == 0 {
		return nil
	}
	var text strings.Builder
	for _, d := range s.dns[:min(len(s.dns), 3)] {
		fmt.Fprintf(&text, "nameserver %s\n", d)
	}
	if err := os.MkdirAll(filepath.Dir(n.resolv), 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.resolv, []byte(text.String()), 0o644)
}

// report says what every card has.
func (n *network) report() string {
	links, err := netlink.LinkList()
	if err != nil {
		return err.Error()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, l := range links {
		a := l.Attrs()
		if !n.known[a.Name] {
			continue
		}
		words := []string{a.Name + ":"}
		if a.RawFlags&unix.IFF_LOWER_UP == 0 {
			words = append(words, "no link")
		}
		addrs, _ := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, ad := range addrs {
			if !ad.IP.IsLinkLocalUnicast() {
				words = append(words, ad.IPNet.String())
			}
		}
		if n.state[a.Name] != "" {
			words = append(words, n.state[a.Name])
		}
		out = append(out, strings.Join(words, " "))
	}
	if len(out) == 0 {
		return "there is no network card"
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}
