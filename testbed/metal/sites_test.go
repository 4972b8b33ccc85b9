package metal

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/testbed/inventory"
)

// A network is served once, as long as somebody uses it, and its nodes are looked
// after meanwhile although nobody runs a test.
func TestSites(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.close()
	ctx, c := t.Context(), r.config
	c.Lasting = true
	var here, there Sites
	first, err := here.Use(ctx, c, "")
	r.ok(err)
	r.site = first.Site // the machines ask it
	r.ok(r.v.Allow(ctx, "n1", "test"))
	second, err := here.Use(ctx, Config{Inventory: r.v, Network: "lab"}, "")
	r.ok(err)
	if first.Site != second.Site {
		t.Error("the network is served twice")
	}
	for what, c := range map[string]Config{"cmdline": {Inventory: r.v, Cmdline: "console=ttyS7"}, "namespace": {Inventory: r.v}} {
		namespace := ""
		if what == "namespace" {
			namespace = "/proc/self/ns/net"
		}
		if _, err := here.Use(ctx, c, namespace); command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), what) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	if _, err := there.Use(ctx, c, ""); !errors.Is(err, ErrLasting) || command.Status(err) != command.StatusBusy {
		t.Errorf("another process: %v; want ErrLasting", err)
	}
	r.eventually("the node is inspected", func() bool { n := r.node("n1"); return n.State == inventory.Available && n.Lease == nil })
	r.ok(first.Close())
	r.ok(first.Close()) // once more does nothing
	n, err := second.Acquire(ctx, inventory.Request{}, "test")
	r.ok(err)
	r.ok(n.Release(ctx))
	r.ok(second.Close())

	c.Lasting = false
	other, err := there.Use(ctx, c, "")
	r.ok(err)
	if _, err := here.Use(ctx, c, ""); command.Status(err) != command.StatusBusy || errors.Is(err, ErrLasting) {
		t.Errorf("a process that serves a stage: %v", err)
	}
	r.ok(other.Close())
	r.site = nil
}

// What a server serves is opened by it alone: a stage waits until it has.
func TestReserved(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.close()
	var s Sites
	s.Reserve("lab")
	c := r.config
	if _, err := s.Use(t.Context(), c, ""); command.Status(err) != command.StatusBusy || errors.Is(err, ErrLasting) {
		t.Errorf("before the server: %v", err)
	}
	c.Lasting = true
	server, err := s.Use(t.Context(), c, "")
	r.ok(err)
	stage, err := s.Use(t.Context(), Config{Inventory: r.v}, "")
	r.ok(err)
	r.ok(server.Close())
	r.ok(stage.Close())
	if len(s.open) != 0 {
		t.Errorf("left: %v", s.open)
	}
}

// Whoever waits for a site that others open can give up, and those that come
// while it ends open it anew.
func TestSitesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.close()
	var s Sites
	done := make(chan error)
	for range 8 {
		go func() {
			for range 5 {
				u, err := s.Use(t.Context(), r.config, "")
				if err == nil {
					err = u.Close()
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		r.ok(<-done)
	}
	u, err := s.Use(t.Context(), r.config, "")
	r.ok(err)
	s.open["lab"].turn <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Use(ctx, r.config, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is being opened: %v", err)
	}
	<-s.open["lab"].turn
	r.ok(u.Close())
	if len(s.open) != 0 {
		t.Errorf("left: %v", s.open)
	}
}
