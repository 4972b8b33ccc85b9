package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// both are the stages of two policies, in the first one's order, then those that
// only the second has.
func both(a, b Policy) []string {
	var list []string
	for _, p := range []Policy{a, b} {
		for _, s := range p.Stages {
			if !slices.Contains(list, s.Name) {
				list = append(list, s.Name)
			}
		}
	}
	return list
}

// facets are what a transition knows of a stage, under keys that end with ": "
// and its name.
func facets(s *Shown, name string) map[string]string {
	i := slices.IndexFunc(s.Rules.Stages, func(st Stage) bool { return st.Name == name })
	if i < 0 {
		return nil
	}
	st, t := s.Rules.Stages[i], s.Input.Tasks[i]
	f := map[string]string{
		"policy uses": st.Uses, "policy needs": strings.Join(st.Needs, ", "), "policy if": st.If, "policy skip": st.Skip, "policy retry": fmt.Sprint(st.Retry),
		"policy retry delay": st.RetryDelay.String(), "policy timeout": st.Timeout.String(), "policy requires": strings.Join(st.Requires, ", "),
		"state": string(t.State), "image": t.Image, "failures": strings.Join(t.Failures, ", "),
	}
	out := map[string]string{}
	for k, v := range f {
		out[k+": "+name] = v
	}
	return out
}

func sorted(a, b map[string]string) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

func names(list []WorkerNow) string {
	var out []string
	for _, w := range list {
		out = append(out, w.Name)
	}
	return strings.Join(out, ", ")
}

// decided says how two decisions differ.
func decided(a, b Decision) []Difference {
	x, y := lines(a), lines(b)
	var list []Difference
	for _, key := range sorted(x, y) {
		if x[key] != y[key] {
			list = append(list, Difference{key, x[key], y[key]})
		}
	}
	return list
}

// lines are what a decision does and does not do, with the reasons.
func lines(d Decision) map[string]string {
	out := map[string]string{}
	for _, a := range d.Actions {
		text := a.Reason
		if a.Image != "" {
			text += " (image " + a.Image + ")"
		}
		if a.State != "" {
			text = string(a.State) + ": " + text
		}
		if !a.NotBefore.IsZero() {
			text += " (not before " + a.NotBefore.Format(time.RFC3339) + ")"
		}
		out[strings.TrimSpace("action: "+string(a.Do)+" "+a.Stage)] = text
	}
	for _, w := range d.Waits {
		out["not done: "+w.Stage] = w.Reason
	}
	return out
}

// percentiles of some durations, by the nearest rank.
func percentiles(all []time.Duration) Duration {
	slices.Sort(all)
	at := func(p int) time.Duration { return all[(len(all)*p+99)/100-1] }
	return Duration{at(50), at(90), len(all)}
}
