package metal

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/seed"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/vbmc"
)

var digest = "sha256:" + strings.Repeat("a", 64)

func deployment() Deployment {
	return Deployment{Image: digest, Seed: seed.Seed{InstanceID: "i-1", Hostname: "h", Metadata: map[string]any{"password": "hunter2"}}}
}

func fault(err error) testbed.FaultKind {
	if f, ok := errors.AsType[*testbed.Fault](err); ok {
		return f.Kind
	}
	return ""
}

// A node's whole life, from unknown to available again.
func TestLife(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.round()
	r.is("n1", inventory.Discovered) // nobody allows it
	r.ready()
	r.power("n1", testbed.Off)
	n := r.acquire(inventory.Request{CPUs: 2})
	r.is("n1", inventory.Leased)
	if _, err := r.site.Acquire(t.Context(), inventory.Request{}, "another"); command.Status(err) != command.StatusBusy {
		t.Errorf("a second lease: %v", err)
	}
	r.ok(n.Deploy(t.Context(), deployment()))
	r.is("n1", inventory.Testing)
	r.power("n1", testbed.On)
	if got := r.node("n1"); got.Image != digest || !strings.Contains(string(got.Deployment), digest) || strings.Contains(string(got.Deployment), "hunter2") {
		t.Errorf("deployed: %q, %s", got.Image, got.Deployment)
	}
	for range 2 {
		r.ok(n.Release(t.Context()))
	}
	r.power("n1", testbed.Off)
	r.is("n1", inventory.Cleaning)
	r.round()
	r.is("n1", inventory.Available)
	r.power("n1", testbed.Off)
	if got := r.node("n1"); got.Image != "" || len(got.Deployment) != 0 || got.Lease != nil || r.boxes["n1"].started() != 3 {
		t.Errorf("in the end: %q, %q, %+v, %d agents", got.Image, got.Deployment, got.Lease, r.boxes["n1"].started())
	}
	text, err := os.ReadFile(n.AgentLog())
	if said := r.history("") + string(text); err != nil || strings.Contains(said, "hunter2") || strings.Contains(said, deploy.ArgToken) {
		t.Errorf("%v; secrets are in\n%s", err, said)
	}
}

func TestAgentFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	r.boxes["n1"].acts(bad)
	n := r.acquire(inventory.Request{})
	err := n.Deploy(t.Context(), deployment())
	if e, ok := errors.AsType[*AgentError](err); !ok || e.Step != "50-write" || e.Text != "sda: I/O error" {
		t.Errorf("Deploy: %v", err)
	}
	r.is("n1", inventory.DeployFailed)
	r.ok(n.Release(t.Context()))
	r.round()
	r.is("n1", inventory.DeployFailed) // a person, or its policy, decides
	r.power("n1", testbed.Off)
	if got := r.node("n1"); got.Lease != nil || !strings.Contains(got.Reason, "I/O error") {
		t.Errorf("%q, %+v", got.Reason, got.Lease)
	}
	r.clean("n1", inventory.CleanFailed)
	r.power("n1", testbed.Off)
	r.boxes["n1"].acts(good)
	r.clean("n1", inventory.Available)
}

// A machine that never gets as far as its agent, and one whose agent stops.
func TestAgentSilent(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	for _, c := range []struct {
		name, want string
		play       func(context.Context, *deploy.Client) error
	}{
		{"never", "has not called within 500ms", nil},
		{"hangs", "has not called for 500ms", hangs},
	} {
		r.boxes["n1"].acts(c.play)
		n := r.acquire(inventory.Request{})
		r.site.limits.agent, r.site.limits.silence = 500*time.Millisecond, 500*time.Millisecond
		err := n.Deploy(t.Context(), deployment())
		if fault(err) != testbed.Silent || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		r.is("n1", inventory.DeployFailed)
		r.ok(n.Release(t.Context()))
		r.site.limits.agent, r.site.limits.silence = 20*time.Second, 20*time.Second
		r.boxes["n1"].acts(good)
		r.clean("n1", inventory.Available)
	}
}

func TestInspectionFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.boxes["n1"].acts(nil)
	r.site.limits.agent = 300 * time.Millisecond
	r.ok(r.v.Allow(t.Context(), "n1", "test"))
	r.round()
	r.is("n1", inventory.InspectFailed)
	r.power("n1", testbed.Off)
	r.boxes["n1"].acts(good)
	r.site.limits.agent = 20 * time.Second
	r.round()
	r.is("n1", inventory.InspectFailed)
	r.pass(16 * time.Minute)
	r.is("n1", inventory.Available)
}

// Who loses a node in the middle stops, is told that it was not the image, and
// leaves alone what somebody else does with it.
func TestLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	r.boxes["n1"].acts(hangs)
	n := r.acquire(inventory.Request{})
	result := make(chan error, 1)
	go func() { result <- n.Deploy(t.Context(), deployment()) }()
	r.eventually("the agent calls", func() bool { return r.boxes["n1"].started() == 2 })
	r.ok(r.v.Revoke(t.Context(), "n1", "op", "mine"))
	n.lose(n.lost(inventory.ErrLost)) // what the next heartbeat does
	if err := <-result; fault(err) != testbed.Lost {
		t.Errorf("Deploy: %v; want a fault", err)
	}
	r.is("n1", inventory.Cleaning)
	// Somebody else works on it.
	r.boxes["n1"].acts(good)
	r.round() // off
	r.round() // and cleaned
	r.is("n1", inventory.Available)
	other := r.acquire(inventory.Request{})
	r.ok(other.Deploy(t.Context(), deployment()))
	if err := n.PowerOff(t.Context()); fault(err) != testbed.Lost {
		t.Errorf("PowerOff of a node that is lost: %v", err)
	}
	if err := n.Deploy(t.Context(), deployment()); fault(err) != testbed.Lost {
		t.Errorf("Deploy to a node that is lost: %v", err)
	}
	r.ok(n.Release(t.Context()))
	r.power("n1", testbed.On)
	r.is("n1", inventory.Testing)
	if r.site.holding("n1") == nil {
		t.Error("the one who has it is forgotten")
	}
}

// A machine that stays on is nobody's until it is off.
func TestStaysOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	n := r.acquire(inventory.Request{})
	r.ok(n.Deploy(t.Context(), deployment()))
	r.ok(r.boxes["n1"].bmc.SetFaults(vbmc.IgnoreOff))
	if err := n.Release(t.Context()); fault(err) != testbed.Unconfirmed {
		t.Errorf("Release: %v", err)
	}
	for range 3 {
		got := r.node("n1")
		if got.Aside == nil || got.Aside.Fault != testbed.Unconfirmed || got.State != inventory.Cleaning {
			t.Fatalf("%s, aside %+v\n%s", got.State, got.Aside, r.history("n1"))
		}
		if _, err := r.site.Acquire(t.Context(), inventory.Request{}, "another"); err == nil {
			t.Fatal("it is given to somebody")
		}
		r.power("n1", testbed.On)
		r.round()
	}
	r.ok(r.boxes["n1"].bmc.SetFaults())
	r.pass(10 * time.Minute)
	r.is("n1", inventory.Available)
	r.power("n1", testbed.Off)
	if got := r.node("n1"); got.Aside != nil {
		t.Errorf("aside %+v", got.Aside)
	}
}

// A machine that does not go on under test has failed, and waits for somebody to
// look at it.
func TestStaysOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	n := r.acquire(inventory.Request{})
	r.ok(n.Deploy(t.Context(), deployment()))
	r.ok(n.PowerOff(t.Context()))
	r.boxes["n1"].breaks(true)
	if err := n.PowerOn(t.Context()); fault(err) != testbed.Unconfirmed {
		t.Errorf("PowerOn: %v", err)
	}
	r.ok(n.Release(t.Context()))
	r.round()
	r.is("n1", inventory.TestFailed)
	if got := r.node("n1"); !strings.Contains(got.Reason, "power on") || got.Lease != nil {
		t.Errorf("%q, %+v", got.Reason, got.Lease)
	}
	r.boxes["n1"].breaks(false)
	r.clean("n1", inventory.Available)
}

// A machine that switches itself off at once is not noted as on.
func TestSwitchesItselfOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	n := r.acquire(inventory.Request{})
	r.ok(n.observePower(t.Context(), testbed.On))
	if got := r.node("n1"); got.Power != testbed.Off {
		t.Errorf("power %v; the controller says off", got.Power)
	}
}

// A node to which a bad image cannot be deployed is as good as before.
func TestBadImage(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	r.boxes["n1"].acts(func(ctx context.Context, c *deploy.Client) error {
		return ends(ctx, c, deploy.Result{Step: "10-image", Error: "no trusted key has signed it", Fault: deploy.ImageFault})
	})
	n := r.acquire(inventory.Request{})
	if err := n.Deploy(t.Context(), deployment()); err == nil || !strings.Contains(err.Error(), "no trusted key") {
		t.Errorf("Deploy: %v", err)
	}
	r.ok(n.Release(t.Context()))
	r.is("n1", inventory.Cleaning)
	r.boxes["n1"].acts(good)
	r.round()
	r.is("n1", inventory.Available)
	if !strings.Contains(r.history("n1"), "no trusted key") {
		t.Errorf("nobody is told why:\n%s", r.history("n1"))
	}
}

func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	if _, err := Open(t.Context(), r.config); command.Status(err) != command.StatusBusy {
		t.Errorf("a second process: %v", err)
	}
}
