package metal

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/netboot"
)

// put makes n the one who has its node.
func (s *Site) put(n *Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[n.lease.Node] = &holding{node: n}
}

// drop forgets that n has its node.
func (s *Site) drop(n *Node) {
	s.change(n, func(*holding) { delete(s.held, n.lease.Node) })
}

// change calls f with what n's node does, unless somebody else has it by now.
func (s *Site) change(n *Node, f func(*holding)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.held[n.lease.Node]; h != nil && h.node == n {
		f(h)
	}
}

// override has a node start something else; nil ends that.
func (s *Site) override(n *Node, b *netboot.Boot) { s.change(n, func(h *holding) { h.boot = b }) }

// noteAgent says which agent works on a node; nil is none.
func (s *Site) noteAgent(n *Node, d *deploy.Deployment) {
	s.change(n, func(h *holding) { h.agent = d })
}

// noteHealth keeps what a node says of itself; nil is nothing.
func (s *Site) noteHealth(n *Node, o *inventory.Observation) {
	s.change(n, func(h *holding) { h.health = o })
}

// holding is what a node does that is in use here; nil means that it is not.
func (s *Site) holding(node string) *holding {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[node]
	if h == nil {
		return nil
	}
	c := *h
	return &c
}

// turns let one at a time do something with a node. The zero value is ready for
// use.
type turns struct {
	mu sync.Mutex // guards of
	of map[string]chan struct{}
}

// take waits for a node's turn; the caller calls done. The error is ctx's cause.
func (t *turns) take(ctx context.Context, node string) (done func(), err error) {
	t.mu.Lock()
	turn := t.of[node]
	if turn == nil {
		if t.of == nil {
			t.of = map[string]chan struct{}{}
		}
		turn = make(chan struct{}, 1)
		t.of[node] = turn
	}
	t.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// takePower waits until nobody else in this process changes the node's power:
// what is wanted and what is done must not be interleaved.
func (s *Site) takePower(ctx context.Context, node string) (done func(), err error) {
	if done, err = s.power.take(ctx, node); err != nil {
		return nil, fmt.Errorf("node %s: its power is being changed: %w", node, err)
	}
	return done, nil
}

// maxCalls bounds the addresses that are remembered.
const maxCalls = 4096

// heard notes that installed machines call.
func (s *Site) heard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			a := from.Addr().Unmap()
			s.mu.Lock()
			if _, ok := s.calls[a]; ok || len(s.calls) < maxCalls {
				s.calls[a] = time.Now()
			}
			s.mu.Unlock()
		}
		h.ServeHTTP(w, r)
	})
}

// refused notes in a node's history what it asked for in vain.
func (s *Site) refused(r *http.Request, why string) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return
	}
	name := ""
	s.mu.Lock()
	for _, m := range s.known {
		if m.Address == from.Addr().Unmap() {
			name = m.Name
		}
	}
	s.mu.Unlock()
	if name == "" {
		return // no machine of the inventory, as its address says
	}
	_ = s.cfg.Inventory.Note(context.WithoutCancel(r.Context()), name, "netboot", "network",
		fmt.Sprintf("refused: %s %s: %s", r.Method, command.Line(r.URL.Path), why))
}

// called is when an installed machine called last.
func (s *Site) called(a netip.Addr) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[a]
}

// tell notes in a node's history why it cannot be served, once.
func (s *Site) tell(ctx context.Context, node string, err error) {
	text := ""
	if err != nil {
		text = "it cannot be served: " + err.Error()
	}
	s.mu.Lock()
	same := s.told[node] == text
	s.told[node] = text
	s.mu.Unlock()
	if !same && text != "" {
		_ = s.cfg.Inventory.Note(ctx, node, "netboot", owner, text)
	}
}
