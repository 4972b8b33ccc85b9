package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
)

// Scenario is what a simulation supposes beyond the snapshot and the policy.
type Scenario struct {
	Past   Past    // how long stages take; those that are not in it take Usual
	Slots  int     // stages that workers do at once; 0: 1
	Faults []Fault // what goes wrong
	// Slow takes the long durations (p90) in place of the middle ones.
	Slow bool
}

// Usual is how long a stage is supposed to take that was never seen.
const Usual = 5 * time.Minute

// Fault is something that goes wrong in a simulation.
type Fault struct {
	Kind  string // one of FaultKinds
	Stage string // where it hits
	Times int    // on so many attempts, beginning with the first; 0: all
}

// faultClasses are the faults, what class of failure each is, and which part of
// the stage's time or its limit it takes to be seen.
var faultClasses = map[string]struct {
	class string
	after func(usual, limit time.Duration) time.Duration
}{
	"test-fails":   {"test", func(usual, _ time.Duration) time.Duration { return usual }},
	"image-breaks": {"image", func(usual, _ time.Duration) time.Duration { return usual }},
	"flakes":       {"flake", func(usual, _ time.Duration) time.Duration { return usual }},
	"bmc-silent":   {ClassInfra, func(usual, _ time.Duration) time.Duration { return usual / 10 }},
	"mirror-down":  {ClassInfra, func(usual, _ time.Duration) time.Duration { return usual / 4 }},
	"node-dies":    {ClassLost, func(usual, _ time.Duration) time.Duration { return usual / 2 }},
	"worker-dies":  {ClassLost, func(usual, _ time.Duration) time.Duration { return usual/2 + AttemptLease }},
	"hangs":        {"unknown", func(_, limit time.Duration) time.Duration { return limit }},
}

// FaultKinds are what can be supposed to go wrong, sorted.
func FaultKinds() []string {
	var list []string
	for k := range faultClasses {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// ParseFault reads KIND@STAGE or KIND@STAGE:TIMES.
func ParseFault(text string) (f Fault, err error) {
	kind, where, ok := strings.Cut(text, "@")
	stage, times, limited := strings.Cut(where, ":")
	if limited {
		f.Times, err = strconv.Atoi(times)
	}
	if _, known := faultClasses[kind]; !ok || !known || stage == "" || err != nil || limited && f.Times < 1 {
		return f, command.Usage(fmt.Sprintf("fault %q: expected KIND@STAGE or KIND@STAGE:TIMES; kinds are %s", text, strings.Join(FaultKinds(), ", ")), "node-dies@metal-smoke:1")
	}
	f.Kind, f.Stage = kind, stage
	return f, nil
}

// Moment is one thing that happens in a simulation.
type Moment struct {
	After  time.Duration `json:"after_ns"` // since the beginning
	What   string        `json:"what"`     // an action, or "passed", "failed"
	Stage  string        `json:"stage,omitempty"`
	Reason string        `json:"reason,omitempty"`
}

// Prediction is what a simulation comes to.
type Prediction struct {
	State   pipeline.Status `json:"state"` // of the run; Running: it would never end
	Reason  string          `json:"reason"`
	Took    time.Duration   `json:"took_ns"`
	Moments []Moment        `json:"moments"`
	Never   []Wait          `json:"never,omitempty"`   // what would not be done, and why
	Tasks   map[string]int  `json:"attempts"`          // by stage
	End     Snapshot        `json:"end"`               // how everything stands then
	Guessed []string        `json:"guessed,omitempty"` // stages that were never seen
}

// maxMoments ends a simulation that goes in circles.
const maxMoments = 20000

// Simulate runs the planner forward: what it would do with this run under this
// policy, if stages take as long as they did and the scenario's faults happen.
// It is the planner that decides in earnest, too.
func Simulate(s Snapshot, p Policy, sc Scenario) Prediction {
	m := &simulation{sc: sc, p: p, s: s, start: s.At, attempts: map[string]int{}}
	m.s.Tasks = slices.Clone(s.Tasks)
	m.p0()
	for len(m.moments) < maxMoments {
		d := Plan(m.s, m.p)
		for _, a := range d.Actions {
			m.act(a)
		}
		if m.s.Run.State.Ended() {
			break
		}
		if len(d.Actions) > 0 {
			continue
		}
		if !m.advance(d) {
			m.never = d.Waits
			break
		}
	}
	return m.prediction()
}

type simulation struct {
	sc       Scenario
	p        Policy
	s        Snapshot
	start    time.Time
	going    []effort
	moments  []Moment
	never    []Wait
	attempts map[string]int
	reason   string
	guessed  []string
}

// effort is an attempt that goes on.
type effort struct {
	task  int
	ends  time.Time
	class string // of its failure; empty: it passes
	why   string
}

// p0 has what is running go on as if it began now.
func (m *simulation) p0() {
	for i, t := range m.s.Tasks {
		if t.State == pipeline.Running {
			m.begin(i)
		}
	}
}

func (m *simulation) say(what, stage, reason string) {
	m.moments = append(m.moments, Moment{m.s.At.Sub(m.start), what, stage, reason})
}

func (m *simulation) act(a Action) {
	m.say(string(a.Do), a.Stage, a.Reason)
	if a.Do == Finish {
		m.s.Run.State, m.reason = a.State, a.Reason
		return
	}
	i := slices.IndexFunc(m.p.Stages, func(st Stage) bool { return st.Name == a.Stage })
	t := &m.s.Tasks[i]
	switch a.Do {
	case Start:
		t.State, t.Image = pipeline.Ready, a.Image
		m.s.Busy++
	case Retry:
		t.State, t.NotBefore = pipeline.Todo, a.NotBefore
	case Skip:
		if t.State == pipeline.Ready {
			m.s.Busy--
		}
		t.State, t.Reason = a.State, a.Reason
	case Stop:
		t.Stopping = true
		for k := range m.going {
			if m.going[k].task == i {
				m.going[k].ends = m.s.At
			}
		}
	}
}

// advance goes to the next moment at which anything happens; false means that
// nothing ever will.
func (m *simulation) advance(d Decision) bool {
	for i := range m.s.Tasks {
		if m.s.Tasks[i].State == pipeline.Ready && len(m.going) < max(1, m.sc.Slots) && m.able(i) {
			m.s.Tasks[i].State = pipeline.Running
			m.begin(i)
		}
	}
	var next time.Time
	for _, g := range m.going {
		if next.IsZero() || g.ends.Before(next) {
			next = g.ends
		}
	}
	if !d.Again.IsZero() && (next.IsZero() || d.Again.Before(next)) {
		next = d.Again
	}
	if next.IsZero() {
		return false
	}
	if next.After(m.s.At) {
		m.s.At = next
	}
	m.going = slices.DeleteFunc(m.going, func(g effort) bool {
		if g.ends.After(m.s.At) {
			return false
		}
		m.end(g)
		return true
	})
	return true
}

// able tells whether some worker has what a stage requires.
func (m *simulation) able(i int) bool {
	l := planner{s: m.s, p: m.p}
	return len(m.s.Workers) > 0 && l.worker(m.p.Stages[i]) == "waits until a worker takes it"
}

func (m *simulation) begin(i int) {
	st := m.p.Stages[i]
	m.attempts[st.Name]++
	d, known := m.sc.Past[st.Name]
	usual := d.P50
	if m.sc.Slow {
		usual = d.P90
	}
	if !known {
		usual = Usual
		if !slices.Contains(m.guessed, st.Name) {
			m.guessed = append(m.guessed, st.Name)
		}
	}
	g := effort{task: i}
	for _, f := range m.sc.Faults {
		if f.Stage == st.Name && (f.Times == 0 || m.attempts[st.Name] <= f.Times) {
			k := faultClasses[f.Kind]
			g.class, g.why = k.class, f.Kind
			usual = k.after(usual, st.Timeout)
		}
	}
	if st.Timeout > 0 && usual >= st.Timeout {
		usual = st.Timeout
		g.class, g.why = cmp.Or(g.class, "unknown"), cmp.Or(g.why, "did not end within "+st.Timeout.String())
	}
	g.ends = m.s.At.Add(usual)
	m.going = append(m.going, g)
	m.say("begin", st.Name, fmt.Sprintf("attempt %d, takes %s", m.attempts[st.Name], usual.Round(time.Second)))
}

func (m *simulation) end(g effort) {
	t, name := &m.s.Tasks[g.task], m.p.Stages[g.task].Name
	m.s.Busy--
	t.Ended = m.s.At
	switch {
	case t.Stopping:
		t.State, t.Stopping = pipeline.Interrupted, false
	case g.class != "":
		t.State, t.Reason = pipeline.Failed, g.why
		t.Failures = append(slices.Clone(t.Failures), g.class)
	default:
		t.State = pipeline.Passed
		if m.p.Stages[g.task].Uses == "build" {
			t.Made, t.Image = true, cmp.Or(t.Image, "the image that "+name+" makes")
		}
	}
	m.say(string(t.State), name, strings.TrimSpace(g.class+" "+g.why))
}

func (m *simulation) prediction() Prediction {
	return Prediction{State: m.s.Run.State, Reason: m.reason, Took: m.s.At.Sub(m.start), Moments: m.moments, Never: m.never,
		Tasks: m.attempts, End: m.s, Guessed: m.guessed}
}

// Fresh is the snapshot of a run that has just been made.
func Fresh(p Policy, at time.Time, cap int, workers ...WorkerNow) Snapshot {
	s := Snapshot{At: at, Run: RunNow{State: pipeline.Running, Begun: at}, Cap: cap, Workers: workers, Tasks: make([]TaskNow, len(p.Stages))}
	for i := range s.Tasks {
		s.Tasks[i].State = pipeline.Todo
	}
	return s
}

// Has tells whether a policy has a stage of that name.
func (p Policy) Has(stage string) bool {
	return slices.ContainsFunc(p.Stages, func(s Stage) bool { return s.Name == stage })
}

// Carry is a snapshot of a run as it would be under another policy: stages of the
// same name stand as they do, others have not begun.
func Carry(s Snapshot, from, to Policy) Snapshot {
	fresh := Fresh(to, s.At, s.Cap, s.Workers...)
	fresh.Run = s.Run
	for i, st := range to.Stages {
		if j := slices.IndexFunc(from.Stages, func(o Stage) bool { return o.Name == st.Name }); j >= 0 {
			fresh.Tasks[i] = s.Tasks[j]
		}
	}
	return fresh
}
