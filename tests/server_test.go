package tests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/testenv"
	"goldsmith/pipeline"
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

// A server is inspected before anybody asks, gets an image over its network, starts
// that from there, is tested and given back: all by 'imgpipe serve', which serves
// the network as long as it runs. Meanwhile nobody else gets the network.
func TestPipelineOnServer(t *testing.T) {
	need(t, false)
	s := newServer(t, testbed.BIOS, inventory.BootNetwork)
	dir := filepath.Join(s.dir, "runs")
	s.imgpipe("node", "apply", "--dir", dir, s.inventory)
	s.imgpipe("node", "allow", "--dir", dir, "server")
	s.write("server.yaml", fmt.Sprintf(`apiVersion: goldsmith/v1
dir: runs
listen: 127.0.0.1:0
worker: {name: here}
sites: [{network: lab, ramdisk: ramdisk, namespace: /proc/%d/fd/%d, cmdline: console=ttyS0}]
`, os.Getpid(), s.lan.Fd()))
	stop := s.serveRuns()
	defer stop()
	const stage = "- {name: metal-smoke, uses: smoke, requires: [network=lab], with: {machine: metal, keys: [keys/release.pub], node: {boot: network}%s}}"
	s.write("run.yaml", fmt.Sprintf(suitePipeline, "v1.yaml", fmt.Sprintf(stage, "")))
	s.imgpipe("run", "--detach", "--dir", dir, filepath.Join(s.dir, "run.yaml"))
	r := s.ended(dir, 15*time.Minute)
	if got := statuses(r); got != "build=passed metal-smoke=passed" {
		t.Fatalf("stages: %s: %s", got, r.Reason)
	}
	e := s.evidence(r.Stages[0].Image, "metal-smoke")
	if e.Machine.Name != "server" || e.Machine.Driver != "metal" {
		t.Errorf("machine: %+v", e.Machine)
	}
	s.write("own.yaml", fmt.Sprintf(suitePipeline, "v1.yaml", fmt.Sprintf(stage, ", ramdisk: ramdisk")))
	status, out := program{[]string{"imgpipe", "run", "--capability", "network=lab", "--dir", dir, filepath.Join(s.dir, "own.yaml")}, s.env}.run(t)
	if status != 4 || !strings.Contains(out, "another process serves it as long as it runs") {
		t.Errorf("another process: status %d: %s", status, out)
	}
}

// serveRuns starts 'imgpipe serve'; stop ends it.
func (s *server) serveRuns() (stop func()) {
	s.t.Helper()
	cmd, out := program{[]string{"imgpipe", "serve", "--config", filepath.Join(s.dir, "server.yaml")}, s.env}.command(s.t)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("serve: %v", err)
		}
		s.t.Logf("serve:\n%s", out)
	}
}

// ended waits until the newest run has ended.
func (s *server) ended(dir string, limit time.Duration) *pipeline.Run {
	s.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Second) {
		all := records(s.t, dir)
		r := all[len(all)-1]
		if r.Status != pipeline.Running {
			return r
		}
		if time.Since(began) > limit {
			s.t.Fatalf("not within %v: %s", limit, statuses(r))
		}
	}
}
