package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/evidence"
	"goldsmith/internal/machineapi"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/machinetest"
	"goldsmith/testbed/metal"
	"goldsmith/testbed/netboot"
)

// metalPlace leases servers of the inventory for a stage.
type metalPlace struct {
	env  Env
	with *machineWith
	keys []string // PEM

	ramdisk *metal.Ramdisk // nil: the site's
}

func newMetalPlace(env Env, w *machineWith, bad func(key, format string, args ...any) error) (place, error) {
	p := &metalPlace{env: env, with: w}
	switch {
	case w.Finish != "" && w.Finish != string(deploy.Reboot) && w.Finish != string(deploy.Kexec):
		return nil, bad("finish", "with.finish %q: expected reboot or kexec", w.Finish)
	case w.URI != "" || w.Listen != "" || w.CPUs != 0 || w.Memory != 0 || w.Firmware != "":
		return nil, bad("machine", "with.uri, listen, firmware, cpus and memory are for virtual machines; with.node says what a server must be")
	}
	if w.Ramdisk != "" {
		r := metal.RamdiskAt(env.path(w.Ramdisk))
		p.ramdisk = &r
	}
	w.Namespace = env.path(w.Namespace)
	for _, k := range w.Keys {
		text, err := os.ReadFile(env.path(k))
		if err != nil {
			return nil, bad("keys", "%v", err)
		}
		p.keys = append(p.keys, string(text))
	}
	return p, nil
}

func (p *metalPlace) check(context.Context) error {
	if p.env.Store != nil && p.env.DB == nil {
		return command.Missing(errors.New("machines of metal: this worker has no inventory"), "let the server's own worker take the stage: it may have a capability that the stage requires")
	}
	if err := netboot.Allowed(); err != nil {
		return err
	}
	if p.ramdisk == nil {
		return nil // the server's; without one the site is not opened
	}
	return p.ramdisk.Check()
}

func (p *metalPlace) open(context.Context, *pipeline.Job) (bench, error) {
	return &metalBench{metalPlace: p, inventory: inventory.New(p.env.DB)}, nil
}

// metalBench is a site, which others may use, too.
type metalBench struct {
	*metalPlace
	inventory *inventory.Inventory
	site      *metal.Use
}

func (b *metalBench) network() testbed.Network { return b.site.Where() }

// serve opens the site, unless this process serves it already, after other
// processes that do. Meanwhile its nodes are looked after: those that are new are
// inspected, those that others gave back are cleaned.
func (b *metalBench) serve(ctx context.Context) (*machineapi.Server, error) {
	c := metal.Config{Inventory: b.inventory, Network: b.with.Network, Dir: b.env.Store.Metal(), Cmdline: b.with.Cmdline,
		Images: b.env.Store.Images.Dir(), Notify: b.with.Notify}
	if b.ramdisk != nil {
		c.Ramdisk = *b.ramdisk
	}
	for {
		var err error
		b.site, err = b.env.Sites.Use(ctx, c, b.with.Namespace)
		if err == nil {
			return b.site.API(), nil
		}
		if command.Status(err) != command.StatusBusy || errors.Is(err, metal.ErrLasting) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(askEvery):
		}
	}
}

// askEvery is how often something is asked for that others have.
const askEvery = 2 * time.Second

func (b *metalBench) install(ctx context.Context, o order) (machine, error) {
	n, err := b.acquire(ctx, o)
	if err != nil {
		return nil, err
	}
	m, err := b.begin(ctx, n, o)
	if err != nil {
		return nil, errors.Join(err, n.Release(ctx))
	}
	if err := m.renew(ctx, o); err != nil {
		return nil, errors.Join(err, m.Release(ctx))
	}
	return m, nil
}

// renew implements renewable: an image is written to the node, whatever was on it
// before.
func (m *leased) renew(ctx context.Context, o order) error {
	n := m.Node
	fmt.Fprintf(o.Job.Log, "node %s; its agent's log: %s\n", n.Name(), n.AgentLog())
	name := "deploy to " + n.Name()
	step := o.Job.Progress.Start(name)
	agent := newAgentSteps(o.Job.Progress.Within(name), o.Job.Log)
	d := m.how
	d.Image, d.Seed, d.Step = o.Image.Digest, o.Seed, agent.event
	err := n.Deploy(ctx, d)
	step.Done(err, "")
	return err
}

// maxAgentEvents is how many events of an agent are shown and kept in the log: it
// may be anybody who got hold of the machine.
const maxAgentEvents = 1000

// agentSteps shows how the agent's steps go.
type agentSteps struct {
	progress *command.Progress
	log      io.Writer
	steps    map[string]*command.Step // that go on, by name
	events   int                      // so many came, but for progress
}

func newAgentSteps(p *command.Progress, log io.Writer) *agentSteps {
	return &agentSteps{progress: p, log: log, steps: map[string]*command.Step{}}
}

// event is called by one goroutine at a time.
func (a *agentSteps) event(e deploy.Event) {
	step := a.steps[e.Step] // nil: it began before we listened, or too late
	if e.State == deploy.Progress {
		if step != nil {
			step.Part(e.Done, e.Total)
		}
		return
	}
	if step != nil {
		step.Done(ended(e), "")
		delete(a.steps, e.Step)
	}
	if a.events++; a.events > maxAgentEvents {
		if a.events == maxAgentEvents+1 {
			fmt.Fprintln(a.log, "deploy: the agent says more, which is not shown")
		}
		return
	}
	if e.State == deploy.Begin {
		a.steps[e.Step] = a.progress.Start(e.Step)
	}
	text := ""
	if e.Error != "" {
		text = " " + machinetest.OneLine(e.Error)
	}
	fmt.Fprintf(a.log, "deploy %s %s%s\n", e.Step, e.State, text)
}

// ended is the error with which a step ended.
func ended(e deploy.Event) error {
	switch e.State {
	case deploy.Failed:
		return errors.New(e.Error)
	case deploy.Begin:
		return errors.New("it was begun anew")
	}
	return nil
}

// leased is a node on which the stage's task is done: the only one there.
type leased struct {
	*metal.Node
	inventory *inventory.Inventory
	how       metal.Deployment // of any image
	task      int64
	ended     sync.Once
}

// begin says that the stage's task is done on the node.
func (b *metalBench) begin(ctx context.Context, n *metal.Node, o order) (*leased, error) {
	m := &leased{Node: n, inventory: b.inventory, task: o.Job.Task,
		how: metal.Deployment{Finish: deploy.Finish(b.with.Finish), Keys: b.keys, Ramdisk: b.ramdisk}}
	return m, b.inventory.Bind(ctx, m.task, n.Lease())
}

// describe implements described.
func (m *leased) describe(ctx context.Context) evidence.Machine {
	e := evidence.Machine{Driver: "metal", Name: m.Name()}
	if n, err := m.inventory.Node(context.WithoutCancel(ctx), m.Name()); err == nil {
		e.Firmware = string(n.Spec.Firmware)
	}
	return e
}

// Release implements testbed.Machine: the task has no node any more.
func (m *leased) Release(ctx context.Context) error {
	var err error
	m.ended.Do(func() { err = m.inventory.Unbind(context.WithoutCancel(ctx), m.task, m.Lease()) })
	return errors.Join(err, m.Node.Release(ctx))
}

// acquire waits for a node as long as waiting can help.
func (b *metalBench) acquire(ctx context.Context, o order) (*metal.Node, error) {
	holder := fmt.Sprintf("run %s, stage %s", o.Job.Run, o.Job.Stage)
	step := o.Job.Progress.Start("get a node")
	wish := b.with.Node
	if o.Updates {
		wish.Boot = inventory.BootLocal
	}
	for {
		n, err := b.site.Acquire(ctx, wish, holder)
		var no *inventory.Refused
		if err == nil {
			step.Done(nil, n.Name())
			return n, nil
		}
		if !errors.As(err, &no) || !no.Waiting() {
			step.Done(err, "")
			return nil, err
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
			step.Done(err, "")
			return nil, err
		case <-time.After(askEvery):
		}
	}
}

func (b *metalBench) close() error {
	if b.site == nil {
		return nil
	}
	return b.site.Close()
}
