package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/internal/testenv"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
)

// crowd is how many runs TestMany has: GOLDSMITH_RUNS, or few.
func crowd(t testing.TB) int {
	if s := os.Getenv("GOLDSMITH_RUNS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testenv.Race {
		return 2 // 40 tasks for 16 hands
	}
	return 6
}

const (
	perRun    = 20
	nodeCount = 30
	capacity  = 10
)

// lattice is a pipeline of 20 stages that need up to two earlier ones each.
func lattice(seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	b.WriteString("stages:\n")
	for i := range perRun {
		var needs []string
		for range min(i, 1+r.IntN(2)) {
			needs = append(needs, fmt.Sprintf("s%d", r.IntN(i)))
		}
		if len(needs) == 2 && needs[0] == needs[1] {
			needs = needs[:1]
		}
		fmt.Fprintf(&b, "  - {name: s%d, uses: work, needs: [%s], retry: {infra: 10}}\n", i, strings.Join(needs, ", "))
	}
	return b.String()
}

// yard is simulated nodes of an inventory, and what must hold of them.
type yard struct {
	t     *testing.T
	nodes *inventory.Inventory

	mu      sync.Mutex
	at      map[string]int64 // node → attempt that works on it
	working int
	most    int
	passed  map[string]bool // "run/stage"
	again   int             // finished steps that were done again
	faults  *rand.Rand
	faulty  int
}

// TestMany has many runs at once over simulated nodes, with faults: no task
// before what it needs, never two on a node, never more than the cap.
func TestMany(t *testing.T) {
	for _, kind := range []string{"sqlite", "postgresql"} {
		t.Run(kind, func(t *testing.T) {
			db := storetest.Open(t, storetest.Where(t, kind))
			many(t, db)
		})
	}
}

func many(t *testing.T, db *store.DB) {
	f := open(t, db.Where())
	y := &yard{t: t, nodes: inventory.New(f.engine.Store()), at: map[string]int64{}, passed: map[string]bool{}, faults: rand.New(rand.NewPCG(7, 7))}
	y.stock()
	runs := crowd(t)
	needs := map[int64]map[string][]string{}
	var all []int64
	cpu := cpuSeconds()
	start := time.Now()
	f.work = y.work(needs)
	for i := range runs {
		text := lattice(uint64(i))
		p := parse(t, text)
		id := f.submit(text)
		needs[id] = map[string][]string{}
		for _, s := range p.Stages {
			needs[id][s.Name] = s.Needs
		}
		all = append(all, id)
	}
	f.hire("w1", 8)
	f.hire("w2", 8)
	for _, id := range all {
		if r := f.ended(id, 20*time.Minute); r.Status != pipeline.Passed {
			t.Errorf("%s: %s", stages(r), r.Reason)
		}
	}
	took := time.Since(start)
	y.mu.Lock()
	defer y.mu.Unlock()
	tasks := runs * perRun
	if y.most > capacity || len(y.passed) != tasks || y.again > 0 {
		t.Errorf("at most %d at once, %d of %d tasks passed, %d done again", y.most, len(y.passed), tasks, y.again)
	}
	t.Logf("%d runs of %d tasks on %d nodes, %d faults: %s, %.1f ms a task, %.1f ms of CPU a task, at most %d at once",
		runs, perRun, nodeCount, y.faulty, took.Round(time.Millisecond), 1000*took.Seconds()/float64(tasks), 1000*(cpuSeconds()-cpu)/float64(tasks), y.most)
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

func (y *yard) stock() {
	y.t.Helper()
	text := "apiVersion: goldsmith/v1\ncap: " + strconv.Itoa(capacity) + "\nnetworks:\n  - {name: lab, ipv4: 10.77.0.0/24, first: 10.77.0.50, last: 10.77.0.99}\nnodes:\n"
	for i := range nodeCount {
		text += fmt.Sprintf("  - {name: n%d, cpus: 2, memory: 4Gi, disks: [10G], macs: ['52:54:00:77:01:%02x'], bmc: {driver: ipmi, address: 127.0.0.1, user: u, password-file: pw}}\n", i, i)
	}
	file := filepath.Join(y.t.TempDir(), "inventory.yaml")
	ctx := y.t.Context()
	err := os.WriteFile(file, []byte(text), 0o600)
	if err == nil {
		var f *inventory.File
		if f, err = inventory.Load(file); err == nil {
			err = y.nodes.Apply(ctx, f, "test")
		}
	}
	for i := range nodeCount {
		if err == nil {
			err = y.ready(ctx, fmt.Sprintf("n%d", i))
		}
	}
	if err != nil {
		y.t.Fatal(err)
	}
}

// ready has a new node inspected and allowed.
func (y *yard) ready(ctx context.Context, name string) error {
	if err := y.nodes.Observe(ctx, name, inventory.Observation{Source: inventory.BMCSource, OK: true, Power: testbed.Off}); err != nil {
		return err
	}
	if err := y.nodes.Allow(ctx, name, "test"); err != nil {
		return err
	}
	l, err := y.nodes.Borrow(ctx, name, "inspecting")
	if err != nil {
		return err
	}
	found := `{"arch":"amd64","cpu":{"count":2},"memory":4294967296,"disks":[{"size":10000000000}]}`
	return errors.Join(y.nodes.SetHardware(ctx, l, []byte(found)), y.nodes.End(ctx, l))
}

// giveBack ends a lease and has the node cleaned.
func (y *yard) giveBack(ctx context.Context, l *inventory.Lease) error {
	if err := y.nodes.End(ctx, l); err != nil {
		return err
	}
	c, err := y.nodes.Borrow(ctx, l.Node, "cleaning")
	if err != nil {
		return err
	}
	return errors.Join(y.nodes.Cleaned(ctx, c, ""), y.nodes.End(ctx, c),
		y.nodes.Observe(ctx, l.Node, inventory.Observation{Source: inventory.BMCSource, OK: true, Power: testbed.Off}))
}

// work is what a stage does: it has what it needs, a node of its own, and
// sometimes a fault.
func (y *yard) work(needs map[int64]map[string][]string) func(context.Context, *Assignment) Result {
	return func(ctx context.Context, a *Assignment) Result {
		l, err := y.nodes.Acquire(ctx, inventory.Request{}, a.Stage)
		if err != nil {
			return Result{State: pipeline.Failed, Class: "unknown", Reason: err.Error()}
		}
		if err := y.nodes.Bind(ctx, a.Task, l); err != nil {
			return Result{State: pipeline.Failed, Class: "unknown", Reason: err.Error()}
		}
		fault := y.begin(a, l.Node, needs[a.Run][a.Stage])
		time.Sleep(30 * time.Millisecond)
		y.mu.Lock()
		delete(y.at, l.Node)
		y.working--
		if !fault {
			y.passed[fmt.Sprintf("%d/%s", a.Run, a.Stage)] = true
		}
		y.mu.Unlock()
		if err := y.nodes.Unbind(ctx, a.Task, l); err != nil {
			y.t.Error(err)
		}
		if err := y.giveBack(ctx, l); err != nil {
			y.t.Error(err)
		}
		if fault {
			return Result{State: pipeline.Failed, Class: ClassInfra, Reason: "injected"}
		}
		return Result{State: pipeline.Passed}
	}
}

func (y *yard) begin(a *Assignment, node string, needs []string) (fault bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, n := range needs {
		if !y.passed[fmt.Sprintf("%d/%s", a.Run, n)] {
			y.t.Errorf("run %d: %s begins before %s passed", a.Run, a.Stage, n)
		}
	}
	if y.passed[fmt.Sprintf("%d/%s", a.Run, a.Stage)] {
		y.again++
	}
	if other := y.at[node]; other != 0 {
		y.t.Errorf("%s has attempts %d and %d", node, other, a.Attempt)
	}
	y.at[node] = a.Attempt
	y.working++
	y.most = max(y.most, y.working)
	fault = y.faults.IntN(100) < 5
	if fault {
		y.faulty++
	}
	return fault
}

// What the engine itself costs: stages that do nothing, without nodes.
func BenchmarkTasks(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgresql"} {
		b.Run(kind, func(b *testing.B) {
			f := open(b, storetest.Where(b, kind))
			f.hire("w1", 4)
			cpu := cpuSeconds()
			n := 0
			for b.Loop() {
				var all []int64
				for i := range 5 {
					all = append(all, f.submit(lattice(uint64(i))))
				}
				for _, id := range all {
					f.ended(id, time.Minute)
				}
				n += 5 * perRun
			}
			b.ReportMetric(1000*b.Elapsed().Seconds()/float64(n), "ms/task")
			b.ReportMetric(1000*(cpuSeconds()-cpu)/float64(n), "CPU-ms/task")
		})
	}
}

// What the engine costs while nothing happens.
func BenchmarkIdle(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgresql"} {
		b.Run(kind, func(b *testing.B) {
			f := open(b, storetest.Where(b, kind))
			f.hire("w1", 4)
			time.Sleep(2 * time.Second)
			cpu := cpuSeconds()
			start := time.Now()
			for b.Loop() {
				time.Sleep(10 * time.Second)
			}
			b.ReportMetric(100*(cpuSeconds()-cpu)/time.Since(start).Seconds(), "%CPU")
		})
	}
}
