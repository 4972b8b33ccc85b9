package metal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"goldsmith/internal/deploy"
	"goldsmith/testbed/inventory"
)

// owner is who does in the inventory what nobody asked for.
const owner = "imgpipe"

func dashes(mac string) string { return strings.ReplaceAll(mac, ":", "-") }

// metadata is what the machine is told at its first start: the holder's, and
// which IPv6 address is its own (elements/network).
func (n *Node) metadata(ctx context.Context, given any) (json.RawMessage, error) {
	a, err := n.site.cfg.Inventory.Addresses(ctx, n.Name())
	if err != nil {
		return nil, err
	}
	told, ok := given.(map[string]any)
	if !ok && given != nil {
		return json.Marshal(given)
	}
	all := map[string]any{"stable-address": map[string]any{"mac": n.node.Spec.MACs[0], "ipv6": a.IPv6.String()}}
	maps.Copy(all, told)
	return json.Marshal(all)
}

// keepHardware notes what the agent found.
func (n *Node) keepHardware(ctx context.Context, inv *deploy.Inventory) error {
	b, err := json.Marshal(inv)
	if err != nil {
		return err
	}
	return n.site.cfg.Inventory.SetHardware(ctx, n.lease, b)
}

// do starts the agent for one task that is not a deployment.
func (n *Node) do(ctx context.Context, k deploy.Kind) error {
	agent, done, err := n.startAgent(ctx, deploy.Task{Kind: k}, nil, nil)
	if err != nil {
		return err
	}
	defer done()
	return agent.work(ctx)
}

// work takes a node that nobody has, does f with it, and switches it off. last
// is told how that went, also that the node is not off, while it is still held;
// it is not called when ctx ended or the node was lost: then it is done again.
func (s *Site) work(ctx context.Context, name, what string, f func(context.Context, *Node) error,
	last func(ctx context.Context, l *inventory.Lease, err error) error,
) error {
	lease, err := s.cfg.Inventory.Borrow(ctx, name, owner+", "+what)
	if err != nil {
		return err
	}
	n, err := s.hold(ctx, lease)
	if err != nil {
		return err // it is done again when the controller is well
	}
	held, cancel := n.whileHeld(ctx)
	defer cancel()
	err = n.orLost(f(held, n))
	if last == nil || ctx.Err() != nil {
		return errors.Join(err, n.Release(ctx))
	}
	return errors.Join(err, n.end(ctx, func(ctx context.Context, off error) error { return last(ctx, lease, cmp.Or(err, off)) }))
}

// Inspect starts a node that nobody has into the ramdisk and notes what it has.
func (s *Site) Inspect(ctx context.Context, name string) error {
	return s.work(ctx, name, "inspecting", func(ctx context.Context, n *Node) error { return n.do(ctx, deploy.Inspect) },
		func(ctx context.Context, l *inventory.Lease, err error) error {
			if err == nil {
				return nil
			}
			return s.cfg.Inventory.InspectionFailed(ctx, l, err.Error())
		})
}

// Clean wipes the disks of a node that waits for it.
func (s *Site) Clean(ctx context.Context, name string) error {
	return s.work(ctx, name, "cleaning", func(ctx context.Context, n *Node) error { return n.do(ctx, deploy.Clean) },
		func(ctx context.Context, l *inventory.Lease, err error) error {
			reason := ""
			if err != nil {
				reason = err.Error()
			}
			return s.cfg.Inventory.Cleaned(ctx, l, reason)
		})
}

// Redeploy writes to a node that failed, and that nobody has, what it was
// deployed with, or should have been. When that succeeds it is as good as any,
// and is cleaned.
func (s *Site) Redeploy(ctx context.Context, name string) error {
	n, err := s.cfg.Inventory.Node(ctx, name)
	if err != nil {
		return err
	}
	var d Deployment
	if err := json.Unmarshal(n.Deployment, &d); err != nil {
		return fmt.Errorf("node %s: what it was deployed with is not known: %w", name, err)
	}
	return s.work(ctx, name, "deploying anew", func(ctx context.Context, n *Node) error { return n.Deploy(ctx, d) }, nil)
}
