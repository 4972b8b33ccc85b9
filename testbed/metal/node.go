package metal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"goldsmith/internal/deploy"
	"goldsmith/internal/evidence"
	"goldsmith/internal/seed"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/ipmi"
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
	lose  context.CancelCauseFunc
	stop  func() // ends the lease's heartbeat

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
	testbed.Leased
	testbed.HealthNoter
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
	return s.hold(ctx, lease)
}

// hold makes a node of a lease; without one the lease has ended.
func (s *Site) hold(ctx context.Context, lease *inventory.Lease) (*Node, error) {
	n := &Node{site: s, lease: lease}
	beats, stop := s.cfg.Inventory.Keep(context.WithoutCancel(ctx), lease)
	n.held, n.lose = context.WithCancelCause(context.WithoutCancel(ctx))
	after := context.AfterFunc(beats, func() { n.lose(n.lost(context.Cause(beats))) })
	n.stop = func() {
		after()
		stop()
		n.lose(context.Canceled)
	}
	s.put(n)
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.Release(ctx))
	}
	return n, nil
}

func (n *Node) lost(why error) error {
	return &testbed.Fault{Kind: testbed.Lost, Machine: n.lease.Node, Doing: "keep the lease", Err: why}
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

// Held implements testbed.Leased.
func (n *Node) Held() context.Context { return n.held }

// Lease is the node's lease, as tasks on the node need it.
func (n *Node) Lease() *inventory.Lease { return n.lease }

// Name implements testbed.Machine.
func (n *Node) Name() string { return n.lease.Node }

// Address implements testbed.Addressed: the inventory gives addresses.
func (n *Node) Address(ctx context.Context) (netip.Addr, error) {
	a, err := n.site.cfg.Inventory.Addresses(ctx, n.lease.Node)
	return a.IPv4, err
}

// NoteHealth implements testbed.HealthNoter. It counts until the next
// deployment.
func (n *Node) NoteHealth(ctx context.Context, ok bool, detail string) error {
	o := inventory.Observation{Source: inventory.HealthSource, OK: ok, Detail: detail}
	n.site.noteHealth(n, &o)
	return n.site.cfg.Inventory.Observe(ctx, n.lease.Node, o)
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

// Shutdown implements testbed.Shutdowner; the node is wanted off from then on.
func (n *Node) Shutdown(ctx context.Context) error {
	return n.power(ctx, testbed.Off, n.Machine.Shutdown)
}

// Reset implements testbed.Resetter.
func (n *Node) Reset(ctx context.Context) error {
	return n.power(ctx, testbed.On, n.Machine.Reset)
}

// power changes the node's power while the lease holds, and while nobody else
// does.
func (n *Node) power(ctx context.Context, want testbed.Power, do func(context.Context) error) error {
	done, err := n.site.takePower(ctx, n.lease.Node)
	if err != nil {
		return err
	}
	defer done()
	switch err := n.site.cfg.Inventory.Power(ctx, n.lease, want); {
	case errors.Is(err, inventory.ErrLost):
		return n.lost(err)
	case err != nil:
		return err
	}
	ctx, cancel := n.whileHeld(ctx)
	defer cancel()
	err = do(ctx)
	if n.held.Err() != nil { // what a command that was cut short says is not the controller's fault
		return errors.Join(context.Cause(n.held), err)
	}
	if err != nil {
		err = n.observe(ctx, err)
		if want == testbed.On { // what does not go off is put aside when it is given back
			err = errors.Join(err, n.failed(ctx, err))
		}
		return err
	}
	return n.observePower(ctx, want)
}

// observePower keeps how the power is that was changed: off was confirmed, but a
// machine may have switched itself off already.
func (n *Node) observePower(ctx context.Context, p testbed.Power) error {
	if p == testbed.On {
		var err error
		if p, err = n.Power(ctx); err != nil {
			return n.observe(ctx, err)
		}
	}
	o := inventory.Observation{Source: inventory.BMCSource, OK: true, Power: p}
	return n.site.cfg.Inventory.Observe(context.WithoutCancel(ctx), n.lease.Node, o)
}

// failed notes that the machine is to blame: under test it does not go on.
func (n *Node) failed(ctx context.Context, err error) error {
	f, ok := errors.AsType[*testbed.Fault](err)
	if !ok || f.Kind != testbed.Unconfirmed {
		return nil
	}
	v := n.site.cfg.Inventory
	now, err := v.Node(context.WithoutCancel(ctx), n.Name())
	if err != nil || now.State != inventory.Testing {
		return err
	}
	return v.Move(context.WithoutCancel(ctx), n.lease, inventory.TestFailed, f.Error())
}

// releaseLimit bounds giving a node back, whose power must be off and confirmed.
const releaseLimit = 3 * time.Minute

// Release implements testbed.Machine: the node is off, its lease has ended, and
// it is to be cleaned before anybody else gets it. A node that does not go off
// is put aside as what cannot be trusted, and the error says so. One that was
// lost is left alone, without an error: somebody else may have it.
func (n *Node) Release(ctx context.Context) error { return n.end(ctx, nil) }

// end is Release; last, when it is not nil, is told while the node is still held
// whether it went off.
func (n *Node) end(ctx context.Context, last func(ctx context.Context, off error) error) error {
	n.release.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
		defer cancel()
		n.ended = n.giveBack(ctx, last)
	})
	return n.ended
}

func (n *Node) giveBack(ctx context.Context, last func(ctx context.Context, off error) error) error {
	v := n.site.cfg.Inventory
	defer n.site.drop(n)
	n.site.override(n, nil)
	off := n.off(ctx)
	errs := []error{off}
	if f, ok := errors.AsType[*testbed.Fault](off); ok && f.Kind != testbed.Lost {
		errs = append(errs, v.SetAside(ctx, n.lease.Node, inventory.Aside{Owner: owner, Fault: f.Kind, Reason: f.Error()}))
	}
	if last != nil && n.held.Err() == nil {
		errs = append(errs, last(ctx, off))
	}
	n.stop()
	errs = append(errs, v.End(ctx, n.lease))
	for i, err := range errs {
		if errors.Is(err, inventory.ErrLost) {
			errs[i] = nil // who works on it was told
		}
	}
	return errors.Join(errs...)
}

// off switches a node off for the last time.
func (n *Node) off(ctx context.Context) error {
	if n.Machine == nil {
		return nil
	}
	err := n.PowerOff(ctx)
	return errors.Join(err, n.Disconnect())
}

// Deployment is what a node is to be made.
type Deployment struct {
	Image  string // digest
	Seed   seed.Seed
	Finish deploy.Finish
	// Keys are the public keys, PEM, of which one must have signed the image; none
	// takes one without a signature, too.
	Keys []string `json:",omitempty"`
	// Ramdisk deploys it; nil means the site's.
	Ramdisk *Ramdisk `json:"-"`
	// Step is told how the agent's steps go; nil means nobody.
	Step func(deploy.Event) `json:"-"`
}

// AgentError is what a machine's agent said when it failed. It is about the
// machine or the image: its step tells.
type AgentError struct {
	Node string
	Step string // NN-name
	Text string
	// Image: the image is at fault, or where it comes from, and not the machine.
	Image bool
}

// Infra implements pipeline.Infra: another machine may do, where the image is not
// at fault.
func (e *AgentError) Infra() bool { return !e.Image }

// Class implements pipeline.Classed.
func (e *AgentError) Class() evidence.Class {
	if e.Image {
		return evidence.ImageFault
	}
	return evidence.Infra
}

func (e *AgentError) Error() string {
	return fmt.Sprintf("node %s: deploy step %s: %s", e.Node, e.Step, e.Text)
}

// Deploy writes an image to the node's disk, and starts it: the node is on its
// way into the image afterwards, or off where that is how it finishes. When the
// node is lost meanwhile the error is a testbed.Fault.
func (n *Node) Deploy(ctx context.Context, d Deployment) error {
	// What it is told is not kept, since secrets are in it: who writes it again
	// only tries whether the machine can be deployed to, and cleans it then.
	record, err := json.Marshal(Deployment{Image: d.Image, Finish: d.Finish, Keys: d.Keys,
		Seed: seed.Seed{InstanceID: d.Seed.InstanceID, Hostname: d.Seed.Hostname}})
	if err != nil {
		return err
	}
	n.site.noteHealth(n, nil)
	v := n.site.cfg.Inventory
	if err := v.Deploying(ctx, n.lease, record); err != nil {
		return n.orLost(err)
	}
	held, cancel := n.whileHeld(ctx)
	defer cancel()
	err = n.deploy(held, d)
	switch {
	case err == nil:
		err = v.Move(held, n.lease, inventory.Testing, "")
	case held.Err() == nil && imageFailed(err):
		// The next image may be better: when it is given back the node is cleaned.
		err = errors.Join(err, v.Note(held, n.Name(), "state", n.lease.Holder, err.Error()))
	case held.Err() == nil:
		err = errors.Join(err, v.Move(held, n.lease, inventory.DeployFailed, err.Error()))
	}
	return n.orLost(err)
}

func imageFailed(err error) bool {
	e, ok := errors.AsType[*AgentError](err)
	return ok && e.Image
}

// orLost returns err, or that the node is lost when that explains it.
func (n *Node) orLost(err error) error {
	switch {
	case err == nil:
		return nil
	case n.held.Err() != nil && !errors.Is(context.Cause(n.held), context.Canceled):
		return context.Cause(n.held)
	case errors.Is(err, inventory.ErrLost):
		return n.lost(err)
	}
	return err
}

// whileHeld is a context that ends when the lease is lost, too.
func (n *Node) whileHeld(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.held, func() { cancel(context.Cause(n.held)) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

func (n *Node) deploy(ctx context.Context, d Deployment) error {
	metadata, err := n.metadata(ctx, d.Seed.Metadata)
	if err != nil {
		return err
	}
	s := n.node.Spec.Storage
	task := deploy.Task{Kind: deploy.Deploy, Finish: d.Finish,
		Image: &deploy.Image{Source: n.site.URL() + "/images", Digest: d.Image, Keys: d.Keys},
		Storage: deploy.Storage{Level: s.Level, Disks: s.Disks, Size: int64(s.Size), Hints: deploy.Hints{Serial: s.Hints.Serial,
			WWN: s.Hints.WWN, Model: s.Hints.Model, Rotational: s.Hints.Rotational, Size: int64(s.Hints.Size)}},
		Seed: &deploy.Seed{InstanceID: d.Seed.InstanceID, Hostname: d.Seed.Hostname, AuthorizedKeys: d.Seed.AuthorizedKeys, Metadata: metadata},
	}
	agent, done, err := n.startAgent(ctx, task, d.Ramdisk, d.Step)
	if err != nil {
		return err
	}
	defer done()
	if err := agent.work(ctx); err != nil {
		return err
	}
	if err := n.site.cfg.Inventory.Deployed(ctx, n.lease, d.Image); err != nil {
		return err
	}
	if d.Finish == deploy.Off {
		return n.PowerOff(ctx)
	}
	return n.site.Refresh(ctx) // what it starts from the network by now
}
