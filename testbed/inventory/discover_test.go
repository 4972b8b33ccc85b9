package inventory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
)

// TestDiscoverIsBounded: any number of machines may ask for an address.
func TestDiscoverIsBounded(t *testing.T) {
	v, clock := empty(t)
	ctx := t.Context()
	mac := func(i int) net.HardwareAddr { return binary.BigEndian.AppendUint32([]byte{2, 0}, uint32(i)) }
	ok(t, v.db.Tx(ctx, func(tx *store.Tx) error {
		for i := range maxUndeclared {
			s := Spec{Name: fmt.Sprintf("node-%x", []byte(mac(i))), MACs: []string{mac(i).String()}}
			if err := v.put(ctx, tx, nil, s, false, "network"); err != nil {
				return err
			}
		}
		return nil
	}))
	refused := func(i int) {
		t.Helper()
		if _, err := v.Discover(ctx, mac(i), "lab"); command.Status(err) != command.StatusBusy {
			t.Errorf("Discover of one more: %v", err)
		}
	}
	refused(1000)
	kept, err := v.Discover(ctx, mac(7), "lab") // is there already
	ok(t, err)
	ok(t, v.Allow(ctx, "node-020000000008", "op")) // somebody means to use it
	clock.add(forgetAfter - time.Minute)
	refused(1000)
	_, err = v.Discover(ctx, mac(7), "lab")
	ok(t, err)
	clock.add(time.Minute)
	_, err = v.Discover(ctx, mac(1000), "lab")
	ok(t, err)
	nodes, err := v.Nodes(ctx)
	ok(t, err)
	if len(nodes) != 3 {
		t.Errorf("%d nodes; want the one that asked again, the one that is allowed, and the new one", len(nodes))
	}
	if n := node(t, v, kept.Name); n.Alive || !n.Observed[AddressSource].At.Equal(clock.now().Add(-time.Minute)) {
		t.Errorf("%+v", n)
	}
	if _, err := v.Node(ctx, "node-020000000009"); !errors.Is(err, ErrUnknown) {
		t.Errorf("it has not asked for a day: %v", err)
	}
}
