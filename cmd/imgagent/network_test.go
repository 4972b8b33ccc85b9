package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"goldsmith/internal/earlyboot"
	"goldsmith/internal/testenv"
)

func TestBootMAC(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "01-52-54-00-AB-cd-ef": "52:54:00:ab:cd:ef", "52:54:00:ab:cd:ef": "52:54:00:ab:cd:ef",
	} {
		if got, err := bootMAC(text); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"eth0", "01-52-54", "20-52-54-00-ab-cd-ef"} {
		if got, err := bootMAC(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestStaticAddress(t *testing.T) {
	read := func(text string) (*static, error) { return staticAddress(earlyboot.ParseCmdline(text)) }
	if s, err := read("quiet"); s != nil || err != nil {
		t.Errorf("none: %+v, %v", s, err)
	}
	s, err := read("goldsmith.address=fd00::5/64 goldsmith.gateway=fd00::1 goldsmith.dns=fd00::1,10.0.0.1")
	if err != nil || s.address.String() != "fd00::5/64" || s.gateway.String() != "fd00::1" || strings.Join(s.dns, " ") != "fd00::1 10.0.0.1" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, text := range []string{"goldsmith.address=10.0.0.5", "goldsmith.address=10.0.0.5/24 goldsmith.gateway=x",
		"goldsmith.address=10.0.0.5/24 goldsmith.dns=10.0.0.1,x"} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), "is no address") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What the command line or a DHCP server says is what a card gets; twice the
// same changes nothing.
func TestConfigure(t *testing.T) {
	testenv.NeedRoot(t)
	runtime.LockOSThread() // and not given back: the namespace goes with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	n, err := newNetwork(earlyboot.ParseCmdline(""), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	n.resolv = filepath.Join(t.TempDir(), "etc/resolv.conf")
	s := &static{address: netip.MustParsePrefix("10.9.0.5/24"), gateway: netip.MustParseAddr("10.9.0.1"), dns: []string{"10.9.0.2"}}
	for range 2 {
		if err := n.configure(lo, s); err != nil {
			t.Fatal(err)
		}
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil || !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == "10.9.0.5/24" }) {
		t.Errorf("addresses %v, %v", addrs, err)
	}
	routes, err := netlink.RouteList(lo, netlink.FAMILY_V4)
	if err != nil || !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw.String() == "10.9.0.1" }) {
		t.Errorf("routes %v, %v", routes, err)
	}
	if text, err := os.ReadFile(n.resolv); err != nil || string(text) != "nameserver 10.9.0.2\n" {
		t.Errorf("resolv.conf %q, %v", text, err)
	}
}
