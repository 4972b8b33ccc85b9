// Package promotion moves channels: tags that stand for images, in the image
// layout and in registries. Who may move one, and to what, is decided by
// [pipeline.Gate]; this package gathers the facts for it and does what it
// allows.
//
// The model: the tag is where a channel points, the database says how it came
// there. A move is written down before anything happens (intended), then the
// tag is moved and read back, the signed statement attached, and the row
// finished. A process that dies on the way leaves the intention, and the next
// call that has to do with the channel does the rest of it, with the same
// bytes. While an owner lives it renews a lease; others wait for it, and are
// then told what became of the channel.
//
// What a person says (approvals, holds, freezes) is a row with who, why and
// when, and is ended and never deleted. Whether somebody is who they say, and
// what their role allows, is the caller's to know.
package promotion

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/internal/store"
)

// Book is a database of channels, and the layout with their images. It is safe
// for several goroutines and processes.
type Book struct {
	db     *store.DB
	images *registry.Layout
	now    func() time.Time
	lease  time.Duration
	// step is called before each step of a move, for tests.
	step func(name string) error
}

// leaseTime is how long a process that moves a channel is believed to be alive
// when nothing is heard of it.
const leaseTime = 15 * time.Second

// New returns the book in a database about the images of a layout.
func New(db *store.DB, images *registry.Layout) *Book {
	return &Book{db: db, images: images, now: time.Now, lease: leaseTime, step: func(string) error { return nil }}
}

// Word is what a person says about something.
type Word struct {
	Who string // required
	Why string // required but for approvals
}

var whoRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._+@:/-]{0,127}$`)

// maxWhy bounds a reason, in bytes.
const maxWhy = 1000

func (w Word) check(needsWhy bool) error {
	switch {
	case !whoRE.MatchString(w.Who):
		return command.Usage(fmt.Sprintf("%.80q is no name of a person", w.Who), "letters, digits and ._+@:/-")
	case needsWhy && strings.TrimSpace(w.Why) == "":
		return command.Usage("a reason is needed", "say it with --why")
	case len(w.Why) > maxWhy || strings.ContainsAny(w.Why, "\n\r"):
		return command.Usage(fmt.Sprintf("the reason is longer than one line of %d bytes", maxWhy), "")
	}
	return nil
}

// Authored notes who made an image: who wrote the commit, who started the run.
// Nobody of them can approve it. The same once more changes nothing.
func (b *Book) Authored(ctx context.Context, image string, who ...string) error {
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		for _, w := range who {
			if _, err := tx.Exec(ctx, "INSERT INTO image_author (image, who, at) VALUES (?, ?, ?) ON CONFLICT (image, who) DO NOTHING",
				image, w, store.Millis(b.now())); err != nil {
				return err
			}
		}
		return nil
	})
}

// KeepAuthors notes, before a run is forgotten, who made the images that it
// made: somebody may bring one back, whose author must not approve it then.
func (b *Book) KeepAuthors(ctx context.Context, tx *store.Tx, run int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO image_author (image, who, at)
		SELECT t.image, r.author, CAST(?1 AS BIGINT) FROM run r JOIN task t ON t.run = ?2
			WHERE r.id = ?3 AND t.made = 1 AND t.image <> '' AND r.author <> ''
		UNION SELECT t.image, e.who, CAST(?1 AS BIGINT) FROM event e JOIN task t ON t.run = e.run
			WHERE e.run = ?2 AND e.run <> '' AND t.made = 1 AND t.image <> '' AND e.who <> ''
			AND e.kind = 'run' AND e.what LIKE 'submitted: %'
		ON CONFLICT (image, who) DO NOTHING`, store.Millis(b.now()), strconv.FormatInt(run, 10), run)
	return err
}

// Approve is one person's word for an image in a channel. Whether it counts is
// the policy's to say. The same person's newer one replaces the older.
func (b *Book) Approve(ctx context.Context, image, channel string, w Word) error {
	if err := w.check(false); err != nil {
		return err
	}
	h, err := b.images.Resolve(image)
	if err != nil {
		return err
	}
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		now := store.Millis(b.now())
		if err := withdraw(ctx, tx, h.String(), channel, w.Who, now); err != nil {
			return err
		}
		if _, err := tx.Insert(ctx, "INSERT INTO approval (image, channel, who, why, at) VALUES (?, ?, ?, ?, ?)",
			h.String(), channel, w.Who, w.Why, now); err != nil {
			return err
		}
		return b.event(ctx, tx, w.Who, "approved %s for %s: %s", h, channel, w.Why)
	})
}

// Withdraw takes a person's approval back.
func (b *Book) Withdraw(ctx context.Context, image, channel string, w Word) error {
	if err := w.check(false); err != nil {
		return err
	}
	h, err := b.images.Resolve(image)
	if err != nil {
		return err
	}
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		if err := withdraw(ctx, tx, h.String(), channel, w.Who, store.Millis(b.now())); err != nil {
			return err
		}
		return b.event(ctx, tx, w.Who, "withdrew the approval of %s for %s: %s", h, channel, w.Why)
	})
}

func withdraw(ctx context.Context, tx *store.Tx, image, channel, who string, now int64) error {
	_, err := tx.Exec(ctx, "UPDATE approval SET withdrawn = ? WHERE image = ? AND channel = ? AND who = ? AND withdrawn = 0",
		now, image, channel, who)
	return err
}

// Hold keeps a channel as it is, or an image out of all channels, until it is
// released or until a time; the zero time is no time. subject is the name of a
// channel, or the whole digest of an image.
func (b *Book) Hold(ctx context.Context, subject string, until time.Time, w Word) error {
	if err := b.checkStop(until, w); err != nil {
		return err
	}
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		if err := b.hold(ctx, tx, subject, "hold", until, w); err != nil {
			return err
		}
		return b.event(ctx, tx, w.Who, "held %s: %s", subject, w.Why)
	})
}

func (b *Book) checkStop(until time.Time, w Word) error {
	if !until.IsZero() && !until.After(b.now()) {
		return command.Usage("that time is over", "give a time to come, or none")
	}
	return w.check(true)
}

func (b *Book) hold(ctx context.Context, tx *store.Tx, subject, cause string, until time.Time, w Word) error {
	_, err := tx.Insert(ctx, "INSERT INTO hold (subject, cause, who, why, at, until) VALUES (?, ?, ?, ?, ?, ?)",
		subject, cause, w.Who, w.Why, store.Millis(b.now()), store.Millis(until))
	return err
}

// Release ends all holds of a channel or an image, also that of a rollback.
func (b *Book) Release(ctx context.Context, subject string, w Word) error {
	return b.end(ctx, "hold", "subject", subject, w, "released", subject+": nothing holds it")
}

// Freeze stops all promotions into a channel, or into any when channel is
// empty, until it is thawed or until a time.
func (b *Book) Freeze(ctx context.Context, channel string, until time.Time, w Word) error {
	if err := b.checkStop(until, w); err != nil {
		return err
	}
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		if _, err := tx.Insert(ctx, "INSERT INTO frozen (channel, who, why, at, until) VALUES (?, ?, ?, ?, ?)",
			channel, w.Who, w.Why, store.Millis(b.now()), store.Millis(until)); err != nil {
			return err
		}
		return b.event(ctx, tx, w.Who, "froze %s: %s", all(channel), w.Why)
	})
}

// Thaw ends the freezes of a channel, or those of all when channel is empty. It
// does not touch the windows of policies.
func (b *Book) Thaw(ctx context.Context, channel string, w Word) error {
	return b.end(ctx, "frozen", "channel", channel, w, "thawed", all(channel)+": no freeze of an operator")
}

func (b *Book) end(ctx context.Context, table, column, value string, w Word, word, none string) error {
	if err := w.check(true); err != nil {
		return err
	}
	return b.db.Tx(ctx, func(tx *store.Tx) error {
		now := store.Millis(b.now())
		r, err := tx.Exec(ctx, "UPDATE "+table+" SET ended = ?, ended_by = ?, ended_why = ? WHERE "+column+
			" = ? AND ended = 0 AND (until = 0 OR until > ?)", now, w.Who, w.Why, value, now)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, command.Usage(none, "'imgpipe channels' shows what is held and frozen"))
		}
		return b.event(ctx, tx, w.Who, "%s %s: %s", word, all(value), w.Why)
	})
}

func all(channel string) string {
	if channel == "" {
		return "all channels"
	}
	return channel
}

// event adds to what happened.
func (b *Book) event(ctx context.Context, tx *store.Tx, who, format string, args ...any) error {
	what := strings.TrimSuffix(fmt.Sprintf(format, args...), ": ")
	tx.Did(what)
	_, err := tx.Exec(ctx, "INSERT INTO event (at, node, kind, who, what) VALUES (?, '', 'promotion', ?, ?)", store.Millis(b.now()), who, what)
	return err
}
