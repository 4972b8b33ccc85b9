package metal

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"goldsmith/internal/command"
	"goldsmith/testbed/inventory"
)

// Notice is what people are told about a node: docs/formats.md, Notice.
type Notice struct {
	Time   time.Time        `json:"time"`
	Node   string           `json:"node"`
	Action inventory.Action `json:"action"` // what is done about it
	Reason string           `json:"reason"` // what is observed, in words
	State  inventory.State  `json:"state"`
	Image  string           `json:"image,omitempty"`  // digest
	Holder string           `json:"holder,omitempty"` // who has the node
}

// notifyLimit bounds the program that tells people.
const notifyLimit = 30 * time.Second

// tell notes something in a node's history, once until it changes, and tells
// whether it was new.
func (k *Keeper) tell(ctx context.Context, node, what string) bool {
	k.mu.Lock()
	same := k.told[node] == what
	k.told[node] = what
	k.mu.Unlock()
	if same || what == "" {
		return false
	}
	_ = k.site.cfg.Inventory.Note(ctx, node, "recovery", owner, what)
	return true
}

// notify tells people, once until something else is to be told.
func (k *Keeper) notify(ctx context.Context, n *inventory.Node, d inventory.Decision) error {
	if !k.tell(ctx, n.Name, "needs a person: "+string(d.Do)+": "+d.Reason) || k.site.cfg.Notify == nil {
		return nil
	}
	notice := Notice{Time: k.site.cfg.Inventory.Time(), Node: n.Name, Action: d.Do, Reason: d.Reason, State: n.State, Image: n.Image}
	if n.Lease != nil {
		notice.Holder = n.Lease.Holder
	}
	text, err := json.Marshal(notice)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, k.site.limits.notify)
	defer cancel()
	x := command.Exec{Args: k.site.cfg.Notify, Stdin: bytes.NewReader(append(text, '\n')), Grace: time.Second}
	if err := x.Run(limited); err != nil {
		// What is done about the node does not wait for it.
		return k.site.cfg.Inventory.Note(context.WithoutCancel(ctx), n.Name, "recovery", owner, "nobody could be told: "+err.Error())
	}
	return nil
}
