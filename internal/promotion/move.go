package promotion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"goldsmith/internal/attest"
	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/internal/store"
	"goldsmith/internal/trust"
	"goldsmith/pipeline"
)

// Kinds of moves.
const (
	kindPromote  = "promote"
	kindRollback = "rollback"
	kindFound    = "found"
)

// Move is what became of a promotion.
type Move struct {
	Row
	// Already tells that the channel held the image before, so that nothing was
	// done.
	Already bool `json:"already,omitempty"`
	// Mended tells that a move which somebody had begun was finished first.
	Mended bool `json:"mended,omitempty"`
}

// attached is a statement that a move attaches to its image.
type attached struct {
	Release   bool   `json:"release,omitempty"` // a release signature, for machines
	Predicate string `json:"predicate"`
	Envelope  []byte `json:"envelope"`
}

// Promote moves a channel to an image if the gate lets it; else the error is a
// *[pipeline.Refusal]. Of several at once one wins, the others are told who.
// The image is named as [registry.Layout.Resolve] takes it.
func (b *Book) Promote(ctx context.Context, p *Policy, image string, w Word) (*Move, error) {
	if err := w.check(true); err != nil {
		return nil, err
	}
	h, err := b.images.Resolve(image)
	if err != nil {
		return nil, err
	}
	base, mended, err := b.settle(ctx, p.Name, p.From)
	if err != nil {
		return nil, err
	}
	proofs, err := attest.Proofs(b.images, h.String(), p.keys)
	if err != nil {
		return nil, err
	}
	return b.move(ctx, base, mended, p.Name, func(tx *store.Tx, r *Row, found bool) error {
		r.Image, r.Kind, r.Who, r.Why = h.String(), kindPromote, w.Who, w.Why
		f, err := b.facts(ctx, tx, p, r.Image, proofs)
		if err != nil {
			return err
		}
		d := pipeline.Gate(p.Channel, f, b.now())
		if r.Previous == r.Image && !found {
			return nil // it is there, whatever is said of it now
		}
		if err := d.Err(); err != nil {
			return err
		}
		return b.intend(ctx, tx, p, r, d)
	})
}

// Rollback moves a channel back to what it held before, and holds it there
// until it is released. No gate is asked: this is the way out.
func (b *Book) Rollback(ctx context.Context, p *Policy, w Word) (*Move, error) {
	if err := w.check(true); err != nil {
		return nil, err
	}
	base, mended, err := b.settle(ctx, p.Name, "")
	if err != nil {
		return nil, err
	}
	return b.move(ctx, base, mended, p.Name, func(tx *store.Tx, r *Row, _ bool) error {
		rows, err := queryRows(ctx, tx, "channel = ? AND state = 'done' ORDER BY id", p.Name)
		if err != nil {
			return err
		}
		target := before(rows)
		if target == "" {
			return command.Usage(p.Name+": it held nothing before that it could go back to", "'imgpipe hold' keeps a channel as it is")
		}
		if _, err := b.images.Resolve(target); err != nil {
			return fmt.Errorf("%s held %s before: %w", p.Name, target, err)
		}
		r.Image, r.Kind, r.Who, r.Why = target, kindRollback, w.Who, w.Why
		if err := b.hold(ctx, tx, p.Name, kindRollback, zero, w); err != nil {
			return err
		}
		return b.intend(ctx, tx, p, r, pipeline.Decision{Image: target, Channel: p.Name, At: b.now(), Open: true})
	})
}

// before returns what a channel held before what it holds, given its moves: of
// what it was rolled back from nothing counts any more.
func before(rows []*Row) string {
	var stack []string
	for _, r := range rows {
		if r.Kind == kindRollback {
			for len(stack) > 0 && stack[len(stack)-1] != r.Image {
				stack = stack[:len(stack)-1]
			}
		}
		if r.Image != "" && (len(stack) == 0 || stack[len(stack)-1] != r.Image) {
			stack = append(stack, r.Image)
		}
	}
	if len(stack) < 2 {
		return ""
	}
	return stack[len(stack)-2]
}

// move plans a move in one transaction and does it. The channel's newest move
// must still be the one with the number base; found tells plan that it was
// nobody's whom a gate had asked.
func (b *Book) move(ctx context.Context, base int64, mended bool, channel string, plan func(tx *store.Tx, r *Row, found bool) error) (*Move, error) {
	m := &Move{Mended: mended}
	err := b.db.Tx(ctx, func(tx *store.Tx) error {
		m.Row = Row{Channel: channel, At: b.now()}
		if o, err := open(ctx, tx, channel); err != nil || o != nil {
			return errors.Join(err, b.taken(o))
		}
		newest, err := last(ctx, tx, channel)
		if err != nil {
			return err
		}
		found := false
		if newest != nil {
			if newest.ID != base {
				return b.taken(newest)
			}
			m.Previous, found = newest.Image, newest.Kind == kindFound
		}
		return plan(tx, &m.Row, found)
	})
	if err != nil {
		return nil, err
	}
	if m.ID == 0 {
		m.Already = true
		return m, nil
	}
	return m, b.carry(ctx, &m.Row)
}

// taken says that somebody else was faster.
func (b *Book) taken(r *Row) error {
	if r == nil {
		return nil
	}
	return command.Busy(fmt.Errorf("%s was moved to %s by %s meanwhile: %s", r.Channel, r.Image, r.Who, r.Why),
		"look at it, then ask again if it is still wanted")
}

// intend writes down a move, with everything that another process needs to
// finish it.
func (b *Book) intend(ctx context.Context, tx *store.Tx, p *Policy, r *Row, d pipeline.Decision) error {
	r.State, r.Policy, r.registry = "intended", p.Hash, p.Registry
	r.At = store.Time(store.Millis(r.At)) // as it is read back
	statements, err := b.statements(p, r, d)
	if err != nil {
		return err
	}
	text, err := json.Marshal(statements)
	if err != nil {
		return err
	}
	decision, err := json.Marshal(d)
	if err != nil {
		return err
	}
	r.attached, r.Decision = string(text), string(decision)
	r.owner, r.lease = newOwner(), b.now().Add(b.lease)
	tx.Did(fmt.Sprintf("%s: %s to %s, from %s: %s", r.Kind, r.Channel, r.Image, r.Previous, r.Why))
	r.ID, err = tx.Insert(ctx, `INSERT INTO promotion (channel, image, previous, kind, who, why, at, state, owner, lease, attached, registry, decision, policy)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.Channel, r.Image, r.Previous, r.Kind, r.Who, r.Why, store.Millis(r.At), r.State, r.owner, store.Millis(r.lease),
		r.attached, r.registry, r.Decision, r.Policy)
	return err
}

// statements makes what a move attaches: first the release signature that
// machines ask for, where the channel has a key, and last the word on the move.
func (b *Book) statements(p *Policy, r *Row, d pipeline.Decision) (out []attached, err error) {
	img, err := b.images.Image(r.Image)
	if err != nil {
		return nil, err
	}
	var keys []*trust.PrivateKey
	switch {
	case p.key == nil && p.word != nil:
		keys = append(keys, p.word)
	case p.key != nil:
		keys = append(keys, p.key)
		if img.Arch != "" {
			said := trust.Predicate{Name: img.Name, Version: img.Version, Arch: img.Arch}
			envelope, err := trust.Sign(r.Image, said, p.key)
			if err != nil {
				return nil, err
			}
			out = append(out, attached{Release: true, Envelope: envelope})
		}
	}
	said := attest.Promotion{Channel: r.Channel, From: p.From, Previous: r.Previous, Kind: r.Kind, Who: r.Who, Why: r.Why,
		At: r.At, Policy: r.Policy, Evidence: d.Evidence}
	for _, a := range d.Approvals {
		said.Approvals = append(said.Approvals, attest.Approval(a))
	}
	envelope, err := attest.Make(img.Name, r.Image, attest.PromotionType, said, keys...)
	return append(out, attached{Predicate: attest.PromotionType, Envelope: envelope}), err
}

// attach attaches one statement to the image of a move; once more changes
// nothing.
func (b *Book) attach(r *Row, a attached) (string, error) {
	if a.Release {
		return b.images.Attach(r.Image, registry.SignatureType, nil,
			registry.Blob{Title: trust.Title, MediaType: trust.MediaType, Content: a.Envelope})
	}
	return attest.AttachEnvelope(b.images, r.Image, a.Predicate, a.Envelope)
}
