package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/command"
	machineseed "goldsmith/internal/seed"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/lan"
	servers "goldsmith/testbed/metal"
)

// metalWorker is the variable that makes this program the one that is killed:
// "DIR NAMESPACE JOBS".
const metalWorker = "GOLDSMITH_TEST_METAL_WORKER"

// TestMetalWorker is no test: it does what 'imgpipe serve' does of servers' runs,
// until it is killed. It serves a site, looks after its nodes and after runs, and
// works on so many stages at a time, each on a node of its own.
func TestMetalWorker(t *testing.T) {
	var dir, ns string
	var jobs int
	if _, err := fmt.Sscan(os.Getenv(metalWorker), &dir, &ns, &jobs); err != nil {
		t.Skip("a part of TestTortureMetal")
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	ctx := t.Context()
	must := func(err error) {
		if err != nil {
			fmt.Println("worker:", err)
			os.Exit(1)
		}
	}
	db, err := store.Open(ctx, filepath.Join(dir, "imgpipe.db"))
	must(err)
	kernel := filepath.Join(dir, "linux")
	sites, v := &servers.Sites{}, inventory.New(db)
	site, err := sites.Use(ctx, servers.Config{Inventory: v, Dir: filepath.Join(dir, "metal"),
		Ramdisk: servers.Ramdisk{Kernel: kernel, Initrd: kernel}, Images: dir, Lasting: true}, ns)
	must(err)
	fmt.Println("ready")
	if jobs == 0 {
		select {}
	}
	e := engine.New(db)
	_, err = engine.StartDispatcher(ctx, e)
	must(err)
	w := &engine.Worker{Info: engine.WorkerInfo{Name: "server", Slots: jobs}, Hub: e, Work: func(ctx context.Context, a *engine.Assignment, _ *command.Meter) engine.Result {
		err := stage(ctx, site.Site, v, a)
		if err == nil {
			return engine.Result{State: pipeline.Passed}
		}
		fmt.Println("stage:", strings.ReplaceAll(err.Error(), "\n", ";"))
		return engine.Result{State: pipeline.Failed, Reason: err.Error()}
	}}
	must(w.Run(ctx, ctx))
}

// stage deploys to a node, has it for a while, and gives it back.
func stage(ctx context.Context, site *servers.Site, v *inventory.Inventory, a *engine.Assignment) error {
	n, err := site.Acquire(ctx, inventory.Request{}, fmt.Sprintf("run %d, stage %s", a.Run, a.Stage))
	for r := new(inventory.Refused); errors.As(err, &r) && r.Waiting() && ctx.Err() == nil; {
		time.Sleep(100 * time.Millisecond)
		n, err = site.Acquire(ctx, inventory.Request{}, "a stage")
	}
	if err != nil {
		return err
	}
	if err = v.Bind(ctx, a.Task, n.Lease()); err == nil {
		err = n.Deploy(ctx, servers.Deployment{Image: "sha256:" + strings.Repeat("a", 64), Seed: machineseed.Seed{InstanceID: "i", Hostname: "h"}})
	}
	if err == nil {
		time.Sleep(300 * time.Millisecond)
		err = v.Unbind(ctx, a.Task, n.Lease())
	}
	return errors.Join(err, n.Release(ctx))
}

// metalRun is a run of the torture: its last stage needs the others.
const metalRun = `apiVersion: goldsmith/v1
name: servers
defaults: {retry: {infra: 3}}
stages:
- {name: a, uses: server, needs: []}
- {name: b, uses: server, needs: []}
- {name: c, uses: server, needs: [a, b]}
`

// submit makes runs.
func (m *metalTorture) submit(n int) {
	m.t.Helper()
	file := filepath.Join(m.dir, "run.yaml")
	p, err := pipeline.Parse(file, []byte(metalRun), nil, []string{"server"})
	m.ok(err)
	for range n {
		_, err := m.engine.Submit(m.t.Context(), engine.Submission{Pipeline: p, File: file, Author: "test", Actor: "test"})
		m.ok(err)
	}
}

// finish has a worker bring all runs to their end, and looks at how they went.
func (m *metalTorture) finish() {
	m.t.Helper()
	stop := m.start(3)
	defer stop()
	var runs []*pipeline.Run
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		var err error
		runs, err = m.engine.Runs(m.t.Context(), 1000)
		m.ok(err)
		going := slices.IndexFunc(runs, func(r *pipeline.Run) bool { return r.Status == pipeline.Running })
		if going < 0 {
			break
		}
		if time.Since(began) > settleLimit+time.Duration(len(runs))*10*time.Second {
			m.t.Fatalf("run %s does not end: %s", runs[going].ID, statuses(runs[going]))
		}
	}
	attempts := 0
	for _, r := range runs {
		if r.Status != pipeline.Passed {
			m.t.Errorf("run %s: %s: %s", r.ID, statuses(r), r.Reason)
		}
	}
	err := m.db.View(m.t.Context(), func(tx *store.Tx) error {
		var twice int
		err := tx.QueryRow(m.t.Context(), "SELECT COUNT(*) FROM (SELECT task FROM attempt WHERE state = 'passed' GROUP BY task HAVING COUNT(*) > 1)").Scan(&twice)
		if twice > 0 {
			m.t.Errorf("%d stages passed twice", twice)
		}
		return errors.Join(err, tx.QueryRow(m.t.Context(), "SELECT COUNT(*) FROM attempt").Scan(&attempts))
	})
	m.ok(err)
	m.t.Logf("%d runs of 3 stages passed, in %d attempts", len(runs), attempts)
}

// metalTorture kills workers.
type metalTorture struct {
	*rack
	engine *engine.Engine
	rnd    *rand.Rand
	caught map[inventory.State]int // states that nodes were in when a worker died
	slow   time.Duration           // the longest from the last kill until all was well
	most   int                     // sessions that a controller had at a time
}

// The process that serves servers can be killed at any moment.
func TestKilledMetal(t *testing.T) {
	need(t, true)
	killMetal(t, 2)
}

func TestTortureMetal(t *testing.T) {
	killMetal(t, rounds(t))
}

func killMetal(t *testing.T, n int) {
	m := &metalTorture{rack: newRack(t, 3), rnd: rand.New(rand.NewPCG(*seed, 3)), caught: map[inventory.State]int{}}
	m.engine = engine.New(m.db)
	m.settle() // inspected
	m.submit(n)
	for i := range n {
		m.kill(3)
		if i%10 == 9 || i == n-1 {
			m.settle()
		}
	}
	m.finish()
	m.settle()
	m.history()
	t.Logf("%d kills; nodes were %v then; %d agents were started, %d deployments ended; all was well again within %v; %d sessions with a controller at most", n, m.caught,
		m.agents.Load(), m.deployed.Load(), m.slow.Round(time.Second), m.most)
	for _, s := range []inventory.State{inventory.Deploying, inventory.Testing, inventory.Cleaning} {
		if n >= 50 && m.caught[s] == 0 {
			t.Errorf("no kill hit a node that was %s", s)
		}
	}
}

// start starts a worker and returns when it serves; stop kills it.
func (m *metalTorture) start(jobs int) (stop func()) {
	m.t.Helper()
	began := time.Now()
	self, err := os.Executable()
	m.ok(err)
	cmd := exec.Command(self, "-test.run", "^TestMetalWorker$", "-test.v")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", metalWorker, m.dir, m.namespace(), jobs))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A parent-death signal is the thread's, and threads of the network end: the
	// worker ends with its standard input instead.
	_, err = cmd.StdinPipe()
	m.ok(err)
	out, err := cmd.StdoutPipe()
	m.ok(err)
	m.ok(cmd.Start())
	ready := make(chan bool, 1)
	var said []string
	var reading sync.WaitGroup
	reading.Go(func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			if s.Text() == "ready" {
				ready <- true
			} else if strings.HasPrefix(s.Text(), "stage:") || strings.HasPrefix(s.Text(), "worker:") {
				said = append(said, s.Text())
			}
		}
		ready <- false
	})
	stop = func() {
		_ = cmd.Process.Kill()
		reading.Wait()
		_ = cmd.Wait()
		if err := syscall.Kill(-cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			m.t.Errorf("processes of the worker are left: %v", err)
		}
		for _, s := range said {
			m.t.Error(s)
		}
	}
	if !<-ready {
		stop()
		m.t.Fatal("the worker ended")
	}
	for _, n := range m.nodes() {
		if n.Lease != nil && n.Lease.Granted.Before(began.Add(-time.Second)) {
			m.t.Errorf("a lease of a worker that is dead: %+v", n.Lease)
		}
	}
	return stop
}

// kill lets a worker work for a random time, and looks at what it leaves.
func (m *metalTorture) kill(jobs int) {
	m.t.Helper()
	stop := m.start(jobs)
	time.Sleep(time.Duration(m.rnd.Int64N(int64(6 * time.Second))))
	stop()
	for _, b := range m.boxes {
		m.most = max(m.most, b.bmc.Sessions())
	}
	if m.rnd.IntN(4) == 0 { // controllers restart, too
		m.forgetSessions()
	}
	for _, n := range m.nodes() {
		m.caught[n.State]++
		if n.Lease != nil && n.Lease.Expires.After(time.Now().Add(inventory.LeaseTime)) {
			m.t.Errorf("a lease that is too long: %+v", n.Lease)
		}
	}
}

// settleLimit bounds how long it takes until all is well.
const settleLimit = 2 * time.Minute

// settle has a worker without jobs bring everything to an end.
func (m *metalTorture) settle() {
	m.t.Helper()
	began := time.Now()
	stop := m.start(0)
	var why []string
	for time.Since(began) < settleLimit {
		if why = m.unsettled(); why == nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	stop()
	if why != nil {
		events, _ := m.v.Events(m.t.Context(), "", 60)
		text, _ := json.MarshalIndent(events, "", " ")
		m.t.Fatalf("not within %v: %s\n%s", settleLimit, strings.Join(why, "; "), text)
	}
	m.slow = max(m.slow, time.Since(began))
	m.leftovers()
}

// unsettled says what is not at its end, by the database and by the machines.
func (m *metalTorture) unsettled() (why []string) {
	for _, n := range m.nodes() {
		p, err := m.boxes[n.Name].Power(m.t.Context())
		if n.State != inventory.Available || n.Lease != nil || n.Aside != nil || err != nil || p != testbed.Off || n.Wanted != testbed.Off ||
			n.Image != "" || len(n.Deployment) > 0 {
			why = append(why, fmt.Sprintf("%s: %s %s, power %v, wanted %v, lease %v, aside %v, image %q", n.Name, n.State, n.Reason, p, n.Wanted, n.Lease, n.Aside, n.Image))
		}
		// A keeper has one. What dead processes left is ended, and not waited for.
		if s := m.boxes[n.Name].bmc.Sessions(); s > 1 {
			why = append(why, fmt.Sprintf("%s: %d sessions with its controller", n.Name, s))
		}
	}
	return why
}

// leftovers finds files that no worker needs.
func (m *metalTorture) leftovers() {
	m.t.Helper()
	sessions := 0
	m.ok(filepath.WalkDir(filepath.Join(m.dir, "metal"), func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil || d.IsDir():
		case filepath.Base(filepath.Dir(path)) == "sessions": // of the worker that was killed last: the next one ends it
			sessions++
		case name != "lock-lab" && name != "console.log" && name != "agent.log":
			m.t.Errorf("%s is left", path)
		}
		return err
	}))
	if sessions > len(m.boxes) {
		m.t.Errorf("%d sessions are noted as open, with %d controllers", sessions, len(m.boxes))
	}
	m.ok(m.lan.Do(m.sockets))
	mounts, err := os.ReadFile("/proc/self/mounts")
	m.ok(err)
	if strings.Contains(string(mounts), m.dir) {
		m.t.Errorf("mounts are left:\n%s", mounts)
	}
}

// sockets finds what a worker left in the network: there are the controllers'
// sockets, and no card but the bridge.
func (m *metalTorture) sockets() error {
	const listening = "0A"
	for name, want := range map[string]int{"udp": len(m.boxes), "udp6": 0, "raw": 0, "raw6": 0, "packet": 0, "tcp": 0, "tcp6": 0} {
		text, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			return err
		}
		n := 0
		for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
			if f := strings.Fields(line); !strings.HasPrefix(name, "tcp") || len(f) > 3 && f[3] == listening {
				n++
			}
		}
		if n != want {
			m.t.Errorf("%d sockets are left in %s; want %d:\n%s", n, name, want, text)
		}
	}
	links, err := net.Interfaces()
	for _, l := range links {
		if l.Name != "lo" && l.Name != lan.Bridge {
			m.t.Errorf("network device %s is left", l.Name)
		}
	}
	return err
}

// history checks that no node was ever in two hands: leases by fence do not
// overlap, nor do the agents that machines ran.
func (m *metalTorture) history() {
	m.t.Helper()
	events, err := m.v.Events(m.t.Context(), "", 1_000_000)
	m.ok(err)
	open, fences := map[string]bool{}, map[string]int64{}
	for _, e := range events {
		if e.Kind != "lease" {
			continue
		}
		var fence int64
		_, number, granted := strings.Cut(e.What, "granted, fence ")
		if _, err := fmt.Sscan(number, &fence); granted && (err != nil || open[e.Node] || fence <= fences[e.Node]) {
			m.t.Errorf("node %s: %s (%v), and it was leased %v, fence %d", e.Node, e.What, err, open[e.Node], fences[e.Node])
		}
		open[e.Node] = granted
		if granted {
			fences[e.Node] = fence
		}
	}
	if n := m.twice.Load(); n > 0 {
		m.t.Errorf("%d times two agents worked on one machine", n)
	}
	m.t.Logf("leases by node: %v", fences)
}
