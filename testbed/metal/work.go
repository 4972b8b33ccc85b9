package metal

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"goldsmith/internal/deploy"
)

func dashes(mac string) string { return strings.ReplaceAll(mac, ":", "-") }

func jsonOf(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}

// keepHardware notes what the agent found.
func (n *Node) keepHardware(ctx context.Context, inv *deploy.Inventory) error {
	b, err := json.Marshal(inv)
	if err != nil {
		return err
	}
	return n.site.cfg.Inventory.SetHardware(ctx, n.lease.Node, b)
}

// do starts the agent for one task that is not a deployment.
func (n *Node) do(ctx context.Context, k deploy.Kind) error {
	agent, done, err := n.startAgent(ctx, deploy.Task{Kind: k}, nil)
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
	switch {
	case err != nil:
		return err
	case !r.OK():
		return &AgentError{n.Name(), r.Step, r.Error}
	}
	return nil
}

// work takes a node that nobody has, does f with it, and switches it off.
func (s *Site) work(ctx context.Context, name, what string, f func(context.Context, *Node) error) error {
	lease, err := s.cfg.Inventory.Borrow(ctx, name, what)
	if err != nil {
		return err
	}
	n := &Node{site: s, lease: lease}
	n.held, n.stop = s.cfg.Inventory.Keep(context.WithoutCancel(ctx), lease)
	ctx, cancel := n.whileHeld(ctx)
	defer cancel()
	err = n.open(ctx)
	if err == nil {
		err = f(ctx, n)
	}
	return errors.Join(err, n.Release(ctx))
}

// Inspect starts a node that nobody has into the ramdisk and notes what it has.
func (s *Site) Inspect(ctx context.Context, name string) error {
	err := s.work(ctx, name, "imgpipe, inspecting", func(ctx context.Context, n *Node) error { return n.do(ctx, deploy.Inspect) })
	if err != nil && ctx.Err() == nil {
		return errors.Join(err, s.cfg.Inventory.InspectionFailed(ctx, name, err.Error()))
	}
	return err
}

// Clean wipes the disks of a node that waits for it.
func (s *Site) Clean(ctx context.Context, name string) error {
	err := s.work(ctx, name, "imgpipe, cleaning", func(ctx context.Context, n *Node) error { return n.do(ctx, deploy.Clean) })
	if ctx.Err() != nil {
		return err
	}
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	return errors.Join(err, s.cfg.Inventory.Cleaned(ctx, name, reason))
}
