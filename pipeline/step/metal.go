package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/evidence"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/machinetest"
	"goldsmith/testbed/metal"
)

// metalPlace leases servers of the inventory for a stage.
type metalPlace struct {
	env  Env
	with *machineWith
	keys []string // PEM
}

func newMetalPlace(env Env, w *machineWith, bad func(key, format string, args ...any) error) (place, error) {
	p := &metalPlace{env: env, with: w}
	beside := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(filepath.Dir(env.File), path)
	}
	switch {
	case w.Ramdisk == "":
		return nil, bad("ramdisk", "with.ramdisk is missing: where imgbuild wrote the deploy ramdisk, without .vmlinuz")
	case w.Finish != "" && w.Finish != string(deploy.Reboot) && w.Finish != string(deploy.Kexec):
		return nil, bad("finish", "with.finish %q: expected reboot or kexec", w.Finish)
	case w.URI != "" || w.Listen != "" || w.CPUs != 0 || w.Memory != 0 || w.Firmware != "":
		return nil, bad("machine", "with.uri, listen, firmware, cpus and memory are for virtual machines; with.node says what a server must be")
	}
	w.Ramdisk = beside(w.Ramdisk)
	if w.Namespace != "" {
		w.Namespace = beside(w.Namespace)
	}
	for _, k := range w.Keys {
		text, err := os.ReadFile(beside(k))
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
	if os.Geteuid() != 0 {
		return command.Missing(errors.New("machines of metal: DHCP and TFTP need root"), "run as root")
	}
	for _, ending := range []string{".vmlinuz", ".initrd"} {
		if _, err := os.Stat(p.with.Ramdisk + ending); err != nil {
			return command.BadInput(fmt.Errorf("deploy ramdisk: %w", err), "'imgbuild build' makes it of an image with the output deploy-ramdisk")
		}
	}
	return nil
}

func (p *metalPlace) open(_ context.Context, _ *pipeline.Job) (bench, error) {
	b := &metalBench{metalPlace: p, inventory: inventory.New(p.env.DB), where: testbed.Host{}}
	if p.with.Namespace != "" {
		ns, err := testbed.NamespaceAt(p.with.Namespace)
		if err != nil {
			return nil, err
		}
		b.where, b.closeWhere = ns, ns.Close
	}
	return b, nil
}

// metalBench is a site that is served for one stage.
type metalBench struct {
	*metalPlace
	inventory  *inventory.Inventory
	where      testbed.Network
	closeWhere func() error // nil: nothing is to be closed
	site       *metal.Site
	stop       context.CancelFunc
	keeper     sync.WaitGroup
}

func (b *metalBench) network() testbed.Network { return b.where }

// serve opens the site. It looks after its nodes meanwhile: those that are new
// are inspected, those that others gave back are cleaned.
func (b *metalBench) serve(ctx context.Context, h http.Handler) (string, error) {
	if err := b.openSite(ctx, h); err != nil {
		return "", err
	}
	var keep context.Context
	keep, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	k := b.site.NewKeeper()
	if err := k.Survey(ctx); err != nil { // what was observed long ago says nothing
		return "", err
	}
	b.keeper.Go(func() { k.Run(keep) })
	return b.site.URL(), nil
}

// openSite opens the site, after other stages that use it.
func (b *metalBench) openSite(ctx context.Context, h http.Handler) (err error) {
	for {
		b.site, err = metal.Open(ctx, metal.Config{
			Inventory: b.inventory, Network: b.with.Network, Where: b.where, Dir: filepath.Join(b.env.Store.Dir, "metal"),
			Kernel: b.with.Ramdisk + ".vmlinuz", Initrd: b.with.Ramdisk + ".initrd", Cmdline: b.with.Cmdline,
			Images: b.env.Store.Images.Dir(), Keys: b.keys, Handler: h, Notify: b.with.Notify,
		})
		if command.Status(err) != command.StatusBusy {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
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
	fmt.Fprintf(o.Job.Log, "node %s; its agent's log: %s\n", n.Name(), n.AgentLog())
	name := "deploy to " + n.Name()
	step := o.Job.Progress.Start(name)
	agent := agentSteps{progress: o.Job.Progress.Within(name), log: o.Job.Log, steps: map[string]*command.Step{}}
	err = n.Deploy(ctx, metal.Deployment{Image: o.Image.Digest, Seed: o.Seed, Finish: deploy.Finish(b.with.Finish), Step: agent.event})
	step.Done(err, "")
	if err != nil {
		return nil, errors.Join(err, m.Release(ctx))
	}
	return m, nil
}

// agentSteps shows how the agent's steps go.
type agentSteps struct {
	progress *command.Progress
	log      io.Writer
	steps    map[string]*command.Step
}

// event is called by one goroutine at a time.
func (a agentSteps) event(e deploy.Event) {
	step := a.steps[e.Step]
	switch {
	case e.State == deploy.Begin:
		a.steps[e.Step] = a.progress.Start(e.Step)
	case step == nil: // it began before we listened
	case e.State == deploy.Progress:
		step.Part(e.Done, e.Total)
		return
	case e.State == deploy.End:
		step.Done(nil, "")
	case e.State == deploy.Failed:
		step.Done(errors.New(e.Error), "")
	}
	text := ""
	if e.Error != "" {
		text = " " + machinetest.OneLine(e.Error)
	}
	fmt.Fprintf(a.log, "deploy %s %s%s\n", e.Step, e.State, text)
}

// leased is a node on which the stage's task is done: the only one there.
type leased struct {
	*metal.Node
	inventory *inventory.Inventory
	task      int64
	ended     sync.Once
}

// begin says that the stage's task is done on the node.
func (b *metalBench) begin(ctx context.Context, n *metal.Node, o order) (*leased, error) {
	m := &leased{Node: n, inventory: b.inventory, task: o.Job.Task}
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
	var errs []error
	if b.stop != nil {
		b.stop()
		b.keeper.Wait()
	}
	if b.site != nil {
		errs = append(errs, b.site.Close())
	}
	if b.closeWhere != nil {
		errs = append(errs, b.closeWhere())
	}
	return errors.Join(errs...)
}
