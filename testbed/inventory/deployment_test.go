package inventory

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"goldsmith/testbed"
)

// What was deployed is kept until the disks are empty, and printed nowhere: it
// has secrets.
func TestDeployment(t *testing.T) {
	v, _ := stocked(t)
	ctx := t.Context()
	l, err := v.Acquire(ctx, Request{}, "run 1")
	ok(t, err)
	ok(t, v.Deploying(ctx, l, []byte("hunter2")))
	n := node(t, v, "small")
	if n.State != Deploying || string(n.Deployment) != "hunter2" {
		t.Errorf("%s, %q", n.State, n.Deployment)
	}
	text, err := json.Marshal(n)
	ok(t, err)
	events, err := v.Events(ctx, "", 100)
	ok(t, err)
	said, err := json.Marshal(events)
	ok(t, err)
	if strings.Contains(string(text)+string(said), "hunter2") {
		t.Error("the deployment is printed")
	}
	ok(t, v.Move(ctx, l, DeployFailed, "no disk"))
	ok(t, v.End(ctx, l))
	if n := node(t, v, "small"); n.State != DeployFailed || string(n.Deployment) != "hunter2" {
		t.Errorf("after it failed: %s, %q", n.State, n.Deployment)
	}
	ok(t, v.Clean(ctx, "small", "op"))
	ok(t, cleaned(ctx, v, "small", ""))
	if n := node(t, v, "small"); len(n.Deployment) != 0 || n.State != Available {
		t.Errorf("after cleaning: %s, %q", n.State, n.Deployment)
	}
}

// Leases end together when those who had them are gone, in one network.
func TestAbandon(t *testing.T) {
	v, _ := stocked(t)
	ctx := t.Context()
	l, err := v.Acquire(ctx, Request{}, "run 1")
	ok(t, err)
	ok(t, v.Power(ctx, l, testbed.On))
	ok(t, v.Abandon(ctx, "another", "imgpipe", "its process has ended"))
	ok(t, v.Beat(ctx, l))
	ok(t, v.Abandon(ctx, "lab", "imgpipe", "its process has ended"))
	if err := v.Beat(ctx, l); !errors.Is(err, ErrLost) {
		t.Errorf("Beat: %v; want ErrLost", err)
	}
	if n := node(t, v, "small"); n.State != Cleaning || n.Lease != nil || n.Wanted != testbed.Off {
		t.Errorf("%s, wanted %v, %+v", n.State, n.Wanted, n.Lease)
	}
}

// Who lost a node to somebody else cannot say what became of it.
func TestFencedWork(t *testing.T) {
	v, _ := stocked(t)
	ctx := t.Context()
	ok(t, v.Clean(ctx, "small", "op"))
	l, err := v.Borrow(ctx, "small", "keeper")
	ok(t, err)
	ok(t, v.Revoke(ctx, "small", "op", "stop that"))
	if err := v.Cleaned(ctx, l, ""); !errors.Is(err, ErrLost) {
		t.Errorf("Cleaned: %v; want ErrLost", err)
	}
	if err := v.InspectionFailed(ctx, l, "x"); !errors.Is(err, ErrLost) {
		t.Errorf("InspectionFailed: %v; want ErrLost", err)
	}
	if n := node(t, v, "small"); n.State != Cleaning {
		t.Errorf("state %s", n.State)
	}
}
