package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"goldsmith/internal/promotion"
	"goldsmith/pipeline"
)

// promote lets an image into a channel.
type promote struct {
	env    Env
	policy *promotion.Policy
	why    string
}

type promoteWith struct {
	Channel  string // of the pipeline file, or of Channels
	Channels string // path of a file of channels, relative to the pipeline file
	Why      string // the reason that is written down; empty: that the run's stage passed
}

func newPromote(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	var w promoteWith
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	policies, file := p.Policies(), env.File
	if w.Channels != "" {
		var err error
		if policies, err = pipeline.LoadPolicies(env.path(w.Channels)); err != nil {
			return nil, err
		}
		file = env.path(w.Channels)
	}
	c := policies.Channel(w.Channel)
	if c == nil {
		return nil, p.Errorf(stage, "channel", "with.channel %q is not one of the file's channels", w.Channel)
	}
	policy, err := promotion.NewPolicy(c, filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	return &promote{env, policy, w.Why}, nil
}

// Run implements pipeline.Step.
func (s *promote) Run(ctx context.Context, j *pipeline.Job) (*pipeline.Outcome, error) {
	if err := errors.Join(needImage(j), ctx.Err()); err != nil {
		return nil, err
	}
	if s.env.DB == nil {
		return nil, errors.New("promoting needs imgpipe's database, which this worker does not have")
	}
	s.policy.AttestWith(s.env.Store.Key)
	m, err := promotion.New(s.env.DB, s.env.Store.Images).Promote(ctx, s.policy, j.Image, promotion.Word{
		Who: "run " + j.Run, Why: cmp.Or(s.why, fmt.Sprintf("stage %s of run %s", j.Stage, j.Run)),
	})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(j.Log, "%s is %s\n", s.policy.Name, j.Image)
	note := fmt.Sprintf("promoted to %s: the tag %s in %s", s.policy.Name, s.policy.Name, s.env.Store.Images.Dir())
	if m.Already {
		note = fmt.Sprintf("%s held it already", s.policy.Name)
	}
	return &pipeline.Outcome{Notes: []string{note}}, nil
}
