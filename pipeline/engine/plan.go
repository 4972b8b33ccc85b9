package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"goldsmith/pipeline"
)

// Classes of failure that are the engine's own. What is lost is a worker that was
// silent for too long; it is no fault of what it worked on, so it is tried
// more often.
const (
	ClassInfra  = "infra" // the testbed's fault
	ClassLost   = "lost"
	lostRetries = 5
)

// Plan decides what must happen next in a run. It depends on nothing but its
// arguments, and changes neither.
func Plan(s Snapshot, p Policy) Decision {
	l := planner{s: s, p: p, left: s.Cap - s.Busy}
	if s.Run.State.Ended() {
		return l.d
	}
	if why, state := l.over(); why != "" {
		l.end(why, state)
		return l.d
	}
	open := false
	for i := range p.Stages {
		if l.stage(i) {
			open = true
		}
	}
	if !open && len(l.d.Actions) == 0 {
		l.finish()
	}
	if p.Timeout > 0 {
		l.again(s.Run.Begun.Add(p.Timeout))
	}
	return l.d
}

type planner struct {
	s    Snapshot
	p    Policy
	left int // tasks that may still be started
	d    Decision
}

func (l *planner) do(a Action) { l.d.Actions = append(l.d.Actions, a) }
func (l *planner) wait(stage, reason string) {
	l.d.Waits = append(l.d.Waits, Wait{Stage: stage, Reason: reason})
}
func (l *planner) again(t time.Time) {
	if l.d.Again.IsZero() || t.Before(l.d.Again) {
		l.d.Again = t
	}
}

// over says why the whole run must end now, and how it ends.
func (l *planner) over() (string, pipeline.Status) {
	switch r := l.s.Run; {
	case r.Cancel != "":
		return r.Cancel, pipeline.Cancelled
	case r.Newer != 0:
		return fmt.Sprintf("run %d takes its place", r.Newer), pipeline.Cancelled
	case l.p.Timeout > 0 && !l.s.At.Before(r.Begun.Add(l.p.Timeout)):
		return fmt.Sprintf("did not end within %s", l.p.Timeout), pipeline.Failed
	}
	return "", ""
}

// end stops everything; when nothing goes on any more the run has ended.
func (l *planner) end(why string, state pipeline.Status) {
	going := false
	for i, st := range l.p.Stages {
		switch t := l.s.Tasks[i]; {
		case t.State == pipeline.Running && t.Stopping:
			going = true
			l.wait(st.Name, "is told to end")
		case t.State == pipeline.Running:
			going = true
			l.do(Action{Do: Stop, Stage: st.Name, Reason: why})
		case !t.State.Ended():
			l.do(Action{Do: Skip, Stage: st.Name, State: pipeline.Cancelled, Reason: why})
		}
	}
	if !going {
		l.do(Action{Do: Finish, State: state, Reason: why})
	}
}

// stage decides about one stage and tells whether it is still open.
func (l *planner) stage(i int) bool {
	st, t := l.p.Stages[i], l.s.Tasks[i]
	switch t.State {
	case pipeline.Running:
		return true
	case pipeline.Ready:
		l.wait(st.Name, l.worker(st))
		return true
	case pipeline.Blocked:
		l.wait(st.Name, t.Reason)
		return true
	case pipeline.Failed:
		why, ok := l.retry(st, t)
		if ok {
			a := Action{Do: Retry, Stage: st.Name, Reason: why}
			if st.RetryDelay > 0 {
				a.NotBefore = l.s.At.Add(st.RetryDelay)
			}
			l.do(a)
		}
		return ok
	case pipeline.Todo:
		return l.todo(i)
	}
	return false
}

// worker says what a task waits for that anybody may take.
func (l *planner) worker(st Stage) string {
	for _, w := range l.s.Workers {
		if !slices.ContainsFunc(st.Requires, func(c string) bool { return !slices.Contains(w.Capabilities, c) }) {
			return "waits until a worker takes it"
		}
	}
	switch {
	case len(l.s.Workers) == 0:
		return "no worker was heard of lately"
	case len(st.Requires) > 0:
		return "no worker has " + strings.Join(st.Requires, ", ")
	}
	return "waits until a worker takes it"
}

// retry tells whether a failed task is tried again, and why.
func (l *planner) retry(st Stage, t TaskNow) (string, bool) {
	counted := t.Failures[min(t.Pardon, len(t.Failures)):]
	if len(counted) == 0 {
		return "an operator wants it tried again", len(t.Failures) > 0
	}
	class := counted[len(counted)-1]
	n := 0
	for _, c := range counted {
		if c == class {
			n++
		}
	}
	limit := st.Retry[class]
	if class == ClassLost {
		limit = max(limit, lostRetries)
	}
	return fmt.Sprintf("failure %d of class %s, of which %d are tried again: %s", n, class, limit, t.Reason), n <= limit
}

// final tells whether nothing will change a task any more.
func (l *planner) final(i int) bool {
	t := l.s.Tasks[i]
	if t.State == pipeline.Failed {
		_, again := l.retry(l.p.Stages[i], t)
		return !again
	}
	return t.State.Ended()
}

func (l *planner) todo(i int) bool {
	st, t := l.p.Stages[i], l.s.Tasks[i]
	if st.Skip != "" {
		l.do(Action{Do: Skip, Stage: st.Name, State: pipeline.Skipped, Reason: st.Skip})
		return false
	}
	reason, verdict := l.needs(st)
	switch {
	case verdict == never:
		l.do(Action{Do: Skip, Stage: st.Name, State: pipeline.Skipped, Reason: reason})
		return false
	case verdict == later:
		l.wait(st.Name, reason)
	case t.NotBefore.After(l.s.At):
		l.again(t.NotBefore)
		l.wait(st.Name, "is tried again at "+t.NotBefore.UTC().Format(time.RFC3339))
	case l.s.Run.Host != "" && len(l.s.Workers) == 0:
		l.wait(st.Name, "the process that worked on it is gone: 'imgpipe retry' goes on")
	case l.left <= 0:
		l.d.Waits = append(l.d.Waits, Wait{Stage: st.Name, Slot: true, Reason: fmt.Sprintf("%d tasks are running, which is the cap", l.s.Cap)})
	default:
		l.left--
		if n := len(t.Failures); n > 0 {
			reason = fmt.Sprintf("tried again after: %s", t.Reason)
		}
		l.do(Action{Do: Start, Stage: st.Name, Image: l.image(i), Reason: reason})
	}
	return true
}

// verdict is what a stage's needs say about it.
type verdict int

const (
	now verdict = iota
	later
	never
)

// needs judges what a stage needs. A stage that the run's inputs left out counts
// as passed: it was not wanted.
func (l *planner) needs(st Stage) (string, verdict) {
	var waiting, passed, bad []string
	for _, n := range st.Needs {
		i := l.position(n)
		switch t := l.s.Tasks[i]; {
		case !l.final(i):
			waiting = append(waiting, n)
		case t.State == pipeline.Passed, t.State == pipeline.Skipped && l.p.Stages[i].Skip != "":
			passed = append(passed, n)
		default:
			bad = append(bad, fmt.Sprintf("%s %s", n, t.State))
		}
	}
	switch mode := cmp.Or(st.If, "passed"); {
	case len(st.Needs) == 0 && mode == "failed":
		return "it is for failures, and needs nothing", never
	case len(st.Needs) == 0:
		return "needs nothing", now
	case mode == "passed" && len(bad) > 0:
		return strings.Join(bad, ", "), never
	case len(waiting) > 0:
		return "needs " + strings.Join(waiting, ", "), later
	case mode == "failed" && len(bad) == 0:
		return strings.Join(passed, ", ") + " passed", never
	case len(bad) > 0:
		return strings.Join(bad, ", "), now
	}
	return strings.Join(passed, ", ") + " passed", now
}

func (l *planner) position(name string) int {
	return slices.IndexFunc(l.p.Stages, func(s Stage) bool { return s.Name == name })
}

// image is what a stage works on: the image that the last of the stages before
// it made, of those that it needs directly or through others.
func (l *planner) image(i int) string {
	before := map[string]bool{}
	var visit func(i int)
	visit = func(i int) {
		for _, n := range l.p.Stages[i].Needs {
			if !before[n] {
				before[n] = true
				visit(l.position(n))
			}
		}
	}
	visit(i)
	image := ""
	for j, st := range l.p.Stages {
		if t := l.s.Tasks[j]; before[st.Name] && t.Made && t.State == pipeline.Passed {
			image = t.Image
		}
	}
	return image
}

// finish says how a run ended in which no stage is open.
func (l *planner) finish() {
	passed := 0
	for i, st := range l.p.Stages {
		switch t := l.s.Tasks[i]; t.State {
		case pipeline.Failed, pipeline.Interrupted:
			l.do(Action{Do: Finish, State: t.State, Reason: fmt.Sprintf("stage %s %s: %s", st.Name, t.State, t.Reason)})
			return
		case pipeline.Passed:
			passed++
		}
	}
	reason := fmt.Sprintf("all %d stages passed", passed)
	if n := len(l.p.Stages) - passed; n > 0 {
		reason = fmt.Sprintf("%d stages passed, %d skipped", passed, n)
	}
	l.do(Action{Do: Finish, State: pipeline.Passed, Reason: reason})
}
