package metal

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

// bare is a site of which nothing is served, in a directory of its own.
func bare(t *testing.T) (*Site, *inventory.Inventory, *store.DB) {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	file := filepath.Join(dir, "i.yaml")
	if err := os.WriteFile(file, []byte(servers), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	v := inventory.New(db)
	f, err := inventory.Load(file)
	if err == nil {
		err = v.Apply(ctx, f, "test")
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &Site{cfg: Config{Inventory: v, Dir: dir, Cmdline: "console=ttyS0"}, told: map[string]string{}, strangers: make(chan netboot.Event, maxStrangers)}
	if s.network, err = v.Network(ctx, ""); err != nil {
		t.Fatal(err)
	}
	return s, v, db
}

// What a node starts from the network at every start is what it was given, where
// it is to start so; others start their disks. Machines that no file declares
// are seen and get no answer.
func TestWhatStarts(t *testing.T) {
	ctx := t.Context()
	s, v, db := bare(t)
	const digest = "sha256:0011"
	unpacked := filepath.Join(s.cfg.Dir, "boot", "sha256-0011")
	if err := errors.Join(os.MkdirAll(unpacked, 0o755), os.WriteFile(filepath.Join(unpacked, "cmdline"), []byte("root=x roothash=y"), 0o600)); err != nil {
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
	is(b, "b: its disk")
	for address, want := range map[string]string{"10.77.0.50": "a", "10.77.0.51": "b", "10.77.0.52": ""} {
		if name, ok := s.at(netip.MustParseAddr(address)); name != want || ok != (want != "") {
			t.Errorf("%s is that of %q, %v; want %q", address, name, ok, want)
		}
	}
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
	// Whoever answers machines does not wait for the inventory, where others write.
	if err := db.Tx(ctx, func(*store.Tx) error {
		told := make(chan bool)
		go func() {
			defer close(told)
			s.event(netboot.Event{MAC: stranger, What: "asks for an address"})
			s.event(netboot.Event{What: "snponly.efi is asked for"})
			s.event(netboot.Event{What: "snponly.efi is asked for from elsewhere"})
			for i := range 2 * maxStrangers {
				s.event(netboot.Event{MAC: net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}.String(), What: "asks for an address"})
			}
		}()
		select {
		case <-told:
			return nil
		case <-time.After(3 * time.Second):
			return errors.New("events wait for the inventory")
		}
	}); err != nil {
		t.Fatal(err)
	}
	is(stranger, "no answer")
	background, stop := context.WithCancel(ctx)
	s.wg.Go(func() { s.discover(background) })
	for deadline := time.Now().Add(30 * time.Second); len(s.strangers) > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	s.wg.Wait()
	events, err := v.Events(ctx, "", 1000)
	asked := slices.DeleteFunc(events, func(e inventory.Event) bool { return !strings.HasPrefix(e.What, "snponly.efi") })
	if err != nil || len(asked) != 1 {
		t.Errorf("people are told %v, %v; want one", asked, err)
	}
	n, err := v.Node(context.Background(), "node-020000000009")
	if err != nil || n.State != inventory.Discovered || n.Declared || !strings.HasPrefix(n.Name, "node-") {
		t.Errorf("the stranger is %+v, %v", n, err)
	}
}

// TestRefreshInOrder: who began earlier to read the nodes does not replace what
// is known by now.
func TestRefreshInOrder(t *testing.T) {
	s, v, _ := bare(t)
	ctx := t.Context()
	lease, err := v.Borrow(ctx, "a", "test")
	if err != nil {
		t.Fatal(err)
	}
	file := func(digest string) string { return filepath.Join(s.cfg.Dir, "boot", bootDir(digest), "cmdline") }
	const older, newer = "sha256:0011", "sha256:0022"
	err = errors.Join(os.MkdirAll(filepath.Dir(file(older)), 0o755), os.MkdirAll(filepath.Dir(file(newer)), 0o755),
		syscall.Mkfifo(file(older), 0o600), os.WriteFile(file(newer), []byte("newer"), 0o600),
		v.Deployed(ctx, lease, older))
	if err != nil {
		t.Fatal(err)
	}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- s.Refresh(ctx) }()
	slow, err := os.OpenFile(file(older), os.O_WRONLY, 0) // it is being read, then
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Deployed(ctx, lease, newer); err != nil {
		t.Fatal(err)
	}
	go func() { second <- s.Refresh(ctx) }()
	select {
	case err = <-second:
		second <- err
	case <-time.After(300 * time.Millisecond):
	}
	if err := errors.Join(slow.Close(), <-first, <-second); err != nil {
		t.Fatal(err)
	}
	m, ok := s.lookup(net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 1})
	if !ok || m.Boot == nil || !strings.HasPrefix(m.Boot.Cmdline, "newer") {
		t.Errorf("it starts %+v; want what was deployed last", m.Boot)
	}
}
