package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"goldsmith/internal/api"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
)

// bring copies the images that an attempt works on from the server: the one
// under test, and those that the stage looks at. They stay as long as need says.
func (r *remote) bring(ctx context.Context, a *engine.Assignment, need *needs) error {
	p, err := pipeline.Parse(a.File, a.Source, a.Inputs, step.Names())
	if err != nil {
		return nil // the stage says so, better
	}
	reads, err := step.Reads(p, a.Stage)
	if err != nil {
		return err
	}
	if a.Image != "" {
		reads = append(reads, step.Read{Digest: a.Image, Disk: true})
	}
	for _, read := range reads {
		if err := persist(ctx, func() error { return r.bringOne(ctx, read, need) }); err != nil {
			return fmt.Errorf("image %s%s cannot be brought here: %w", read.Channel, read.Digest, err)
		}
	}
	return nil
}

func (r *remote) bringOne(ctx context.Context, read step.Read, need *needs) (err error) {
	peer, images := r.client.Images(), r.runner.Env.Store.Images
	digest := read.Digest
	if read.Channel != "" {
		if digest, err = peer.Tag(ctx, read.Channel); err != nil {
			return err
		}
	}
	if digest != "" {
		need.add(digest)
		if err := images.Bring(ctx, peer, digest, read.Disk); err != nil {
			return err
		}
	}
	if read.Channel != "" {
		return images.Follow(read.Channel, digest)
	}
	return nil
}

// sendImages copies what an attempt made, or found out about an image, to the
// server, before that is said to be there. What an attempt that was killed left
// here goes along.
func (r *remote) sendImages(ctx context.Context, a *engine.Assignment, made string) error {
	digests := []string{made}
	if a.Image != made {
		digests = append(digests, a.Image)
	}
	for _, digest := range digests {
		if digest == "" {
			continue
		}
		if err := persist(ctx, func() error { return r.runner.Env.Store.Images.Send(ctx, r.client.Images(), digest) }); err != nil {
			return fmt.Errorf("image %s could not be sent: %w", digest, err)
		}
	}
	return nil
}

// persistFor is how long something is tried again that failed for want of a
// network or server, and how soon at first.
var persistFor, persistFirst = 5 * time.Minute, 500 * time.Millisecond

// persist does something again and again while it may go well a little later.
// An attempt whose heartbeats do not arrive either is lost before that; one that
// was told to end does nothing twice.
func persist(ctx context.Context, do func() error) error {
	limit := time.Now().Add(persistFor)
	for pause := persistFirst; ; pause = min(2*pause, 15*time.Second) {
		err := do()
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return errors.Join(cause, err)
		}
		if err == nil || !api.Temporary(err) || time.Now().Add(pause).After(limit) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
