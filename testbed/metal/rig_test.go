package metal

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/store"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/ipmi"
	"goldsmith/testbed/lan"
	"goldsmith/testbed/testbedtest"
	"goldsmith/testbed/vbmc"
)

// TestMain runs more tests at a time than there are processors: they wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	// A connection of net/http lingers for a moment after its last answer.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const (
	user     = "admin"
	password = "secret, long enough"
)

// rig is a site with machines that act out what a test tells them.
type rig struct {
	t      *testing.T
	dir    string
	lan    *lan.LAN
	db     *store.DB
	v      *inventory.Inventory
	site   *Site
	keeper *Keeper
	boxes  map[string]*box
	config Config

	mu    sync.Mutex // guards ahead
	ahead time.Duration
}

func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.ahead)
}

// box is a machine in memory with a controller. Started from the network, it
// plays the deploy ramdisk's agent.
type box struct {
	*testbedtest.Netbooted
	rig *rig
	bmc *vbmc.BMC

	mu     sync.Mutex // guards the fields below
	play   func(ctx context.Context, c *deploy.Client) error
	agents int // so many were started
	broken bool
}

// breaks makes a machine that does not go on.
func (b *box) breaks(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = yes
}

func (b *box) PowerOn(ctx context.Context) error {
	b.mu.Lock()
	broken := b.broken
	b.mu.Unlock()
	if broken {
		return nil
	}
	return b.Netbooted.PowerOn(ctx)
}

// load is what the site gives a machine that starts from the network.
func (b *box) load() func(context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, play := b.rig.site.holding(b.Name()), b.play
	if h == nil || h.boot == nil || play == nil {
		return nil
	}
	b.agents++
	_, token, _ := strings.Cut(h.boot.Cmdline, deploy.ArgToken+"=")
	token, _, _ = strings.Cut(token, " ")
	agents := b.rig.site.agents
	return func(ctx context.Context) {
		web := httptest.NewServer(http.StripPrefix("/deploy", agents))
		defer web.Close()
		c, err := deploy.NewClient(web.URL+"/deploy", deploy.Token(token))
		if err != nil {
			b.rig.t.Error(err)
			return
		}
		_ = play(ctx, c) // refused, or the power went
	}
}

func (b *box) acts(play func(context.Context, *deploy.Client) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.play = play
}

func (b *box) started() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.agents
}

// newRig is a site with as many machines, called n1 and so on.
func newRig(t *testing.T, machines int) *rig {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFile(t, "/usr/lib/ipxe/snponly.efi")
	testenv.Need(t, "ip")
	r := &rig{t: t, dir: t.TempDir(), boxes: map[string]*box{}}
	var err error
	r.lan, err = lan.New(t.Context(), netip.MustParsePrefix("10.77.0.1/24"))
	r.ok(err)
	t.Cleanup(func() { _ = r.lan.Close() })
	r.db, err = store.Open(t.Context(), filepath.Join(r.dir, "db"))
	r.ok(err)
	t.Cleanup(func() { _ = r.db.Close() })
	r.v = inventory.New(r.db)
	r.v.Now = r.now
	file := &bytes.Buffer{}
	fmt.Fprintf(file, "apiVersion: goldsmith/v1\nnetworks: [{name: lab, ipv4: 10.77.0.0/24, first: 10.77.0.50, last: 10.77.0.99, interface: %s, server: 10.77.0.1}]\nnodes:\n", lan.Bridge)
	for i := range machines {
		b := r.box(fmt.Sprintf("n%d", i+1))
		fmt.Fprintf(file, "  - {name: %s, macs: ['52:54:00:00:00:%02x'], bmc: {driver: ipmi, address: '%s', user: %s, password-file: pw}}\n",
			b.Name(), i+1, b.bmc.Addr(), user)
	}
	path := filepath.Join(r.dir, "inventory.yaml")
	kernel := filepath.Join(r.dir, "linux")
	r.ok(errors.Join(os.WriteFile(path, file.Bytes(), 0o600), os.WriteFile(filepath.Join(r.dir, "pw"), []byte(password), 0o600), os.WriteFile(kernel, nil, 0o600)))
	f, err := inventory.Load(path)
	r.ok(err)
	r.ok(r.v.Apply(t.Context(), f, "test"))
	r.config = Config{Inventory: r.v, Where: r.lan, Dir: filepath.Join(r.dir, "site"), Ramdisk: Ramdisk{kernel, kernel}, Images: r.dir}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) box(name string) *box {
	r.t.Helper()
	b := &box{rig: r, play: good}
	var err error
	b.Netbooted, err = testbedtest.NewNetbooted(r.t.Context(), testbedtest.Spec{Name: name, Dir: filepath.Join(r.dir, name)}, b.load)
	r.ok(err)
	b.bmc, err = vbmc.Start(r.t.Context(), vbmc.Config{Machine: b, Network: r.lan, Delay: 600 * time.Millisecond, Users: []vbmc.User{{Name: user, Password: password}}})
	r.ok(err)
	r.t.Cleanup(func() { _ = errors.Join(b.PowerOff(context.Background()), b.bmc.Close()) })
	r.boxes[name] = b
	return b
}

// open opens the site, as a new process would.
func (r *rig) open() {
	r.t.Helper()
	var err error
	r.site, err = Open(r.t.Context(), r.config)
	r.ok(err)
	r.site.limits.agent, r.site.limits.silence, r.site.limits.ping = 20*time.Second, 20*time.Second, 200*time.Millisecond
	r.site.adjust = func(q *ipmi.Quirks) {
		q.CipherSuites, q.RequestWait, q.Settle, q.SOLPause = []int{17}, 3*time.Second, 100*time.Millisecond, 300*time.Millisecond
		q.OffWait, q.OnWait = 3*time.Second, 3*time.Second
	}
	r.keeper = r.site.NewKeeper()
}

// close ends the site as a killed process does: what it had stays as it is.
func (r *rig) close() {
	if r.site == nil {
		return
	}
	r.keeper.close()
	if err := r.site.Close(); err != nil {
		r.t.Error(err)
	}
	r.site = nil
}

// round has the keeper look at everything, and waits for what it does.
func (r *rig) round() {
	r.t.Helper()
	r.ok(r.keeper.round(r.t.Context()))
	r.keeper.wg.Wait()
}

// pass lets time go by: those who have nodes keep them, the keeper looks.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	const step = 50 * time.Second
	for i := 1; d > 0; d, i = d-step, i+1 {
		r.mu.Lock()
		r.ahead += min(d, step)
		r.mu.Unlock()
		for name := range r.boxes {
			if h := r.site.holding(name); h != nil {
				l := *h.node.lease
				_ = r.v.Beat(r.t.Context(), &l)
			}
		}
		if i%3 == 0 || d <= step { // nothing observed grows stale
			r.round()
		}
	}
}

func (r *rig) node(name string) *inventory.Node {
	r.t.Helper()
	n, err := r.v.Node(r.t.Context(), name)
	r.ok(err)
	return n
}

func (r *rig) is(name string, want inventory.State) {
	r.t.Helper()
	if n := r.node(name); n.State != want {
		r.t.Fatalf("%s is %s (%s); want %s\n%s", name, n.State, n.Reason, want, r.history(name))
	}
}

// power is the machine's, whatever the controller says.
func (r *rig) power(name string, want testbed.Power) {
	r.t.Helper()
	if p, err := r.boxes[name].Power(r.t.Context()); err != nil || p != want {
		r.t.Errorf("%s is %v, %v; want %v\n%s", name, p, err, want, r.history(name))
	}
}

func (r *rig) history(name string) string {
	r.t.Helper()
	events, err := r.v.Events(context.Background(), name, 200)
	r.ok(err)
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%s %s %s: %s\n", e.Node, e.Kind, e.Who, e.What)
	}
	return b.String()
}

// ready makes every machine available.
func (r *rig) ready() {
	r.t.Helper()
	for name := range r.boxes {
		r.ok(r.v.Allow(r.t.Context(), name, "test"))
	}
	r.round()
	for name := range r.boxes {
		r.is(name, inventory.Available)
	}
}

// clean has a machine cleaned by hand, and says what it is then.
func (r *rig) clean(name string, want inventory.State) {
	r.t.Helper()
	r.ok(r.v.Clean(r.t.Context(), name, "op"))
	r.round()
	r.is(name, want)
}

// acquire leases a node and gives it back at the end.
func (r *rig) acquire(q inventory.Request) *Node {
	r.t.Helper()
	n, err := r.site.Acquire(r.t.Context(), q, "test")
	r.ok(err)
	r.t.Cleanup(func() { _ = n.Release(context.Background()) })
	return n
}

// answers makes a machine answer pings, or not.
func (r *rig) answers(name string, yes bool) {
	r.t.Helper()
	a, err := r.v.Addresses(r.t.Context(), name)
	r.ok(err)
	verb := "del"
	if yes {
		verb = "add"
	}
	r.ok(r.lan.Exec(r.t.Context(), command.Exec{Args: []string{"ip", "address", verb, a.IPv4.String() + "/32", "dev", "lo"}}))
}

// eventually waits until something is so.
func (r *rig) eventually(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 30 s: %s\n%s", what, r.history(""))
		}
	}
}

// get asks the site something, from an address.
func (r *rig) get(from string) {
	r.t.Helper()
	r.ok(r.lan.Do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", strings.TrimPrefix(r.site.URL(), "http://"))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = fmt.Fprintf(c, "GET /x HTTP/1.0\r\n\r\n")
		_, rerr := io.ReadAll(c)
		return errors.Join(err, rerr)
	}))
}
