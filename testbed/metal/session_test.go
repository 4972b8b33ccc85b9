package metal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"goldsmith/testbed"
)

// sessions are what is noted of a node's sessions; what is closed is not there.
func (r *rig) sessions(name string) int {
	r.t.Helper()
	l, err := os.ReadDir(filepath.Join(r.config.Dir, "nodes", name, sessionsDir))
	r.ok(err)
	return len(l)
}

// TestOneSession: who looks at a node and who changes its power share a session,
// also when both come first.
func TestOneSession(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	n := r.node("n1")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := r.keeper.power(t.Context(), n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := r.sessions("n1"); got != 1 {
		t.Errorf("%d sessions; want 1", got)
	}
	n.Spec.BMC.User += " " // another controller, as it were: it refuses
	if _, err := r.keeper.power(t.Context(), n); err == nil {
		t.Error("a user that is not there was logged in")
	}
	if got := r.sessions("n1"); got != 0 {
		t.Errorf("%d sessions with a controller that the node has no more", got)
	}
}

// TestSessionInUse: a look that fails does not end the session in which the
// power is being changed.
func TestSessionInUse(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.boxes["n1"].breaks(true) // the controller says off until the time is over
	r.ok(r.v.Want(t.Context(), "n1", testbed.On, "test"))
	n := r.node("n1")
	_, err := r.keeper.power(t.Context(), n)
	r.ok(err)
	changed := make(chan error, 1)
	go func() { changed <- r.keeper.setPower(t.Context(), n, false) }()
	time.Sleep(300 * time.Millisecond)
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.keeper.power(ctx, n); err == nil {
			t.Error("a look without time did not fail")
		}
	}
	_, err = r.keeper.power(t.Context(), n)
	r.ok(err)
	err = <-changed
	if f, ok := errors.AsType[*testbed.Fault](err); !ok || f.Kind != testbed.Unconfirmed {
		t.Errorf("power on: %v; want %s", err, testbed.Unconfirmed)
	}
	r.keeper.close()
	if got := r.sessions("n1"); got != 0 {
		t.Errorf("%d sessions are left", got)
	}
}
