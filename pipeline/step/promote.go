package step

import (
	"context"
	"errors"
	"fmt"

	"goldsmith/pipeline"
)

// promote lets an image into a channel.
type promote struct {
	env     Env
	channel *pipeline.Channel
}

type promoteWith struct {
	Channel string // of the pipeline file
}

func newPromote(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	var w promoteWith
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	c := p.Channel(w.Channel)
	if c == nil {
		return nil, p.Errorf(stage, "channel", "with.channel %q is not one of the file's channels", w.Channel)
	}
	return &promote{env, c}, nil
}

// Run implements pipeline.Step.
func (s *promote) Run(ctx context.Context, j *pipeline.Job) (*pipeline.Outcome, error) {
	if err := errors.Join(needImage(j), ctx.Err()); err != nil {
		return nil, err
	}
	if err := s.env.Store.Promote(j.Image, s.channel); err != nil {
		return nil, err
	}
	fmt.Fprintf(j.Log, "%s is %s\n", s.channel.Name, j.Image)
	return &pipeline.Outcome{Notes: []string{fmt.Sprintf("promoted to %s: the tag %s in %s", s.channel.Name, s.channel.Name, s.env.Store.Images.Dir())}}, nil
}
