package promotion

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/internal/store"
)

var zero time.Time

// poll is how often somebody else's move is looked at.
const poll = 50 * time.Millisecond

// settle waits for a move of the channel that goes on, finishes one whose owner
// has died, and notes where tags were moved by others: the channel's, and that
// of the one before it. It returns the number of the newest move that was there
// before, 0 for none, or of the one that it finished or found.
func (b *Book) settle(ctx context.Context, channel, from string) (base int64, mended bool, err error) {
	if base, mended, err = b.finishOpen(ctx, channel); err != nil {
		return 0, false, err
	}
	err = b.db.Tx(ctx, func(tx *store.Tx) error {
		if from != "" {
			if _, err := b.adopt(ctx, tx, from); err != nil {
				return err
			}
		}
		id, err := b.adopt(ctx, tx, channel)
		if id != 0 {
			base = id
		}
		return err
	})
	return base, mended, err
}

// finishOpen is settle for a move that was begun.
func (b *Book) finishOpen(ctx context.Context, channel string) (base int64, mended bool, err error) {
	for first := true; ; first = false {
		var o, newest *Row
		err := b.db.View(ctx, func(tx *store.Tx) (err error) {
			if o, err = open(ctx, tx, channel); err == nil {
				newest, err = last(ctx, tx, channel)
			}
			return err
		})
		switch {
		case err != nil:
			return 0, false, err
		case (first || mended) && newest != nil:
			base = newest.ID
		}
		if o == nil {
			return base, mended, nil
		}
		if b.now().Before(o.lease) {
			if err := wait(ctx, poll); err != nil {
				return 0, false, err
			}
			continue
		}
		took, err := b.takeOver(ctx, o)
		if err != nil {
			return 0, false, err
		}
		if !took {
			continue
		}
		if err := b.carry(ctx, o); err != nil {
			return 0, false, fmt.Errorf("finishing the move of %s to %s that %s began: %w", channel, o.Image, o.Who, err)
		}
		mended = true
	}
}

// adopt notes that somebody else has moved a channel's tag, or that it is from
// before there were notes.
func (b *Book) adopt(ctx context.Context, tx *store.Tx, channel string) (id int64, err error) {
	if o, err := open(ctx, tx, channel); err != nil || o != nil {
		return 0, err
	}
	tags, err := b.images.Tags()
	if err != nil {
		return 0, err
	}
	newest, err := last(ctx, tx, channel)
	if err != nil {
		return 0, err
	}
	was := ""
	if newest != nil {
		was = newest.Image
	}
	if tags[channel] == was {
		return 0, nil
	}
	now := store.Millis(b.now())
	return tx.Insert(ctx, `INSERT INTO promotion (channel, image, previous, kind, who, why, at, state, ended)
		VALUES (?, ?, ?, ?, 'unknown', 'the tag was found so', ?, 'done', ?)`, channel, tags[channel], was, kindFound, now, now)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// takeOver makes this process the owner of a move whose owner has died.
func (b *Book) takeOver(ctx context.Context, r *Row) (took bool, err error) {
	owner := newOwner()
	lease := b.now().Add(b.lease)
	err = b.db.Tx(ctx, func(tx *store.Tx) error {
		res, err := tx.Exec(ctx, "UPDATE promotion SET owner = ?, lease = ? WHERE id = ? AND owner = ? AND lease = ? AND state = 'intended'",
			owner, store.Millis(lease), r.ID, r.owner, store.Millis(r.lease))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		took = n == 1
		return err
	})
	r.owner, r.lease = owner, lease
	return took, err
}

// errLost says that another process has taken a move over.
var errLost = errors.New("another process has taken over: this one was silent for too long")

// renew says that the owner of a move is alive.
func (b *Book) renew(ctx context.Context, r *Row) error {
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		res, err := tx.Exec(ctx, "UPDATE promotion SET lease = ? WHERE id = ? AND owner = ? AND state = 'intended'",
			store.Millis(b.now().Add(b.lease)), r.ID, r.owner)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, errLost)
		}
		return nil
	})
}

// keep renews the lease until stop is called; held ends when it is lost.
func (b *Book) keep(ctx context.Context, r *Row) (held context.Context, stop func()) {
	held, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wait(held, b.lease/3) == nil {
			if err := b.renew(held, r); errors.Is(err, errLost) {
				cancel(err)
			}
		}
	}()
	return held, func() { cancel(nil); <-done }
}

// carry does a move that was written down. Each of its steps may be done twice.
func (b *Book) carry(ctx context.Context, r *Row) error {
	held, stop := b.keep(ctx, r)
	moved := false
	err := b.steps(held, r, &moved)
	if cause := context.Cause(held); errors.Is(cause, errLost) {
		err = cause
	}
	stop()
	if err == nil || errors.Is(err, errLost) || errors.Is(err, errKilled) {
		return err
	}
	return errors.Join(err, b.failed(ctx, r, err, moved))
}

// errKilled is what tests end a move with, to leave it as a killed process does.
var errKilled = errors.New("killed")

func (b *Book) steps(ctx context.Context, r *Row, moved *bool) error {
	var statements []attached
	if err := json.Unmarshal([]byte(r.attached), &statements); err != nil {
		return fmt.Errorf("the move's statements: %w", err)
	}
	next := func(name string) error {
		return errors.Join(b.step(name), ctx.Err())
	}
	for _, a := range statements {
		if a.Release {
			if err := next("sign"); err != nil {
				return err
			}
			if _, err := b.attach(r, a); err != nil {
				return err
			}
		}
	}
	if r.registry != "" {
		if err := b.remote(ctx, r, next, moved); err != nil {
			return err
		}
	}
	if err := next("tag"); err != nil {
		return err
	}
	if err := b.tag(r); err != nil {
		return err
	}
	*moved = true
	for _, a := range statements {
		if a.Release {
			continue
		}
		if err := next("attach"); err != nil {
			return err
		}
		digest, err := b.attach(r, a)
		if err != nil {
			return err
		}
		r.Statement = digest
		if r.registry != "" {
			if err := b.images.PushAttached(ctx, digest, r.registry); err != nil {
				return err
			}
		}
	}
	if err := next("finish"); err != nil {
		return err
	}
	return b.finish(ctx, r)
}

// tag moves the layout's tag and reads it back.
func (b *Book) tag(r *Row) error {
	if err := b.images.Tag(r.Image, r.Channel); err != nil {
		return fmt.Errorf("channel %s: %w", r.Channel, err)
	}
	tags, err := b.images.Tags()
	if err == nil && tags[r.Channel] != r.Image {
		err = fmt.Errorf("channel %s: the tag was moved to %s and stands for %q", r.Channel, r.Image, tags[r.Channel])
	}
	return err
}

// remote brings the image and what is attached to it to the registry, and moves
// the tag there.
func (b *Book) remote(ctx context.Context, r *Row, next func(string) error, moved *bool) error {
	if err := next("push"); err != nil {
		return err
	}
	if err := b.images.Push(ctx, r.Image, r.registry); err != nil {
		return err
	}
	refs, err := b.images.Referrers(r.Image, "")
	if err != nil {
		return err
	}
	for _, a := range refs {
		if a.ArtifactType == registry.SignatureType {
			continue // Push has brought them
		}
		if err := b.images.PushAttached(ctx, a.Digest, r.registry); err != nil {
			return err
		}
	}
	if err := next("remote-tag"); err != nil {
		return err
	}
	err = registry.MoveTag(ctx, r.registry, r.Channel, r.Image)
	*moved = true
	if err != nil {
		if got, terr := registry.Tagged(ctx, r.registry, r.Channel); terr == nil && got != r.Image {
			*moved = false
		}
	}
	return err
}

// finish writes down that everything of a move is done.
func (b *Book) finish(ctx context.Context, r *Row) error {
	r.State, r.Ended = "done", store.Time(store.Millis(b.now()))
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		res, err := tx.Exec(ctx, `UPDATE promotion SET state = 'done', statement = ?, ended = ?, error = '', attached = ''
			WHERE id = ? AND owner = ? AND state = 'intended'`, r.Statement, store.Millis(r.Ended), r.ID, r.owner)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, errLost)
		}
		was := r.Previous
		if was == "" {
			was = "nothing"
		}
		return b.event(ctx, tx, r.Who, "%s: %s is now %s, was %s: %s", r.Kind, r.Channel, r.Image, was, r.Why)
	})
}

// failed gives a move up that has moved nothing; else the next call goes on
// with it.
func (b *Book) failed(ctx context.Context, r *Row, why error, moved bool) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer stop()
	state, ended := "failed", store.Millis(b.now())
	if moved {
		state, ended = "intended", 0
	}
	text := command.Plain(why.Error())
	if len(text) > maxWhy {
		text = text[:maxWhy]
	}
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE promotion SET state = ?, lease = 0, ended = ?, error = ? WHERE id = ? AND owner = ? AND state = 'intended'",
			state, ended, text, r.ID, r.owner); err != nil {
			return err
		}
		return b.event(ctx, tx, r.Who, "%s of %s to %s failed: %s", r.Kind, r.Channel, r.Image, text)
	})
}

// Abandon gives up a move of a channel that nobody works on and that cannot be
// finished, since its registry is gone for good. Where the tags are is looked
// at by the next move.
func (b *Book) Abandon(ctx context.Context, channel string, w Word) error {
	if err := w.check(true); err != nil {
		return err
	}
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		o, err := open(ctx, tx, channel)
		switch {
		case err != nil:
			return err
		case o == nil:
			return command.Usage(channel+": no move was left unfinished", "")
		case b.now().Before(o.lease):
			return command.Busy(fmt.Errorf("%s is being moved by %s", channel, o.Who), "wait for it to end")
		}
		if err := tx.One(ctx, "UPDATE promotion SET state = 'failed', ended = ?, error = ? WHERE id = ?",
			store.Millis(b.now()), "given up by "+w.Who+": "+w.Why, o.ID); err != nil {
			return err
		}
		return b.event(ctx, tx, w.Who, "gave up the move of %s to %s: %s", channel, o.Image, w.Why)
	})
}

// newOwner is a name that no other process has.
func newOwner() string { return rand.Text() }
