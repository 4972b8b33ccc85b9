package metal

import (
	"context"
	"path/filepath"

	"goldsmith/testbed/ipmi"
)

// sessionsDir is where a node's open sessions are noted, in its directory.
const sessionsDir = "sessions"

// findLeft reads which sessions are open with controllers of the network. We have
// none yet: they are of a process that was killed.
func (s *Site) findLeft(ctx context.Context) error {
	nodes, err := s.cfg.Inventory.Nodes(ctx)
	if err != nil {
		return err
	}
	left := map[string][]uint32{}
	for _, n := range nodes {
		if n.Spec.Network != s.network.Name {
			continue
		}
		if left[n.Name], err = ipmi.Left(filepath.Join(s.cfg.Dir, "nodes", n.Name, sessionsDir)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = left
	return nil
}

// endLeft ends them, as soon as there is a session of ours. What the controller
// refuses ends by itself.
func (s *Site) endLeft(ctx context.Context, node string, m *ipmi.Machine) {
	s.mu.Lock()
	ids := s.left[node]
	delete(s.left, node)
	s.mu.Unlock()
	_ = m.EndLeft(ctx, ids)
}
