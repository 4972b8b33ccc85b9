package inventory

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/testbed"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// seen is an observation that is a minute old and has been so for long.
func seen(ok bool, detail string, long time.Duration) Seen {
	return Seen{OK: ok, Detail: detail, At: noon.Add(-time.Minute), Since: noon.Add(-long)}
}

func TestAliveness(t *testing.T) {
	old := seen(true, "", time.Hour)
	old.At = noon.Add(-Stale)
	for _, c := range []struct {
		observed map[Source]Seen
		alive    bool
		reason   string
	}{
		{nil, false, "nothing was heard of it for 3m0s"},
		{map[Source]Seen{BMCSource: seen(true, "", 0)}, true, "bmc answers"},
		{map[Source]Seen{BMCSource: seen(false, "silent: no answer", 0)}, false, "bmc: silent: no answer"},
		{map[Source]Seen{BMCSource: seen(false, "silent", 0), NetworkSource: seen(true, "", 0)}, true, "network answers"},
		{map[Source]Seen{BMCSource: seen(false, "denied", 0), AgentSource: old}, false, "bmc: denied"},
	} {
		alive, reason := Aliveness(&Node{Observed: c.observed}, noon)
		if alive != c.alive || reason != c.reason {
			t.Errorf("%v: %v, %q; want %v, %q", c.observed, alive, reason, c.alive, c.reason)
		}
	}
}

// TestDefaultPolicy has a case for each rule, just before it counts and after.
func TestDefaultPolicy(t *testing.T) {
	good, bad := seen(true, "", time.Hour), func(d time.Duration) Seen { return seen(false, "", d) }
	silent := func(d time.Duration) Seen { return seen(false, "silent: no answer", d) }
	auto, lying, manual := &Aside{Owner: "imgpipe", Fault: testbed.Silent}, &Aside{Owner: "imgpipe", Fault: testbed.Unconfirmed}, &Aside{Owner: "eva"}
	type obs = map[Source]Seen
	for _, c := range []struct {
		name          string
		state         State
		wanted, power testbed.Power
		aside         *Aside
		observed      obs
		want          Action
		rule          int
	}{
		{"all is well", Available, testbed.Off, testbed.Off, nil, obs{BMCSource: good}, LeaveAlone, 0},
		{"nothing is known", Available, testbed.Off, testbed.Off, nil, nil, LeaveAlone, 0},
		{"on against its will", Available, testbed.Off, testbed.On, nil, obs{BMCSource: good}, SetPower, 1},
		{"nobody wants anything", Available, testbed.Unknown, testbed.On, nil, obs{BMCSource: good}, LeaveAlone, 0},
		{"switched off by itself", Testing, testbed.On, testbed.Off, nil, obs{BMCSource: good}, SetPower, 1},
		{"controller silent, machine well, not long", Testing, testbed.On, testbed.On, nil, obs{BMCSource: silent(time.Minute), NetworkSource: good}, PutAside, 3},
		{"controller silent, machine well", Testing, testbed.On, testbed.On, nil, obs{BMCSource: silent(time.Hour), NetworkSource: good}, Notify, 2},
		{"controller silent", Available, testbed.Off, testbed.Off, nil, obs{BMCSource: silent(time.Minute)}, PutAside, 3},
		{"still silent", Available, testbed.Off, testbed.Off, auto, obs{BMCSource: silent(time.Hour)}, LeaveAlone, 3},
		{"well again", Available, testbed.Off, testbed.Off, auto, obs{BMCSource: good}, Return, 0},
		{"it answers, and is still on", Cleaning, testbed.Off, testbed.On, lying, obs{BMCSource: good}, SetPower, 1},
		{"it is off at last", Cleaning, testbed.Off, testbed.Off, lying, obs{BMCSource: good}, Return, 0},
		{"well, but a person put it aside", Available, testbed.Off, testbed.On, manual, obs{BMCSource: good}, LeaveAlone, 0},
		{"denied", Available, testbed.Off, testbed.Off, nil, obs{BMCSource: seen(false, "denied: wrong password", 0)}, PutAside, 4},
		{"unconfirmed", Cleaning, testbed.Off, testbed.On, nil, obs{BMCSource: seen(false, "unconfirmed", 0)}, PutAside, 5},
		{"broken", Available, testbed.Off, testbed.On, nil, obs{BMCSource: seen(false, "broken", 0)}, PutAside, 6},
		{"hangs, not long", Testing, testbed.On, testbed.On, nil, obs{BMCSource: good, NetworkSource: bad(9 * time.Minute), AgentSource: bad(time.Hour)}, LeaveAlone, 0},
		{"hangs", Testing, testbed.On, testbed.On, nil, obs{BMCSource: good, NetworkSource: bad(11 * time.Minute), AgentSource: bad(time.Hour)}, Redeploy, 7},
		{"hangs while deploying", Deploying, testbed.On, testbed.On, nil, obs{BMCSource: good, NetworkSource: bad(time.Hour), AgentSource: bad(time.Hour)}, LeaveAlone, 0},
		{"ill", Testing, testbed.On, testbed.On, nil, obs{BMCSource: good, NetworkSource: good, AgentSource: good, HealthSource: bad(time.Hour)}, Notify, 8},
	} {
		n := &Node{State: c.state, Since: noon.Add(-time.Hour), Wanted: c.wanted, Power: c.power, Aside: c.aside, Observed: c.observed}
		if got := DefaultPolicy.Decide(n, noon); got.Do != c.want || got.Rule != c.rule || got.Reason == "" {
			t.Errorf("%s: %+v; want %s by rule %d", c.name, got, c.want, c.rule)
		}
	}
	for i, r := range DefaultPolicy {
		if err := r.check(); err != nil {
			t.Errorf("rule %d: %v", i+1, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	// The identifier of RFC 4193 is of the time and the machine.
	a, b := ULA(noon, []byte("a")), ULA(noon.Add(time.Nanosecond), []byte("a"))
	if a == b || a == ULA(noon, []byte("b")) || a != ULA(noon, []byte("a")) || a.Bits() != 48 || a.Addr().As16()[0] != 0xfd {
		t.Errorf("ULA: %v, %v", a, b)
	}
	v, _ := stocked(t)
	ctx := t.Context()
	small, err := v.Addresses(ctx, "small")
	ok(t, err)
	large, err := v.Addresses(ctx, "large")
	ok(t, err)
	if small.IPv4 != netip.MustParseAddr("10.77.0.50") || large.IPv4 != netip.MustParseAddr("10.77.0.51") {
		t.Errorf("addresses %v, %v", small.IPv4, large.IPv4)
	}
	if small.IPv6 == large.IPv6 || !small.Network.IPv6.Contains(small.IPv6) || !small.Network.IPv6.Contains(large.IPv6) {
		t.Errorf("addresses %v, %v in %v", small.IPv6, large.IPv6, small.Network.IPv6)
	}
	// Another network before it in the file, and the file read again.
	f, err := parse(t, sample)
	ok(t, err)
	f.Networks = append([]NetworkSpec{{Name: "other", IPv4: "10.78.0.0/24", First: "10.78.0.2", Last: "10.78.0.9", IPv6: "fd00:1::/48"},
		{Name: "third", IPv4: "10.79.0.0/24", First: "10.79.0.2", Last: "10.79.0.9"}}, f.Networks...)
	ok(t, v.Apply(ctx, f, "op"))
	again, err := v.Addresses(ctx, "small")
	ok(t, err)
	if diff := cmp.Diff(fmt.Sprint(small), fmt.Sprint(again)); diff != "" {
		t.Errorf("the addresses have changed:\n%s", diff)
	}
	for i := range 3 {
		_, err = v.Discover(ctx, []byte{2, 0, 0, 0, 0, byte(i)}, "lab")
		ok(t, err)
		_, err = v.Addresses(ctx, fmt.Sprintf("node-02000000000%d", i))
	}
	if err == nil {
		t.Error("five nodes have three addresses")
	}
}

// TestTaskRules has tasks on nodes that live and die in any order: what waits for
// a dead node is blocked, and nothing else.
func TestTaskRules(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		alive := map[string]bool{"a": true, "b": true, "c": true, "d": true}
		var tasks []*Task
		for id := int64(1); id <= 12; id++ {
			k := &Task{ID: id, State: TaskTodo, Node: rapid.SampledFrom([]string{"", "a", "b", "c", "d"}).Draw(r, "node")}
			for n := int64(1); n < id; n++ {
				if rapid.IntRange(0, 3).Draw(r, "needs") == 0 {
					k.Needs = append(k.Needs, n)
				}
			}
			tasks = append(tasks, k)
		}
		done := map[int64]bool{}
		for range 60 {
			if rapid.IntRange(0, 5).Draw(r, "kill") == 0 {
				n := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(r, "victim")
				alive[n] = !alive[n]
			}
			why := Blocked(tasks, alive)
			for _, k := range tasks {
				switch {
				case why[k.ID] != "":
					k.State = TaskBlocked
				case k.State == TaskBlocked:
					k.State = TaskTodo
				}
				if k.State == TaskRunning && rapid.Bool().Draw(r, "ends") {
					k.State, done[k.ID] = TaskDone, true
				}
				waits := slices.ContainsFunc(k.Needs, func(n int64) bool { return !done[n] })
				switch {
				case k.State == TaskTodo && k.Node != "" && !alive[k.Node]:
					r.Fatalf("task %d may begin on a dead node", k.ID)
				case k.State == TaskBlocked && (k.Node == "" || alive[k.Node]) && !waits:
					r.Fatalf("task %d waits for nothing", k.ID)
				case k.State == TaskTodo && !waits && rapid.Bool().Draw(r, "begins"):
					k.State = TaskRunning
				}
			}
		}
	})
}

// The time that a rule wants begins anew when a fault becomes another.
func TestFaultChanges(t *testing.T) {
	v, clock := stocked(t)
	ctx := t.Context()
	p := Policy{{BMC: "silent", For: Duration(5 * time.Minute), Do: PutAside}, {BMC: "denied", For: Duration(5 * time.Minute), Do: Notify}}
	for _, c := range []struct {
		detail string
		want   Action
	}{
		{"denied: wrong password", LeaveAlone},
		{"denied: no such user", LeaveAlone},
		{"denied: wrong password", LeaveAlone},
		{"denied: wrong password", Notify}, // what is said of the fault does not count
		{"silent: no answer", LeaveAlone},
		{"silent: no answer", LeaveAlone},
		{"silent: no answer", LeaveAlone},
		{"silent: no answer", PutAside},
		{"denied: wrong password", LeaveAlone},
	} {
		ok(t, v.Observe(ctx, "small", Observation{Source: BMCSource, Detail: c.detail}))
		n, err := v.Node(ctx, "small")
		ok(t, err)
		if d := p.Decide(n, clock.now()); d.Do != c.want {
			t.Errorf("%s since %v: %+v; want %s", c.detail, n.Observed[BMCSource].Since, d, c.want)
		}
		clock.add(2 * time.Minute)
	}
}
