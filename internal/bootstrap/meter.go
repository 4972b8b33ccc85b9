package bootstrap

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Stage says what a part of the work took.
type Stage struct {
	Name string  `json:"name"`
	CPU  float64 `json:"cpu_seconds"` // user and system, of this process and the programs it ran
	Wall float64 `json:"wall_seconds"`
}

// Meter measures stages, one at a time. One that comes again is added to.
type Meter struct {
	stages []Stage
	name   string // of the stage that runs; empty means none
	cpu    time.Duration
	wall   time.Time
}

// Begin ends the stage that runs, and begins another.
func (m *Meter) Begin(name string) {
	cpu, wall := cpuTime(), time.Now()
	if m.name != "" {
		i := slices.IndexFunc(m.stages, func(s Stage) bool { return s.Name == m.name })
		if i < 0 {
			i = len(m.stages)
			m.stages = append(m.stages, Stage{Name: m.name})
		}
		m.stages[i].CPU += (cpu - m.cpu).Seconds()
		m.stages[i].Wall += wall.Sub(m.wall).Seconds()
	}
	m.name, m.cpu, m.wall = name, cpu, wall
}

// End ends the stage that runs, and returns all in the order they began in.
func (m *Meter) End() []Stage {
	m.Begin("")
	return m.stages
}

// cpuTime is what this process and those it waited for have used.
func cpuTime() time.Duration {
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum
}
