package metal

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/deploy"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/ipmi"
	"goldsmith/testbed/vbmc"
)

// aside waits for the maintenance of a fault.
func (r *rig) aside(name string, want testbed.FaultKind) {
	r.t.Helper()
	n := r.node(name)
	if n.Aside == nil || n.Aside.Fault != want || n.Aside.Owner != owner {
		r.t.Fatalf("%s: maintenance %+v; want that of %q\n%s", name, n.Aside, want, r.history(name))
	}
}

// silent makes a controller silent, for which nobody waits long.
func (r *rig) silent(name string) {
	r.t.Helper()
	usual := r.site.adjust
	r.site.adjust = func(q *ipmi.Quirks) { usual(q); q.RequestWait = 500 * time.Millisecond }
	if b := r.keeper.bmcs[name]; b != nil {
		r.keeper.drop(name, b)
	}
	r.ok(r.boxes[name].bmc.SetFaults(vbmc.Silent))
}

func (r *rig) inService(name string) {
	r.t.Helper()
	if n := r.node(name); n.Aside != nil {
		r.t.Fatalf("%s: maintenance %+v\n%s", name, n.Aside, r.history(name))
	}
}

// hook makes a program that keeps what it is told.
func (r *rig) hook(script string) (notices func() []Notice) {
	r.t.Helper()
	file, program := filepath.Join(r.dir, "notices"), filepath.Join(r.dir, "hook")
	r.ok(os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	r.site.cfg.Notify = []string{program, file}
	return func() (all []Notice) {
		r.t.Helper()
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			var n Notice
			r.ok(json.Unmarshal([]byte(line), &n))
			all = append(all, n)
		}
		return all
	}
}

// running is a node that was deployed to.
func (r *rig) running() *Node {
	r.t.Helper()
	n := r.acquire(inventory.Request{})
	r.ok(n.Deploy(r.t.Context(), deployment()))
	return n
}

// Rule 1: power that was changed behind our back is set as it is wanted.
func TestRulePower(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	r.ok(r.boxes["n1"].PowerOn(t.Context()))
	r.round()
	r.power("n1", testbed.Off)
	r.running()
	r.ok(r.boxes["n1"].PowerOff(t.Context()))
	r.round()
	r.power("n1", testbed.On)
	r.is("n1", inventory.Testing)
}

// Rules 3 to 6: a controller that cannot be worked with puts its node aside, and
// takes it back when it is well.
func TestRuleController(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault vbmc.Fault
		want  testbed.FaultKind
		on    bool // what the machine does by itself meanwhile
	}{
		{vbmc.Silent, testbed.Silent, false},
		{vbmc.WrongPassword, testbed.Denied, false},
		{vbmc.Garbage, testbed.Broken, false},
		{vbmc.IgnoreOff, testbed.Unconfirmed, true},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 1)
			r.ready()
			notices := r.hook(`cat >>"$1"`)
			b := r.boxes["n1"]
			r.ok(b.bmc.SetFaults(c.fault))
			if c.on {
				r.ok(b.PowerOn(t.Context()))
			}
			for range 2 {
				r.round()
				r.aside("n1", c.want)
				if _, err := r.site.Acquire(t.Context(), inventory.Request{}, "x"); err == nil {
					t.Fatal("it is given to somebody")
				}
			}
			if got := notices(); !c.on && (len(got) != 1 || got[0].Node != "n1" || got[0].Action != inventory.PutAside || got[0].State != inventory.Available) {
				t.Errorf("people were told %+v", got)
			}
			r.ok(b.bmc.SetFaults())
			r.pass(10 * time.Minute)
			r.inService("n1")
			r.is("n1", inventory.Available)
			r.power("n1", testbed.Off)
		})
	}
}

// Rule 2: a silent controller of a machine that works. Its user keeps it, and
// people are told.
func TestRuleOnlyController(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	notices := r.hook(`cat >>"$1"`)
	n := r.running()
	r.answers("n1", true)
	r.round()
	r.silent("n1")
	r.round()
	r.pass(6 * time.Minute)
	r.is("n1", inventory.Testing)
	r.aside("n1", testbed.Silent)
	if got := r.node("n1"); !got.Alive || n.Held().Err() != nil {
		t.Errorf("alive %v, %v", got.Alive, n.Held().Err())
	}
	got := notices()
	if last := got[len(got)-1]; len(got) != 2 || last.Action != inventory.Notify || last.Holder != "test" || last.Image != digest {
		t.Errorf("people were told %+v", got)
	}
}

// Rule 7: a machine under test that is silent, with a controller that is well.
func TestRuleHangs(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	notices := r.hook("exit 3") // what the program does changes nothing
	n := r.running()
	r.answers("n1", true)
	r.pass(11 * time.Minute)
	r.is("n1", inventory.Testing)
	r.answers("n1", false)
	r.round()
	r.pass(9 * time.Minute)
	r.is("n1", inventory.Testing)
	r.pass(2 * time.Minute)
	if err := context.Cause(n.Held()); fault(err) != testbed.Lost || !strings.Contains(err.Error(), "fenced") {
		t.Errorf("its holder is told %v", err)
	}
	r.ok(n.Release(t.Context())) // nothing is left to be done
	r.round()
	r.is("n1", inventory.Available)
	r.power("n1", testbed.Off)
	if said := r.history("n1"); !strings.Contains(said, "nobody could be told: ") || len(notices()) != 0 {
		t.Errorf("%v in\n%s", notices(), said)
	}
}

// A node that failed and that nobody has is fenced and gets what it had.
func TestRedeploy(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	f, err := inventory.Load(filepath.Join(r.dir, "inventory.yaml"))
	r.ok(err)
	f.Nodes[0].Recovery = []inventory.Rule{{BMC: "ok", States: []inventory.State{inventory.DeployFailed}, For: inventory.Duration(time.Minute), Do: inventory.Redeploy}}
	r.ok(r.v.Apply(t.Context(), f, "test"))
	b := r.boxes["n1"]
	b.acts(bad)
	n := r.acquire(inventory.Request{})
	if err := n.Deploy(t.Context(), deployment()); err == nil {
		t.Fatal("the deployment does not fail")
	}
	r.ok(n.Release(t.Context()))
	r.pass(3 * time.Minute)
	r.is("n1", inventory.DeployFailed)
	var got *deploy.Task
	b.acts(func(ctx context.Context, c *deploy.Client) error {
		task, err := c.Task(ctx, "")
		if err == nil && task.Kind == deploy.Deploy {
			got = task
		}
		return good(ctx, c)
	})
	r.pass(4 * time.Minute)
	if got == nil || got.Image.Digest != digest || got.Seed.InstanceID != "i-1" ||
		!strings.Contains(string(got.Seed.Metadata), `"stable-address":{"ipv6":"fd`) || strings.Contains(string(got.Seed.Metadata), "hunter2") {
		t.Errorf("it was told %+v", got)
	}
	r.is("n1", inventory.Available)
	if b.started() < 4 {
		t.Errorf("%d agents were started\n%s", b.started(), r.history("n1"))
	}
}

// Rule 8: a machine that says that it is not well.
func TestRuleHealth(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	notices := r.hook(`cat >>"$1"`)
	n := r.running()
	r.answers("n1", true)
	r.ok(n.NoteHealth(t.Context(), false, "redis does not start"))
	r.pass(4 * time.Minute)
	if got := notices(); got != nil {
		t.Errorf("people were told too early: %+v", got)
	}
	r.pass(2 * time.Minute)
	if got := notices(); len(got) != 1 || got[0].Action != inventory.Notify || !strings.Contains(got[0].Reason, "health failing") {
		t.Errorf("people were told %+v\n%s", got, r.history("n1"))
	}
	r.ok(n.NoteHealth(t.Context(), true, "")) // well again, and told anew when it is not
	r.round()
	r.ok(n.NoteHealth(t.Context(), false, "again"))
	r.pass(6 * time.Minute)
	if got := notices(); len(got) != 2 {
		t.Errorf("people were told %+v", got)
	}
	r.ok(n.Deploy(t.Context(), deployment()))
	if h := r.site.holding("n1"); h.health != nil {
		t.Error("what the machine said is held against what is deployed after that")
	}
}

// A program that does not end is ended, and nothing waits for it.
func TestHookHangs(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	r.hook("exec sleep 1000")
	r.site.limits.notify = 200 * time.Millisecond
	r.silent("n1")
	r.round()
	r.aside("n1", testbed.Silent)
	if said := r.history("n1"); !strings.Contains(said, "nobody could be told: ") {
		t.Errorf("%s", said)
	}
}

// Maintenance by a person is never touched.
func TestManualMaintenance(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	r.ok(r.v.SetAside(t.Context(), "n1", inventory.Aside{Owner: "eva", Reason: "a new disk"}))
	r.ok(r.boxes["n1"].PowerOn(t.Context()))
	r.silent("n1")
	r.pass(4 * time.Minute)
	r.ok(r.boxes["n1"].bmc.SetFaults())
	r.pass(4 * time.Minute)
	r.power("n1", testbed.On)
	if n := r.node("n1"); n.Aside == nil || n.Aside.Owner != "eva" || n.Aside.Fault != "" {
		t.Errorf("maintenance %+v", n.Aside)
	}
}

// What the deploy ramdisk and the installed system let us know is observed.
func TestAgentObserved(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.ready()
	b := r.boxes["n1"]
	b.acts(hangs)
	n := r.acquire(inventory.Request{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = n.Deploy(ctx, deployment()); close(done) }()
	r.eventually("the agent is observed", func() bool {
		r.ok(r.keeper.observe(t.Context(), "n1"))
		return r.node("n1").Observed[inventory.AgentSource].OK
	})
	// The controller dies, the node does not: its agent calls.
	r.silent("n1")
	r.round()
	if got := r.node("n1"); !got.Alive || got.AliveReason != "agent answers" && got.Observed[inventory.BMCSource].OK {
		t.Errorf("alive %v: %s", got.Alive, got.AliveReason)
	}
	r.ok(b.bmc.SetFaults())
	cancel()
	<-done
	b.acts(good)
	r.ok(n.Release(t.Context()))
	r.round() // in service
	r.round() // and cleaned
	r.is("n1", inventory.Available)
	n = r.acquire(inventory.Request{})
	r.ok(n.Deploy(t.Context(), deployment()))
	r.pass(4 * time.Minute)
	if got := r.node("n1").Observed[inventory.AgentSource]; r.now().Sub(got.At) < inventory.Stale {
		t.Errorf("an agent is observed that is not there: %+v", got)
	}
	a, err := n.Address(t.Context())
	r.ok(err)
	r.answers("n1", true)
	r.get(a.String())
	r.round()
	if got := r.node("n1").Observed[inventory.AgentSource]; !got.OK || r.now().Sub(got.At) > time.Minute {
		t.Errorf("an installed system that calls: %+v", got)
	}
}
