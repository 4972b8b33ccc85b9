package pipeline

import "slices"

// link finds out what each stage needs.
func (r *reader) link() {
	r.index = map[string]int{}
	r.names = make([][]string, len(r.doc.Stages))
	for i, s := range r.p.Stages {
		r.index[s.Name] = i
		r.names[s.at] = append(r.names[s.at], s.Name)
	}
	if len(r.index) < len(r.p.Stages) {
		return // what a name means is not clear
	}
	next := 0
	for i := range r.doc.Stages {
		before := len(r.errs)
		for _, c := range r.cells[i] {
			r.p.Stages[next].Needs = r.needsOf(i, c)
			r.quiet = len(r.errs) > before
			next++
		}
		r.quiet = false
	}
	before := len(r.errs)
	r.checkCircles()
	if len(r.errs) == before {
		r.passOver()
	}
}

// needsOf names the stages that a cell of a template needs.
func (r *reader) needsOf(i int, c cell) []string {
	t := r.doc.Stages[i]
	out := []string{}
	if t.Needs == nil {
		if i > 0 {
			out = r.cellsOf(i-1, c, []any{"stages", i}, t.Name)
		}
		return out
	}
	if len(t.Needs) > maxStages {
		r.fail([]any{"stages", i, "needs"}, "stage %s needs %d others: at most %d", t.Name, len(t.Needs), maxStages)
		return out
	}
	for j, n := range t.Needs {
		at := []any{"stages", i, "needs", j}
		if slices.Contains(t.Needs[:j], n) {
			continue
		}
		name, err := r.scope(c).text(n)
		if err != nil {
			r.fail(at, "stage %s: %v", c.of(t.Name), err)
			continue
		}
		k := slices.IndexFunc(r.doc.Stages, func(s stageDocument) bool { return s.Name == name })
		switch {
		case k >= 0:
			out = append(out, r.cellsOf(k, c, at, c.of(t.Name))...)
		case r.has(name):
			out = append(out, name)
		default:
			r.fail(at, "stage %s needs %s, which is not in the file", c.of(t.Name), name)
		}
	}
	return dedupe(out)
}

func (r *reader) has(stage string) bool {
	_, ok := r.index[stage]
	return ok
}

// cellsOf names the cells of template k that a cell needs: where both have the
// same axes, those with the same values.
func (r *reader) cellsOf(k int, c cell, at []any, who string) []string {
	out := []string{}
	name := r.doc.Stages[k].Name
	for j, d := range r.cells[k] {
		if c.agrees(d) {
			out = append(out, r.names[k][j])
		}
	}
	if len(out) == 0 {
		r.fail(at, "stage %s needs %s, of which no cell has its %s", who, name, c)
	}
	return out
}

// dedupe keeps the first of each name.
func dedupe(names []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(names, func(n string) bool {
		before := seen[n]
		seen[n] = true
		return before
	})
}

// checkCircles reports a stage that needs itself.
func (r *reader) checkCircles() {
	// Depth-first search: a stage that is met while it is still open is part
	// of a circle.
	const open, done = 1, 2
	p, state := r.p, map[string]int{}
	var visit func(i int) bool
	visit = func(i int) bool {
		s := p.Stages[i]
		switch state[s.Name] {
		case open:
			r.fail([]any{"stages", s.at}, "stage %s needs itself, directly or through others", s.Name)
			return false
		case done:
			return true
		}
		state[s.Name] = open
		for _, n := range s.Needs {
			if !visit(r.index[n]) {
				return false
			}
		}
		state[s.Name] = done
		return true
	}
	for i := range p.Stages {
		if !visit(i) {
			return
		}
	}
}

// passOver puts what a stage needs that is left out in its place.
func (r *reader) passOver() {
	p := r.p
	real := map[string][]string{} // what stands for a stage among needs
	var stand func(name string) []string
	stand = func(name string) []string {
		if out, ok := real[name]; ok {
			return out
		}
		s := p.Stages[r.index[name]]
		out := []string{name}
		if s.Skip != "" {
			out = nil
			for _, n := range s.Needs {
				out = append(out, stand(n)...)
			}
		}
		real[name] = dedupe(out)
		return real[name]
	}
	needs := make([][]string, len(p.Stages))
	for i, s := range p.Stages {
		needs[i] = []string{}
		for _, n := range s.Needs {
			needs[i] = append(needs[i], stand(n)...)
		}
	}
	for i := range p.Stages {
		p.Stages[i].Needs = dedupe(needs[i])
	}
}
