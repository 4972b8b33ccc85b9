// Package lan makes a network of its own for machines that are rehearsed on
// this host: a bridge in a network namespace without a name, with a card for
// each machine. Nothing in it can reach the outside, and the kernel removes it
// when the process ends that made it.
package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Bridge is the name of the network's bridge: the interface that a server of
// the network listens on.
const Bridge = "gsbr0"

// LAN is a network in a namespace.
type LAN struct {
	*testbed.Namespace
	link   *netlink.Handle
	bridge netlink.Link
	taps   int
}

// New makes a network in which this host has the addresses given, at least
// one. It needs root. The caller closes it.
func New(ctx context.Context, addrs ...netip.Prefix) (*LAN, error) {
	if os.Geteuid() != 0 {
		return nil, command.Missing(errors.New("a network of its own: needs root"), "run as root")
	}
	ns, err := testbed.NewNamespace()
	if err != nil {
		return nil, err
	}
	l := &LAN{Namespace: ns}
	if err := l.build(addrs); err != nil {
		return nil, errors.Join(fmt.Errorf("network: %w", err), l.Close())
	}
	return l, context.Cause(ctx)
}

func (l *LAN) build(addrs []netip.Prefix) error {
	var err error
	if l.link, err = netlink.NewHandleAt(netns.NsHandle(l.Fd())); err != nil {
		return err
	}
	// Our own advertisements are for machines.
	err = l.Do(func() error {
		for _, f := range []string{"accept_ra", "accept_dad"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/"+f, []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	lo, err := l.link.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := l.link.LinkSetUp(lo); err != nil {
		return err
	}
	l.bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: Bridge}}
	if err := l.link.LinkAdd(l.bridge); err != nil {
		return err
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if err := l.link.AddrAdd(l.bridge, addr); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
	}
	return l.link.LinkSetUp(l.bridge)
}

// Tap adds a card for one more machine and returns its name.
func (l *LAN) Tap() (string, error) {
	name := fmt.Sprintf("gstap%d", l.taps)
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: l.bridge.Attrs().Index},
		Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_ONE_QUEUE | netlink.TUNTAP_VNET_HDR}
	// The kernel makes the card where the thread is, whatever the handle says.
	err := l.Do(func() error { return netlink.LinkAdd(tap) })
	if err != nil {
		return "", fmt.Errorf("network card %s: %w", name, err)
	}
	l.taps++
	return name, l.link.LinkSetUp(tap)
}

// Close lets go of the network. It goes with the last process in it.
func (l *LAN) Close() error {
	if l.link != nil {
		l.link.Close()
	}
	return l.Namespace.Close()
}
