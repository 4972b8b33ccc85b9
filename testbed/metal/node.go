package metal

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/seed"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/ipmi"
	"goldsmith/testbed/netboot"
)

// Node is a leased server. It is a testbed.Machine with everything that its
// controller has; while it is leased the lease is kept alive. Release gives it
// back.
type Node struct {
	*ipmi.Machine
	site  *Site
	node  *inventory.Node
	lease *inventory.Lease
	held  context.Context // ends when the lease is lost
	stop  func()

	release sync.Once
	ended   error
}

var _ interface {
	testbed.Machine
	testbed.Consoled
	testbed.Addressed
	testbed.BootSelector
	testbed.Resetter
	testbed.Shutdowner
} = (*Node)(nil)

// Acquire leases a node that fits the request; see inventory.Acquire for the
// error when none does. What its controller answers decides whether it is given:
// a node whose controller is silent is noted as such, and the error is a
// testbed.Fault.
func (s *Site) Acquire(ctx context.Context, r inventory.Request, holder string) (*Node, error) {
	if err := s.Refresh(ctx); err != nil {
		return nil, err
	}
	lease, err := s.cfg.Inventory.Acquire(ctx, r, holder)
	if err != nil {
		return nil, err
	}
	n := &Node{site: s, lease: lease}
	n.held, n.stop = s.cfg.Inventory.Keep(context.WithoutCancel(ctx), lease)
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.Release(ctx))
	}
	return n, nil
}

func (n *Node) open(ctx context.Context) error {
	var err error
	if n.node, err = n.site.cfg.Inventory.Node(ctx, n.lease.Node); err != nil {
		return err
	}
	if n.Machine, err = n.site.machine(ctx, n.node, true); err != nil {
		return n.observe(ctx, err)
	}
	return n.observe(ctx, nil)
}

// observe keeps what a call to the controller said about it, and returns the
// call's error.
func (n *Node) observe(ctx context.Context, err error) error {
	o := inventory.Observation{Source: inventory.BMCSource, OK: true}
	if f, ok := errors.AsType[*testbed.Fault](err); ok {
		o.OK, o.Detail = false, string(f.Kind)+": "+f.Error()
	} else if err != nil {
		return err
	}
	return errors.Join(err, n.site.cfg.Inventory.Observe(context.WithoutCancel(ctx), n.lease.Node, o))
}

// Lease is the node's lease; its context ends when the lease is lost.
func (n *Node) Lease() (*inventory.Lease, context.Context) { return n.lease, n.held }

// Name implements testbed.Machine.
func (n *Node) Name() string { return n.lease.Node }

// Address implements testbed.Addressed: the inventory gives addresses.
func (n *Node) Address(ctx context.Context) (netip.Addr, error) {
	a, err := n.site.cfg.Inventory.Addresses(ctx, n.lease.Node)
	return a.IPv4, err
}

// PowerOn implements testbed.Machine, and says in the inventory that the node is
// wanted on: one that goes off by itself is noticed.
func (n *Node) PowerOn(ctx context.Context) error {
	return n.power(ctx, testbed.On, n.Machine.PowerOn)
}

// PowerOff implements testbed.Machine, and says in the inventory that the node
// is wanted off.
func (n *Node) PowerOff(ctx context.Context) error {
	return n.power(ctx, testbed.Off, n.Machine.PowerOff)
}

func (n *Node) power(ctx context.Context, want testbed.Power, do func(context.Context) error) error {
	if err := n.site.cfg.Inventory.Power(ctx, n.lease, want); err != nil {
		return err
	}
	err := do(ctx)
	o := inventory.Observation{Source: inventory.BMCSource, OK: true, Power: want}
	if err == nil {
		return n.site.cfg.Inventory.Observe(context.WithoutCancel(ctx), n.lease.Node, o)
	}
	return n.observe(ctx, err)
}

// releaseLimit bounds giving a node back, whose power must be off and confirmed.
const releaseLimit = 3 * time.Minute

// Release implements testbed.Machine: the node is off, its lease has ended, and
// it waits to be cleaned. When its controller does not confirm that it is off,
// it is put aside as what cannot be trusted, and the error says so.
func (n *Node) Release(ctx context.Context) error {
	n.release.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
		defer cancel()
		n.ended = n.giveBack(ctx)
	})
	return n.ended
}

func (n *Node) giveBack(ctx context.Context) error {
	v := n.site.cfg.Inventory
	var errs []error
	n.site.override(n.lease.Node, nil)
	if n.Machine != nil {
		err := n.Machine.Release(ctx)
		if err == nil {
			err = v.Observe(ctx, n.lease.Node, inventory.Observation{Source: inventory.BMCSource, OK: true, Power: testbed.Off})
		} else {
			err = n.observe(ctx, err)
		}
		if f, ok := errors.AsType[*testbed.Fault](err); ok {
			errs = append(errs, v.SetAside(ctx, n.lease.Node, inventory.Aside{Owner: "imgpipe", Fault: f.Kind, Reason: f.Error()}))
		}
		errs = append(errs, err)
	}
	n.stop()
	if err := v.End(ctx, n.lease); err != nil && !errors.Is(err, inventory.ErrLost) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Deployment is what a node is to be made.
type Deployment struct {
	Image  string // digest
	Seed   seed.Seed
	Finish deploy.Finish
	// Step is told how the agent's steps go; nil means nobody.
	Step func(deploy.Event)
}

// AgentError is what a machine's agent said when it failed. It is about the
// machine or the image: its step tells.
type AgentError struct {
	Node string
	Step string // NN-name
	Text string
}

func (e *AgentError) Error() string {
	return fmt.Sprintf("node %s: deploy step %s: %s", e.Node, e.Step, e.Text)
}

// Deploy writes an image to the node's disk, and starts it: the node is on its
// way into the image afterwards, but for deploy.Off.
func (n *Node) Deploy(ctx context.Context, d Deployment) error {
	ctx, cancel := n.whileHeld(ctx)
	defer cancel()
	v := n.site.cfg.Inventory
	if err := v.Move(ctx, n.lease, inventory.Deploying, ""); err != nil {
		return err
	}
	err := n.deploy(ctx, d)
	switch {
	case err == nil:
		return v.Move(ctx, n.lease, inventory.Testing, "")
	case ctx.Err() != nil:
		return err
	}
	return errors.Join(err, v.Move(ctx, n.lease, inventory.DeployFailed, err.Error()))
}

// whileHeld is a context that ends when the lease is lost, too.
func (n *Node) whileHeld(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.held, func() { cancel(context.Cause(n.held)) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

func (n *Node) deploy(ctx context.Context, d Deployment) error {
	metadata, err := jsonOf(d.Seed.Metadata)
	if err != nil {
		return err
	}
	s := n.node.Spec.Storage
	task := deploy.Task{Kind: deploy.Deploy, Finish: d.Finish,
		Image:   &deploy.Image{Source: n.site.URL() + "/images", Digest: d.Image, Keys: n.site.cfg.Keys},
		Storage: deploy.Storage{Level: s.Level, Disks: s.Disks, Size: int64(s.Size)},
		Seed:    &deploy.Seed{InstanceID: d.Seed.InstanceID, Hostname: d.Seed.Hostname, AuthorizedKeys: d.Seed.AuthorizedKeys, Metadata: metadata},
	}
	agent, done, err := n.startAgent(ctx, task, d.Step)
	if err != nil {
		return err
	}
	defer done()
	inv, err := agent.Inventory(ctx)
	if err != nil {
		return err
	}
	if err := n.keepHardware(ctx, inv); err != nil {
		return err
	}
	r, err := agent.Wait(ctx)
	if err != nil {
		return err
	}
	if !r.OK() {
		return &AgentError{n.Name(), r.Step, r.Error}
	}
	if err := n.site.cfg.Inventory.Deployed(ctx, n.lease, d.Image); err != nil {
		return err
	}
	return n.site.Refresh(ctx) // what it starts from the network by now
}

// agentLimit is how long a machine may take from power on until its agent
// calls: servers test their memory for minutes.
const agentLimit = 15 * time.Minute

var errNoAgent = fmt.Errorf("its agent has not called within %v", agentLimit)

// startAgent starts the machine into the deploy ramdisk with a task. done ends
// the agent's deployment.
func (n *Node) startAgent(ctx context.Context, task deploy.Task, step func(deploy.Event)) (*Agent, func(), error) {
	log, err := n.agentLog()
	if err != nil {
		return nil, nil, err
	}
	dep, err := n.site.agents.Assign(n.Name(), task, deploy.Options{Log: log.lines, Event: func(e deploy.Event) {
		if step != nil {
			step(e)
		}
	}})
	if err != nil {
		return nil, nil, errors.Join(err, log.close())
	}
	a := &Agent{dep, n}
	done := func() { n.site.override(n.Name(), nil); _ = dep.Close(); _ = log.close() }
	n.site.override(n.Name(), &netboot.Boot{Kernel: n.site.cfg.Kernel, Initrd: n.site.cfg.Initrd,
		Cmdline: deploy.Arguments(n.site.URL()+"/deploy", dep.Token) + " BOOTIF=01-" + dashes(n.node.Spec.MACs[0]) + " " + n.site.cfg.Cmdline})
	if err := n.intoNetwork(ctx); err != nil {
		done()
		return nil, nil, err
	}
	return a, done, nil
}

// intoNetwork starts the machine anew, from the network this time.
func (n *Node) intoNetwork(ctx context.Context) error {
	if err := n.PowerOff(ctx); err != nil {
		return err
	}
	if err := n.observe(ctx, n.SetBoot(ctx, testbed.Boot{Device: testbed.FromNetwork, Once: true, Firmware: n.node.Spec.Firmware})); err != nil {
		// A controller that drops the firmware's kind still chooses the device:
		// the machine has one kind only.
		if f, ok := errors.AsType[*testbed.Fault](err); !ok || f.Kind != testbed.Unsupported {
			return err
		}
		if err := n.observe(ctx, n.SetBoot(ctx, testbed.Boot{Device: testbed.FromNetwork, Once: true})); err != nil {
			return err
		}
	}
	return n.PowerOn(ctx)
}

// Agent is the agent of a node that is being worked on.
type Agent struct {
	*deploy.Deployment
	node *Node
}

// Inventory waits until the agent calls, for agentLimit: then the error is a
// testbed.Fault.
func (a *Agent) Inventory(ctx context.Context) (*deploy.Inventory, error) {
	limited, cancel := context.WithTimeoutCause(ctx, agentLimit, errNoAgent)
	defer cancel()
	inv, err := a.Deployment.Inventory(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = &testbed.Fault{Kind: testbed.Silent, Machine: a.node.Name(), Doing: "start the deploy ramdisk",
			Err: fmt.Errorf("%w; its console is in %s", errNoAgent, a.node.Console().Path)}
	}
	return inv, err
}

func (n *Node) agentLog() (*agentLog, error) {
	dir, err := n.site.dir(n.Name())
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "agent.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	return &agentLog{f}, nil
}

// AgentLog is the file with everything that the node's agents said.
func (n *Node) AgentLog() string {
	return filepath.Join(n.site.cfg.Dir, "nodes", n.Name(), "agent.log")
}

type agentLog struct{ f *os.File }

func (l *agentLog) lines(lines []deploy.Line) {
	for _, line := range lines {
		fmt.Fprintf(l.f, "[%9.3f] %s\n", line.Uptime, command.Plain(line.Text))
	}
}

func (l *agentLog) close() error { return l.f.Close() }
