package metal

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/store"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/netboot"
)

const servers = `apiVersion: goldsmith/v1
networks: [{name: lab, ipv4: 10.77.0.0/24, first: 10.77.0.50, last: 10.77.0.99, interface: br0, server: 10.77.0.1}]
nodes:
  - {name: a, boot: network, macs: ["52:54:00:77:00:01"], bmc: {driver: ipmi, address: 127.0.0.1, user: u, password-file: p}}
  - {name: b, macs: ["52:54:00:77:00:02"], bmc: {driver: ipmi, address: 127.0.0.1, user: u, password-file: p}}
`

// What a node starts from the network at every start is what it was given, where
// it is to start so; others start their disks. Machines that no file declares
// are seen and get no answer.
func TestWhatStarts(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	const digest = "sha256:0011"
	unpacked := filepath.Join(dir, "boot", "sha256-0011")
	for path, text := range map[string]string{filepath.Join(dir, "i.yaml"): servers, filepath.Join(unpacked, "cmdline"): "root=x roothash=y"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	db, err := store.Open(ctx, filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	v := inventory.New(db)
	f, err := inventory.Load(filepath.Join(dir, "i.yaml"))
	if err == nil {
		err = v.Apply(ctx, f, "test")
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &Site{cfg: Config{Inventory: v, Dir: dir, Cmdline: "console=ttyS0"}, told: map[string]string{}}
	if s.network, err = v.Network(ctx, ""); err != nil {
		t.Fatal(err)
	}
	starts := func(mac string) string {
		t.Helper()
		if err := s.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		hw, _ := net.ParseMAC(mac)
		switch m, ok := s.lookup(hw); {
		case !ok:
			return "no answer"
		case m.Boot == nil:
			return m.Name + ": its disk"
		default:
			return m.Name + ": " + filepath.Base(filepath.Dir(m.Boot.Kernel)) + " " + m.Boot.Cmdline
		}
	}
	is := func(mac, want string) {
		t.Helper()
		if got := starts(mac); got != want {
			t.Errorf("%s starts %q; want %q", mac, got, want)
		}
	}
	const a, b, stranger = "52:54:00:77:00:01", "52:54:00:77:00:02", "02:00:00:00:00:09"
	is(a, "a: its disk")
	for _, n := range []string{"a", "b"} {
		lease, err := v.Borrow(ctx, n, "test")
		if err == nil {
			err = v.Deployed(ctx, lease, digest)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	is(a, "a: sha256-0011 root=x roothash=y goldsmith.from=network console=ttyS0")
	is(b, "b: its disk")
	s.event(netboot.Event{MAC: stranger, What: "asks for an address"})
	is(stranger, "no answer")
	n, err := v.Node(context.Background(), "node-020000000009")
	if err != nil || n.State != inventory.Discovered || n.Declared || !strings.HasPrefix(n.Name, "node-") {
		t.Errorf("the stranger is %+v, %v", n, err)
	}
}
