package inventory

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/testbed"
)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex // guards t
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }

func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

const sample = `
apiVersion: goldsmith/v1
cap: 2
networks:
  - {name: lab, ipv4: 10.77.0.0/24, first: 10.77.0.50, last: 10.77.0.52}
nodes:
  - name: large
    cpus: 16
    memory: 64Gi
    disks: [1T, 1T]
    tags: [ssd]
    macs: ["52:54:00:77:00:01"]
    bmc: {driver: ipmi, address: 127.0.0.1, user: admin, password-file: pw}
  - name: small
    cpus: 2
    memory: 4Gi
    disks: [100G]
    macs: ["52:54:00:77:00:02"]
    bmc: {driver: ipmi, address: 127.0.0.1, user: admin, password-file: pw}
`

func parse(t testing.TB, text string) (*File, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "inventory.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file)
}

func empty(t testing.TB) (*Inventory, *clock) {
	t.Helper()
	db, err := store.Open(context.Background(), storetest.Where(t, kind))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	c := &clock{t: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	v := New(db)
	v.Now = c.now
	return v, c
}

// stocked is an inventory with the sample's nodes, available.
func stocked(t testing.TB) (*Inventory, *clock) {
	t.Helper()
	v, c := empty(t)
	f, err := parse(t, sample)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	ok(t, v.Apply(ctx, f, "test"))
	for _, name := range []string{"large", "small"} {
		ok(t, v.Observe(ctx, name, Observation{Source: BMCSource, OK: true, Power: testbed.Off}))
		ok(t, v.Allow(ctx, name, "test"))
	}
	for name, found := range map[string]string{
		"small": `{"arch":"amd64","cpu":{"count":2},"memory":4294967296,"disks":[{"size":100000000000}]}`,
		"large": `{"arch":"amd64","cpu":{"count":16},"memory":68719476736,"disks":[{"size":1000000000000},{"size":1000000000000}]}`,
	} {
		l, err := v.Borrow(ctx, name, "inspecting")
		ok(t, err)
		ok(t, v.SetHardware(ctx, l, []byte(found)))
		ok(t, v.End(ctx, l))
		if err := v.SetHardware(ctx, l, []byte(found)); !errors.Is(err, ErrLost) {
			t.Errorf("SetHardware after End: %v", err)
		}
	}
	return v, c
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func node(t testing.TB, v *Inventory, name string) *Node {
	t.Helper()
	n, err := v.Node(context.Background(), name)
	ok(t, err)
	return n
}

// cleaned is what the keeper does with a node that is to be cleaned.
func cleaned(ctx context.Context, v *Inventory, name, reason string) error {
	l, err := v.Borrow(ctx, name, "keeper")
	if err != nil {
		return err
	}
	return errors.Join(v.Cleaned(ctx, l, reason), v.End(ctx, l))
}

func TestLifecycle(t *testing.T) {
	v, _ := stocked(t)
	ctx := t.Context()
	is := func(want State) {
		t.Helper()
		if n := node(t, v, "small"); n.State != want {
			t.Fatalf("state %s (%s); want %s", n.State, n.Reason, want)
		}
	}
	is(Available)
	l, err := v.Acquire(ctx, Request{}, "run 1")
	ok(t, err)
	if l.Node != "small" || l.Fence != 2 {
		t.Errorf("granted %+v; want the smallest node", l)
	}
	is(Leased)
	ok(t, v.Move(ctx, l, Deploying, ""))
	ok(t, v.Power(ctx, l, testbed.On))
	ok(t, v.Deployed(ctx, l, "sha256:1"))
	ok(t, v.Move(ctx, l, Testing, ""))
	if err := v.Move(ctx, l, Available, ""); err == nil {
		t.Error("a lease's holder makes its node available")
	}
	ok(t, v.End(ctx, l))
	is(Cleaning)
	if n := node(t, v, "small"); n.Wanted != testbed.Off || n.Lease != nil || n.Image != "sha256:1" {
		t.Errorf("after the lease: %+v", n)
	}
	if err := v.Move(ctx, l, Testing, ""); !errors.Is(err, ErrLost) {
		t.Errorf("Move after End: %v; want ErrLost", err)
	}
	ok(t, cleaned(ctx, v, "small", "sda: I/O error"))
	is(CleanFailed)
	ok(t, v.Clean(ctx, "small", "op"))
	ok(t, v.Withdraw(ctx, "small", "op"))
	ok(t, cleaned(ctx, v, "small", ""))
	is(Inspected)
	ok(t, v.Allow(ctx, "small", "op"))
	is(Available)
	ok(t, v.Inspect(ctx, "small", "op"))
	look, err := v.Borrow(ctx, "small", "inspecting")
	ok(t, err)
	ok(t, v.InspectionFailed(ctx, look, "no answer"))
	ok(t, v.End(ctx, look))
	is(InspectFailed)
	ok(t, v.Inspect(ctx, "small", "op"))
	is(Discovered)
	events, err := v.Events(ctx, "small", 100)
	ok(t, err)
	var all []string
	for _, e := range events {
		all = append(all, e.Who+" "+e.What)
	}
	for _, want := range []string{"test added", "run 1 granted, fence 2", "run 1 sha256:1 is deployed", "imgpipe clean-failed: sda: I/O error", "op withdrawn"} {
		if !strings.Contains(strings.Join(all, "\n"), want) {
			t.Errorf("no event %q in\n%s", want, strings.Join(all, "\n"))
		}
	}
}

func TestRefusals(t *testing.T) {
	v, c := stocked(t)
	ctx := t.Context()
	ok(t, v.SetAside(ctx, "small", Aside{Owner: "eva", Reason: "new fan"}))
	l, err := v.Acquire(ctx, Request{CPUs: 4, Tags: []string{"ssd"}, Disks: 2, Size: 5e11}, "run 1")
	ok(t, err)
	_, err = v.Acquire(ctx, Request{Arch: "arm64", CPUs: 4, Memory: 8 << 30, Disks: 2, Tags: []string{"ssd", "nvme"}}, "run 2")
	var no *Refused
	if !errors.As(err, &no) || command.Status(err) != command.StatusBusy || no.Waiting() || no.Infra() {
		t.Fatalf("Acquire = %v", err)
	}
	for _, part := range []string{
		"large: its architecture is amd64; no tag nvme; not free: run 1 has it",
		"small: its architecture is amd64; 2 CPUs of 4; 4GiB memory of 8GiB; 1 disks of 2 of at least 0B; no tag ssd; no tag nvme; in maintenance by eva: new fan",
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("no %q in\n%v", part, err)
		}
	}
	if _, err = v.Acquire(ctx, Request{Node: "large"}, "run 2"); !errors.As(err, &no) || !no.Waiting() {
		t.Errorf("Acquire of a busy node = %v; want one to wait for", err)
	}
	ok(t, v.End(ctx, l))
	c.add(2 * Stale) // nobody has observed anything since
	ok(t, v.Review(ctx))
	if _, err = v.Acquire(ctx, Request{}, "run 3"); !errors.As(err, &no) || !strings.Contains(err.Error(), "not alive: nothing was heard") || !no.Infra() {
		t.Errorf("Acquire of a silent node = %v", err)
	}
}

func TestLeaseExpires(t *testing.T) {
	v, c := stocked(t)
	ctx := t.Context()
	l, err := v.Acquire(ctx, Request{Node: "small"}, "run 1")
	ok(t, err)
	c.add(LeaseTime - time.Second)
	ok(t, v.Beat(ctx, l))
	c.add(LeaseTime - time.Second)
	ok(t, v.Move(ctx, l, Deploying, ""))
	c.add(2 * time.Second)
	// Nobody has noticed yet, and still the holder has lost it.
	if err := v.Beat(ctx, l); !errors.Is(err, ErrLost) {
		t.Errorf("Beat of an expired lease: %v", err)
	}
	ok(t, v.Expire(ctx))
	n := node(t, v, "small")
	if n.Lease != nil || n.State != Cleaning || n.Wanted != testbed.Off {
		t.Errorf("after expiry: %s, wanted %v, %+v", n.State, n.Wanted, n.Lease)
	}
	ok(t, cleaned(ctx, v, "small", ""))
	again, err := v.Acquire(ctx, Request{Node: "small"}, "run 2")
	ok(t, err)
	if again.Fence <= l.Fence {
		t.Errorf("fence %d after %d", again.Fence, l.Fence)
	}
	if err := v.Move(ctx, l, Deploying, ""); !errors.Is(err, ErrLost) {
		t.Errorf("the holder before moves it: %v", err)
	}
}

func TestKeep(t *testing.T) {
	v, c := stocked(t)
	l, err := v.Acquire(t.Context(), Request{}, "run 1")
	ok(t, err)
	ctx, stop := v.Keep(t.Context(), l)
	stop()
	if !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Errorf("stopped: %v", context.Cause(ctx))
	}
	c.add(2 * LeaseTime)
	if err := v.End(t.Context(), l); !errors.Is(err, ErrLost) {
		t.Errorf("End after expiry: %v", err)
	}
}

func TestApply(t *testing.T) {
	v, _ := stocked(t)
	ctx := t.Context()
	l, err := v.Acquire(ctx, Request{Node: "small"}, "run 1")
	ok(t, err)
	without := sample[:strings.Index(sample, "  - name: small")]
	f, err := parse(t, strings.Replace(without, "cpus: 16", "cpus: 32", 1))
	ok(t, err)
	if err := v.Apply(ctx, f, "op"); command.Status(err) != command.StatusBusy || node(t, v, "large").Spec.CPUs != 16 {
		t.Errorf("Apply removes what somebody has: %v", err)
	}
	ok(t, v.End(ctx, l))
	ok(t, v.Apply(ctx, f, "op"))
	if _, err := v.Node(ctx, "small"); !errors.Is(err, ErrUnknown) || node(t, v, "large").Spec.CPUs != 32 {
		t.Errorf("Apply: %v", err)
	}
	// It is there, and so it is discovered; and then declared again.
	mac, _ := net.ParseMAC("52:54:00:77:00:02")
	n, err := v.Discover(ctx, mac, "lab")
	ok(t, err)
	if again, err := v.Discover(ctx, mac, "lab"); err != nil || again.Name != n.Name || n.Name != "node-525400770002" {
		t.Errorf("Discover = %v, %v", again, err)
	}
	f, err = parse(t, sample)
	ok(t, err)
	ok(t, v.Apply(ctx, f, "op"))
	if n, err := v.ByMAC(ctx, mac); err != nil || n.Name != "small" || !n.Declared {
		t.Errorf("ByMAC = %v, %v", n, err)
	}
}

func TestBadFiles(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"goldsmith/v1", "v2", "inventory.yaml:2: apiVersion"},
		{"name: small", "name: Small", "inventory.yaml:14: node Small: a name is a host name"},
		{"name: small", "name: large", "there are two"},
		{"00:02", "00:01", `52:54:00:77:00:01 is also node large's`},
		{`"52:54:00:77:00:02"`, `"52"`, "is not a hardware address"},
		{"memory: 4Gi", "memory: 4X", `"4X" is not a size`},
		{"first: 10.77.0.50", "first: 10.78.0.50", "expected an address in 10.77.0.0/24"},
		{"last: 10.77.0.52", "last: 10.77.0.2", "is before first"},
		{"password-file: pw}\n  - name", "}\n  - name", "bmc needs address, user and password-file"},
		{"tags: [ssd]", "recovery: [{bmc: rude, do: notify}]", `rule 1: bmc "rude": expected ok, silent`},
		{"tags: [ssd]", "recovery: [{for: soon, do: notify}]", "is not a duration"},
		{"tags: [ssd]", "recovery: [{do: reboot}]", `do "reboot"`},
		{"tags: [ssd]", "colour: red", "colour"},
	} {
		_, err := parse(t, strings.Replace(sample, c.from, c.to, 1))
		if err == nil || !strings.Contains(err.Error(), c.want) || command.Status(err) != command.StatusUsage {
			t.Errorf("%s: %v; want %q", c.to, err, c.want)
		}
	}
}
