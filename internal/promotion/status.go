package promotion

import (
	"context"
	"time"

	"goldsmith/internal/store"
	"goldsmith/pipeline"
)

// State is how a channel stands.
type State struct {
	Channel  string    `json:"channel"`
	Image    string    `json:"image,omitempty"` // what it holds; empty: nothing
	Name     string    `json:"name,omitempty"`  // of that image
	Version  string    `json:"version,omitempty"`
	Since    time.Time `json:"since,omitzero"` // zero where somebody else moved the tag and nothing was noted yet
	Kind     string    `json:"kind,omitempty"`
	Who      string    `json:"who,omitempty"`
	Why      string    `json:"why,omitempty"`
	Previous string    `json:"previous,omitempty"` // what a rollback would go back to
	// Unfinished is a move that goes on or was left.
	Unfinished *Row            `json:"unfinished,omitempty"`
	Stops      []pipeline.Stop `json:"stops,omitempty"` // of the channel
	// Next is what the gate says about the next image: what the channel before
	// holds, or the newest image where there is none. Nil when the channel holds
	// that already.
	Next *pipeline.Decision `json:"next,omitempty"`
}

// Channels says how channels stand, in the order of the policies.
func (b *Book) Channels(ctx context.Context, policies []*Policy) (out []State, err error) {
	tags, err := b.images.Tags()
	if err != nil {
		return nil, err
	}
	images, err := b.images.List()
	if err != nil {
		return nil, err
	}
	for _, p := range policies {
		s := State{Channel: p.Name, Image: tags[p.Name]}
		err := b.db.View(ctx, func(tx *store.Tx) error { return b.state(ctx, tx, &s) })
		if err != nil {
			return nil, err
		}
		if s.Image != "" {
			img, err := b.images.Image(s.Image)
			if err != nil {
				return nil, err
			}
			s.Name, s.Version = img.Name, img.Version
		}
		next := tags[p.From]
		if p.From == "" && len(images) > 0 {
			next = images[len(images)-1]
		}
		if next != "" && next != s.Image {
			d, err := b.Decide(ctx, p, next)
			if err != nil {
				return nil, err
			}
			s.Next = &d
		}
		out = append(out, s)
	}
	return out, nil
}

func (b *Book) state(ctx context.Context, tx *store.Tx, s *State) (err error) {
	if s.Stops, err = b.stops(ctx, tx, s.Channel, s.Channel); err != nil {
		return err
	}
	if s.Unfinished, err = open(ctx, tx, s.Channel); err != nil {
		return err
	}
	rows, err := queryRows(ctx, tx, "channel = ? AND state = 'done' ORDER BY id", s.Channel)
	if err != nil || len(rows) == 0 {
		return err
	}
	if r := rows[len(rows)-1]; r.Image == s.Image {
		s.Since, s.Kind, s.Who, s.Why = r.Ended, r.Kind, r.Who, r.Why
	}
	s.Previous = before(rows)
	return nil
}
