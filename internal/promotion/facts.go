package promotion

import (
	"context"
	"time"

	"goldsmith/internal/attest"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
)

// Row is one move of a channel.
type Row struct {
	ID        int64     `json:"id"` // grows with time
	Channel   string    `json:"channel"`
	Image     string    `json:"image"`
	Previous  string    `json:"previous,omitempty"`
	Kind      string    `json:"kind"` // promote, rollback, or found: somebody else moved the tag
	Who       string    `json:"who"`
	Why       string    `json:"why"`
	At        time.Time `json:"at"`
	State     string    `json:"state"` // intended, done or failed
	Policy    string    `json:"policy,omitempty"`
	Statement string    `json:"statement,omitempty"` // digest of what is attached to the image
	Decision  string    `json:"-"`                   // JSON
	Ended     time.Time `json:"ended,omitzero"`
	Error     string    `json:"error,omitempty"`

	owner, attached, registry string
	lease                     time.Time
}

const rowFields = `id, channel, image, previous, kind, who, why, at, state, owner, lease, attached, registry,
	decision, policy, statement, ended, error`

func queryRows(ctx context.Context, tx *store.Tx, where string, args ...any) (out []*Row, err error) {
	rows, err := tx.Query(ctx, "SELECT "+rowFields+" FROM promotion WHERE "+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r := &Row{}
		var at, lease, ended int64
		if err := rows.Scan(&r.ID, &r.Channel, &r.Image, &r.Previous, &r.Kind, &r.Who, &r.Why, &at, &r.State, &r.owner,
			&lease, &r.attached, &r.registry, &r.Decision, &r.Policy, &r.Statement, &ended, &r.Error); err != nil {
			return nil, err
		}
		r.At, r.lease, r.Ended = store.Time(at), store.Time(lease), store.Time(ended)
		out = append(out, r)
	}
	return out, rows.Err()
}

// one returns the only row of a query, or nil.
func one(ctx context.Context, tx *store.Tx, where string, args ...any) (*Row, error) {
	rows, err := queryRows(ctx, tx, where, args...)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return rows[0], nil
}

// open is the move of a channel that is going on or was left, or nil.
func open(ctx context.Context, tx *store.Tx, channel string) (*Row, error) {
	return one(ctx, tx, "channel = ? AND state = 'intended'", channel)
}

// last is the newest move of a channel that was done, or nil.
func last(ctx context.Context, tx *store.Tx, channel string) (*Row, error) {
	return one(ctx, tx, "channel = ? AND state = 'done' ORDER BY id DESC LIMIT 1", channel)
}

// Moves returns the moves of a channel, oldest first; of all channels when it
// is empty.
func (b *Book) Moves(ctx context.Context, channel string) (out []*Row, err error) {
	err = b.db.View(ctx, func(tx *store.Tx) error {
		out, err = queryRows(ctx, tx, "?1 = '' OR channel = ?1 ORDER BY id", channel)
		return err
	})
	return out, err
}

// facts gathers what a gate must know about an image and a channel.
func (b *Book) facts(ctx context.Context, tx *store.Tx, p *Policy, image string, proofs []pipeline.Proof) (pipeline.Facts, error) {
	f := pipeline.Facts{Image: image, Proofs: proofs}
	var err error
	if p.From != "" {
		if f.Stays, err = stays(ctx, tx, p.From, image); err != nil {
			return f, err
		}
	}
	if f.Stops, err = b.stops(ctx, tx, p.Name, image); err != nil {
		return f, err
	}
	err = each(ctx, tx, "SELECT who, why, at FROM approval WHERE image = ? AND channel = ? AND withdrawn = 0 ORDER BY id",
		func(scan func(...any) error) error {
			var a pipeline.Approval
			var at int64
			err := scan(&a.Who, &a.Why, &at)
			a.At = store.Time(at)
			f.Approvals = append(f.Approvals, a)
			return err
		}, image, p.Name)
	if err != nil {
		return f, err
	}
	// Authors are who was noted, and of the runs that built it who is said to
	// have made it, and who submitted them.
	// When a run is forgotten, KeepAuthors notes them.
	return f, each(ctx, tx, `SELECT who FROM image_author WHERE image = ?1
		UNION SELECT r.author FROM run r JOIN task t ON t.run = CAST(r.id AS TEXT) WHERE t.image = ?1 AND t.made = 1
		UNION SELECT e.who FROM event e JOIN task t ON t.run = e.run WHERE t.image = ?1 AND t.made = 1
			AND e.run <> '' AND e.kind = 'run' AND e.what LIKE 'submitted: %'
		ORDER BY 1`, func(scan func(...any) error) error {
		var who string
		err := scan(&who)
		if who != "" {
			f.Authors = append(f.Authors, who)
		}
		return err
	}, image)
}

// stays are the stretches of time in which a channel held an image that a gate
// had let in.
func stays(ctx context.Context, tx *store.Tx, channel, image string) (out []pipeline.Stay, err error) {
	rows, err := queryRows(ctx, tx, "channel = ? AND state = 'done' ORDER BY id", channel)
	if err != nil {
		return nil, err
	}
	for i, r := range rows {
		if r.Image != image || r.Kind == kindFound {
			continue
		}
		s := pipeline.Stay{Since: r.Ended}
		if i+1 < len(rows) {
			s.Until, s.RolledBack = rows[i+1].Ended, rows[i+1].Kind == kindRollback
		}
		out = append(out, s)
	}
	return out, nil
}

// stops are the holds and freezes in force of a channel, and of an image where
// one is given.
func (b *Book) stops(ctx context.Context, tx *store.Tx, channel, image string) (out []pipeline.Stop, err error) {
	now := store.Millis(b.now())
	take := func(scan func(...any) error) error {
		var s pipeline.Stop
		var at, until int64
		err := scan(&s.What, &s.On, &s.Who, &s.Why, &at, &until)
		if s.On == "" {
			s.On = "all"
		}
		s.Since, s.Until = store.Time(at), store.Time(until)
		out = append(out, s)
		return err
	}
	err = each(ctx, tx, `SELECT cause, subject, who, why, at, until FROM hold
		WHERE (subject = ? OR subject = ?) AND ended = 0 AND (until = 0 OR until > ?) ORDER BY id`, take, channel, image, now)
	if err != nil {
		return nil, err
	}
	err = each(ctx, tx, `SELECT 'freeze', channel, who, why, at, until FROM frozen
		WHERE (channel = ? OR channel = '') AND ended = 0 AND (until = 0 OR until > ?) ORDER BY id`, take, channel, now)
	return out, err
}

func each(ctx context.Context, tx *store.Tx, query string, take func(scan func(...any) error) error, args ...any) error {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := take(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Decide asks the gate about an image and a channel, and moves nothing.
func (b *Book) Decide(ctx context.Context, p *Policy, image string) (d pipeline.Decision, err error) {
	h, err := b.images.Resolve(image)
	if err != nil {
		return d, err
	}
	proofs, err := attest.Proofs(b.images, h.String(), p.keys)
	if err != nil {
		return d, err
	}
	err = b.db.View(ctx, func(tx *store.Tx) error {
		f, err := b.facts(ctx, tx, p, h.String(), proofs)
		d = pipeline.Gate(p.Channel, f, b.now())
		return err
	})
	return d, err
}
