package command

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Meter is what a part of the work does now, and how far that is, in a line for
// whoever asks. Its zero value is not ready; see [NewMeter]. It is safe for
// several goroutines.
type Meter struct {
	prefix  string // of what it measures, which its line leaves out
	changed chan struct{}

	mu    sync.Mutex // guards the fields below
	steps []*Step    // that have not ended, oldest first
	parts map[*Step]int
	count Count
}

// NewMeter returns a meter that measures nothing yet.
func NewMeter() *Meter {
	return &Meter{changed: make(chan struct{}, 1), parts: map[*Step]int{}}
}

// Metered returns the same progress, whose steps and those of its parts are
// measured by m, too. A meter is for one of them.
func (p *Progress) Metered(m *Meter) *Progress {
	m.prefix = p.prefix
	return &Progress{out: p.out, prefix: p.prefix, meter: m}
}

// Changed has something to be received when the line is another than it was at
// the last time.
func (m *Meter) Changed() <-chan struct{} { return m.changed }

// Line says which step goes on, the newest where there are several, and as far
// as that is known, which of how many it is and how much of it is done:
// "[3 of 17] install.d/50-redis 40 %". It is empty when none goes on.
func (m *Meter) Line() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.steps) == 0 {
		return ""
	}
	s := m.steps[len(m.steps)-1]
	line := Line(strings.TrimPrefix(s.name, m.prefix))
	if c := m.count; c.Total > 0 {
		line = fmt.Sprintf("[%d of %d] %s", min(c.Done+1, c.Total), c.Total, line)
	}
	if percent := m.parts[s]; percent > 0 {
		line += fmt.Sprintf(" %d %%", percent)
	}
	return line
}

// say changes what a meter says; a nil one takes it, and says nothing.
func (m *Meter) say(change func()) {
	if m == nil {
		return
	}
	m.mu.Lock()
	change()
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default: // nobody has taken the last one
	}
}

func (m *Meter) begin(s *Step) {
	m.say(func() { m.steps = append(m.steps, s) })
}

func (m *Meter) part(s *Step, percent int) {
	m.say(func() {
		if slices.Contains(m.steps, s) {
			m.parts[s] = percent
		}
	})
}

func (m *Meter) end(s *Step) {
	m.say(func() {
		m.steps = slices.DeleteFunc(m.steps, func(o *Step) bool { return o == s })
		delete(m.parts, s)
	})
}

// counted says how far all steps are.
func (m *Meter) counted(c Count) {
	m.say(func() { m.count = c })
}
