package libvirt

import (
	"context"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"

	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

// TestNetworks: a machine with two network cards has each with a hardware address
// of its own in a network of its own, for libvirt as on the wire: its firmware
// asks for an address on both.
func TestNetworks(t *testing.T) {
	t.Parallel()
	b := bed(t)
	_, err := b.l.NetworkCreateXML(`<network><name>second</name><bridge name='gsbr1'/><ip address='10.79.0.1' netmask='255.255.255.0'>
<dhcp><range start='10.79.0.10' end='10.79.0.20'/></dhcp></ip></network>`)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	writeFile(t, image, testbedtest.Guest{Text: "from the disk\r\n"}.BIOSDisk())
	m, err := b.Define(t.Context(), Config{Name: "two", Dir: filepath.Join(dir, "m"), Image: image, CPUs: 1, MemoryMiB: 128,
		Firmware: testbed.BIOS, Accelerator: testbed.TCG, NICs: []NIC{{Boot: true}, {Network: "second", Boot: true}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Release(context.Background()) }()
	nics := m.cfg.NICs
	if nics[0].MAC == nics[1].MAC || nics[0].MAC != m.MAC() {
		t.Errorf("hardware addresses %s, %s; the machine's is %s", nics[0].MAC, nics[1].MAC, m.MAC())
	}
	want := map[string]string{nics[0].MAC: bedNetwork, nics[1].MAC: "second"}
	desc, err := b.l.DomainGetXMLDesc(m.dom, 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, interfaces(t, desc)); diff != "" {
		t.Errorf("in the domain (-want +got):\n%s", diff)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.SetBoot(ctx, testbed.Boot{Device: testbed.FromNetwork, Once: true}); err != nil {
		t.Fatal(err)
	}
	if err := m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for len(got) < 2 {
		for _, name := range []string{bedNetwork, "second"} {
			for _, mac := range leases(t, b, name) {
				got[mac] += name
			}
		}
		if ctx.Err() != nil || len(got) == 2 {
			break
		}
		clear(got)
		time.Sleep(200 * time.Millisecond)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on the wire (-want +got):\n%s", diff)
	}
	// The one that the driver tells is that of the first.
	if a, err := m.Address(ctx); err != nil || fmt.Sprint(a)[:8] != "10.78.0." {
		t.Errorf("Address = %v, %v", a, err)
	}
}

// interfaces are the hardware addresses of a domain and their networks.
func interfaces(t *testing.T, desc string) map[string]string {
	t.Helper()
	var d struct {
		Interfaces []struct {
			MAC struct {
				Address string `xml:"address,attr"`
			} `xml:"mac"`
			Source struct {
				Network string `xml:"network,attr"`
			} `xml:"source"`
		} `xml:"devices>interface"`
	}
	if err := xml.Unmarshal([]byte(desc), &d); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, i := range d.Interfaces {
		all[i.MAC.Address] += i.Source.Network
	}
	return all
}

// leases are the hardware addresses that a network's DHCP server has given
// addresses to.
func leases(t *testing.T, b *Bed, network string) []string {
	t.Helper()
	n, err := b.l.NetworkLookupByName(network)
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := b.l.NetworkGetDhcpLeases(n, golibvirt.OptString{}, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	var macs []string
	for _, l := range list {
		for _, mac := range l.Mac {
			macs = append(macs, mac)
		}
	}
	return macs
}

// TestIsolated: a machine may have no network at all.
func TestIsolated(t *testing.T) {
	t.Parallel()
	b := bed(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	writeFile(t, image, testbedtest.Guest{Text: "alone\r\n"}.BIOSDisk())
	c := Config{Name: "alone", Dir: filepath.Join(dir, "m"), Image: image, CPUs: 1, MemoryMiB: 64, Firmware: testbed.BIOS,
		Accelerator: testbed.TCG, Isolated: true}
	m, err := b.Define(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Release(context.Background()) }()
	desc, err := b.l.DomainGetXMLDesc(m.dom, 0)
	if err != nil || len(interfaces(t, desc)) > 0 || m.MAC() != "" {
		t.Errorf("network cards %v, %q, %v", interfaces(t, desc), m.MAC(), err)
	}
	if a, err := m.Address(t.Context()); err == nil {
		t.Errorf("Address = %v", a)
	}
	if err := m.PowerOn(t.Context()); err != nil {
		t.Error(err)
	}
	c.Name, c.NICs = "both", []NIC{{}}
	if _, err := b.Define(t.Context(), c); err == nil {
		t.Error("a network card of an isolated machine: no error")
	}
}
