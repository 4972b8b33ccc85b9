package tests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/lan"
	"goldsmith/testbed/qemu"
	"goldsmith/testbed/vbmc"
)

// server is a machine behind a controller, in a network of its own, that an
// inventory file declares.
type server struct {
	*suites
	lan       *lan.LAN
	disk      string // its disk's file
	inventory string // the file
	ramdisk   string // without .vmlinuz
}

// newServer makes a machine that starts as boot says, inventory.BootLocal or
// BootNetwork, and builds what is deployed to it.
func newServer(t *testing.T, f testbed.Firmware, boot string) *server {
	t.Helper()
	testenv.Need(t, "ip")
	testenv.NeedFile(t, "/usr/lib/ipxe/snponly.efi")
	s := &server{suites: newSuites(t)}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.lan, err = lan.New(t.Context(), netip.MustParsePrefix(rackServer+"/24"))
	ok(err)
	t.Cleanup(func() { _ = s.lan.Close() })
	tap, err := s.lan.Tap()
	ok(err)
	const mac = "52:54:00:77:00:01"
	s.disk = filepath.Join(s.dir, "server.raw")
	ok(errors.Join(os.WriteFile(s.disk, nil, 0o600), os.Truncate(s.disk, 4<<30)))
	m, err := qemu.New(t.Context(), qemu.MachineConfig{Name: "server", Dir: filepath.Join(s.dir, "server"), Network: s.lan, Firmware: f,
		Disks: []qemu.Disk{{File: s.disk}}, NICs: []qemu.NIC{{MAC: mac, Boot: true, Tap: tap}}})
	ok(err)
	t.Cleanup(func() { _ = m.Release(context.Background()) })
	bmc, err := vbmc.Start(t.Context(), vbmc.Config{Machine: m, Network: s.lan, Users: []vbmc.User{{Name: "admin", Password: "a password"}}})
	ok(err)
	t.Cleanup(func() { _ = bmc.Close() })
	s.write("pw", "a password\n")
	s.write("quirks", "settle: 50ms\n")
	s.inventory = filepath.Join(s.dir, "inventory.yaml")
	s.write("inventory.yaml", fmt.Sprintf(`apiVersion: goldsmith/v1
networks: [{name: lab, ipv4: 10.77.0.0/24, first: 10.77.0.50, last: 10.77.0.99, interface: %s, server: %s}]
nodes:
- {name: server, macs: ['%s'], firmware: %s, boot: %s, bmc: {driver: ipmi, address: '%s', user: admin, password-file: pw, quirks-file: quirks}}
`, lan.Bridge, rackServer, mac, f, boot, bmc.Addr()))
	build(t, s.dir, ramdisk, nil)
	s.ramdisk = filepath.Join(s.dir, "ramdisk")
	return s
}

// imgpipe runs a command that must succeed.
func (s *server) imgpipe(args ...string) {
	s.t.Helper()
	if status, out := (program{append([]string{"imgpipe"}, args...), nil}).run(s.t); status != 0 {
		s.t.Fatalf("%v: status %d: %s", args, status, out)
	}
}

// A server is inspected, gets an image over its network, starts that from there,
// is tested and given back, all by imgpipe.
func TestPipelineOnServer(t *testing.T) {
	need(t, true)
	s := newServer(t, testbed.BIOS, inventory.BootNetwork)
	dir := filepath.Join(s.dir, "runs")
	s.imgpipe("node", "apply", "--dir", dir, s.inventory)
	s.imgpipe("node", "allow", "--dir", dir, "server")
	r := s.suites.run("v1.yaml", fmt.Sprintf("- {name: metal-smoke, uses: smoke, with: {machine: metal, ramdisk: %s, namespace: /proc/%d/fd/%d, "+
		"keys: [keys/release.pub], cmdline: console=ttyS0, node: {boot: network}}}", s.ramdisk, os.Getpid(), s.lan.Fd()))
	if got := statuses(r); got != "build=passed metal-smoke=passed" {
		t.Fatalf("stages: %s", got)
	}
	e := s.evidence(r.Stages[0].Image, "metal-smoke")
	if e.Machine.Name != "server" || e.Machine.Driver != "metal" {
		t.Errorf("machine: %+v", e.Machine)
	}
}
