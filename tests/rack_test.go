package tests

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/store"
	"goldsmith/internal/testenv"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/lan"
	"goldsmith/testbed/testbedtest"
	"goldsmith/testbed/vbmc"
)

// rack is machines in memory behind controllers, in a network of their own. They
// start from the network as servers do, but for DHCP: they ask the site for their
// script, and play the deploy ramdisk's agent. Everything stays when the site's
// process is killed.
type rack struct {
	t     *testing.T
	dir   string
	lan   *lan.LAN
	db    *store.DB
	v     *inventory.Inventory
	boxes map[string]*box

	agents, deployed, twice atomic.Int64 // agents started; images deployed; two agents at once
}

// box is a machine.
type box struct {
	*testbedtest.Netbooted
	rack    *rack
	mac     net.HardwareAddr
	address netip.Addr
	bmc     *vbmc.BMC
	works   atomic.Int64
}

const rackServer = "10.77.0.1"

func newRack(t *testing.T, machines int) *rack {
	t.Helper()
	testenv.Need(t, "ip")
	testenv.NeedFile(t, "/usr/lib/ipxe/snponly.efi")
	r := &rack{t: t, dir: t.TempDir(), boxes: map[string]*box{}}
	var err error
	r.lan, err = lan.New(t.Context(), netip.MustParsePrefix(rackServer+"/24"))
	r.ok(err)
	t.Cleanup(func() { _ = r.lan.Close() })
	r.db, err = store.Open(t.Context(), filepath.Join(r.dir, "imgpipe.db"))
	r.ok(err)
	t.Cleanup(func() { _ = r.db.Close() })
	r.v = inventory.New(r.db)
	var text strings.Builder
	fmt.Fprintf(&text, "apiVersion: goldsmith/v1\nnetworks: [{name: lab, ipv4: 10.77.0.0/24, first: 10.77.0.50, last: 10.77.0.99, interface: %s, server: %s}]\nnodes:\n", lan.Bridge, rackServer)
	for i := range machines {
		b := r.box(fmt.Sprintf("n%d", i+1), byte(i+1))
		fmt.Fprintf(&text, "  - {name: %s, macs: ['%s'], bmc: {driver: ipmi, address: '%s', user: admin, password-file: pw}}\n", b.Name(), b.mac, b.bmc.Addr())
	}
	for name, content := range map[string]string{"inventory.yaml": text.String(), "pw": "a password", "linux": ""} {
		r.ok(os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o600))
	}
	f, err := inventory.Load(filepath.Join(r.dir, "inventory.yaml"))
	r.ok(err)
	r.ok(r.v.Apply(t.Context(), f, "test"))
	for _, b := range r.boxes {
		a, err := r.v.Addresses(t.Context(), b.Name())
		r.ok(err)
		b.address = a.IPv4
		r.ok(r.v.Allow(t.Context(), b.Name(), "test"))
		r.ok(r.lan.Exec(t.Context(), command.Exec{Args: []string{"ip", "address", "add", a.IPv4.String() + "/32", "dev", "lo"}}))
	}
	return r
}

func (r *rack) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// namespace is where another process finds the network.
func (r *rack) namespace() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.lan.Fd()) }

func (r *rack) nodes() []*inventory.Node {
	r.t.Helper()
	nodes, err := r.v.Nodes(r.t.Context())
	r.ok(err)
	return nodes
}

func (r *rack) box(name string, number byte) *box {
	r.t.Helper()
	b := &box{rack: r, mac: net.HardwareAddr{0x52, 0x54, 0, 0, 0, number}}
	var err error
	b.Netbooted, err = testbedtest.NewNetbooted(r.t.Context(), testbedtest.Spec{Name: name, Dir: filepath.Join(r.dir, name)}, b.load)
	r.ok(err)
	b.manage("127.0.0.1:0")
	r.t.Cleanup(func() { _ = errors.Join(b.PowerOff(context.Background()), b.bmc.Close()) })
	r.boxes[name] = b
	return b
}

// manage starts the machine's controller.
func (b *box) manage(addr string) {
	b.rack.t.Helper()
	var err error
	b.bmc, err = vbmc.Start(b.rack.t.Context(), vbmc.Config{Machine: b, Listen: addr, Network: b.rack.lan,
		Users: []vbmc.User{{Name: "admin", Password: "a password"}}})
	b.rack.ok(err)
}

// forgetSessions restarts the controllers.
func (r *rack) forgetSessions() {
	r.t.Helper()
	for _, b := range r.boxes {
		addr := b.bmc.Addr()
		r.ok(b.bmc.Close())
		b.manage(addr)
	}
}

// load is what a machine does that starts from the network.
func (b *box) load() func(context.Context) {
	b.rack.agents.Add(1)
	return func(ctx context.Context) {
		if b.works.Add(1) > 1 {
			b.rack.twice.Add(1)
		}
		_ = b.agent(ctx) // the site may be dead
		b.works.Add(-1)
	}
}

// dial connects to the site from the machine's address.
func (b *box) dial(_ context.Context, _, addr string) (c net.Conn, err error) {
	err = b.rack.lan.Do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: b.address.AsSlice()}, Timeout: 5 * time.Second}
		c, err = d.Dial("tcp", addr)
		return err
	})
	return c, err
}

// agent gets the machine's script, as its firmware would, and does the task.
func (b *box) agent(ctx context.Context) error {
	network, err := b.rack.v.Network(ctx, "")
	if err != nil {
		return err
	}
	key := hmac.New(sha256.New, network.Secret)
	key.Write(b.mac)
	site := &url.URL{Scheme: "http", Host: rackServer + ":8080"}
	way := &http.Transport{DialContext: b.dial, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/netboot/%s/%s/script", site,
		strings.ReplaceAll(b.mac.String(), ":", "-"), hex.EncodeToString(key.Sum(nil)[:16])), nil)
	if err != nil {
		return err
	}
	resp, err := way.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	script, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	_, token, _ := strings.Cut(string(script), deploy.ArgToken+"=")
	token, _, _ = strings.Cut(token, " ")
	proxy := httputil.NewSingleHostReverseProxy(site)
	proxy.Transport = way
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	web := httptest.NewServer(proxy)
	defer web.Close()
	c, err := deploy.NewClient(web.URL+"/deploy", deploy.Token(token))
	if err != nil {
		return err
	}
	task, err := c.Task(ctx, "")
	if err != nil {
		return err
	}
	if err := c.Inventory(ctx, &deploy.Inventory{Arch: "amd64", CPU: deploy.CPU{Count: 1}, Memory: 1 << 30}); err != nil {
		return err
	}
	select { // the disk is written
	case <-time.After(300 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.Result(ctx, &deploy.Result{Task: task.ID}); err != nil {
		return err
	}
	if task.Kind == deploy.Deploy {
		b.rack.deployed.Add(1)
	}
	return nil
}
