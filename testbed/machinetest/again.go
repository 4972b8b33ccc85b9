package machinetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"goldsmith/internal/evidence"
)

// Run runs the tests: those that share a machine first, then each of the others
// on one of its own. The results are in the order of the tests. An error means
// that it was interrupted, that a machine could not be made, or that what it
// keeps could not be written; everything else is a result. A test that leaves a
// machine dead which others share has not passed. The machine is revived for the
// tests that follow; when that cannot be done, they are skipped and say so.
func (r *Runner) Run(ctx context.Context, tests []*Test) ([]evidence.Test, error) {
	results := map[*Test]evidence.Test{}
	inOrder := func() (list []evidence.Test) {
		for _, t := range tests {
			if res, ok := results[t]; ok {
				list = append(list, res)
			}
		}
		return list
	}
	for _, group := range Groups(tests) {
		lost := ""
		for i, t := range group {
			if why := r.not(t, lost); why != "" {
				results[t] = evidence.Test{Name: t.Name, Element: t.Element, Result: evidence.Skip, Reason: why}
				continue
			}
			res, err := r.test(ctx, t)
			if err != nil {
				return inOrder(), err
			}
			if !t.Alone() && ctx.Err() == nil && !r.answers(ctx) && ctx.Err() == nil && !r.after(ctx, t, &res, i < len(group)-1) {
				lost = t.Label()
			}
			results[t] = res
			if ctx.Err() != nil {
				return inOrder(), context.Cause(ctx)
			}
		}
	}
	return inOrder(), nil
}

// not says why a test is not run; empty means that it is.
func (r *Runner) not(t *Test, lost string) string {
	switch {
	case lost != "":
		return "not run: the machine was lost in " + lost
	case t.Alone() && r.Renew == nil:
		return "not run: it has a machine of its own, and there is one"
	}
	return ""
}

// after revives the machine that a test has left dead, where it is needed, and
// tells whether it lives. Such a test has not passed.
func (r *Runner) after(ctx context.Context, t *Test, res *evidence.Test, needed bool) (lives bool) {
	const dead = "the machine did not answer after it"
	because := dead
	if needed {
		err := r.revive(ctx)
		lives, because = err == nil, dead+" and was revived"
		if err != nil {
			because = dead + " and could not be revived: " + OneLine(err.Error())
		}
	}
	if res.Result == evidence.Fail {
		res.Because += "; " + because
		return lives
	}
	res.Result, res.Class, res.Reason, res.Because = evidence.Fail, evidence.Unknown, dead, because
	*res = r.snooze(t, *res)
	return lives
}

// answers tells whether commands can still be run.
func (r *Runner) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.Patience, patience))
	defer cancel()
	return r.Shell.Wait(ctx) == nil
}

// revive makes the machine usable again, so often and not more.
func (r *Runner) revive(ctx context.Context) error {
	switch {
	case r.Revive == nil:
		return errors.New("there is no way to")
	case r.revived == maxRevivals:
		return fmt.Errorf("it was revived %d times already", r.revived)
	}
	r.revived++
	return r.Revive(ctx)
}

// test runs one test as often as it takes.
func (r *Runner) test(ctx context.Context, t *Test) (evidence.Test, error) {
	var earlier []evidence.Try
	again, retries := r.Again, r.Retries
	for n := 1; ; n++ {
		res, err := r.attempt(ctx, t, n)
		if err != nil {
			return res, err
		}
		if n > 1 {
			res.Attempts, res.Earlier = n, earlier
		}
		if res.Result == evidence.Skip && n > 1 { // what it said before stands
			last := earlier[len(earlier)-1]
			res.Result, res.Class, res.Reason = evidence.Fail, last.Class, last.Reason
			res.Because = last.Because + "; run again it was skipped"
			return r.snooze(t, res), nil
		}
		if res.Result != evidence.Fail {
			if again < r.Again {
				res.Class, res.Because = evidence.Flake, "it passed when it was run again: "+earlier[len(earlier)-1].Reason
			}
			return res, nil
		}
		infra := res.Class == evidence.Infra && retries > 0
		switch {
		case infra:
			retries--
		case again > 0:
			again--
		default:
			return r.snooze(t, res), nil
		}
		if err := r.ready(ctx, t, infra); err != nil {
			res.Because += "; it was not run again: " + OneLine(err.Error())
			return r.snooze(t, res), context.Cause(ctx)
		}
		earlier = append(earlier, evidence.Try{Class: res.Class, Reason: res.Reason, Because: res.Because, Output: res.Output, Seconds: res.Seconds})
	}
}

// ready makes the machine fit for a test that is to be run again. One of a
// test's own is made anew in any case.
func (r *Runner) ready(ctx context.Context, t *Test, infra bool) error {
	if t.Alone() || !infra && r.answers(ctx) {
		return nil
	}
	return r.revive(ctx)
}

func (r *Runner) snooze(t *Test, res evidence.Test) evidence.Test {
	now := time.Now()
	if r.Now != nil {
		now = r.Now()
	}
	if z := r.Snoozes.Find(t, r.Platform, now); z != nil {
		res.Snoozed = z.URL
	}
	return res
}
