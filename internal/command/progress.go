package command

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Event is one thing that happened, as --json prints it: one object a line.
type Event struct {
	Event   string  `json:"event"`             // start, part, done, info, error or result
	Step    string  `json:"step,omitempty"`    // what it is about
	Status  string  `json:"status,omitempty"`  // done: ok, cached or failed
	Detail  string  `json:"detail,omitempty"`  // one line for people
	Seconds float64 `json:"seconds,omitempty"` // done: how long it took, wall time
	Percent int     `json:"percent,omitempty"` // part: how far the step is
	Result  any     `json:"result,omitempty"`  // result: the command's own structure
	Hint    string  `json:"hint,omitempty"`    // error: what to do about it
	Exit    int     `json:"exit,omitempty"`    // error: the status that the program ends with
}

// Progress tells a person, a log or a program how the work goes. It is safe
// for several goroutines.
type Progress struct {
	out    *display
	prefix string // of step names and lines
}

// display is what all parts of one program's progress write to.
type display struct {
	mu      sync.Mutex // guards the fields below
	w       io.Writer
	name    string
	style   style
	running *Step // the newest unfinished step, shown live on a terminal
	count   Count
	closed  bool
	stop    chan struct{}
}

// Count says how far the work is, in steps.
type Count struct {
	Total  int // 0 when nobody knows
	Done   int // those that were cached included
	Cached int
}

// Count is shown before the running step on a terminal.
func (p *Progress) Count(c Count) {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	p.out.count = c
}

type style int

const (
	plain style = iota
	live
	jsonLines
)

// NewProgress reports for the program called name. With asJSON, events go to
// io.Stdout as JSON lines; otherwise they go to io.Stderr, as a live line when
// that is a terminal and as plain lines when it is not. Close ends it.
func NewProgress(name string, io IO, asJSON bool) *Progress {
	d := &display{w: io.Stderr, name: name, stop: make(chan struct{})}
	switch f, ok := io.Stderr.(*os.File); {
	case asJSON:
		d.w, d.style = io.Stdout, jsonLines
	case ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb":
		d.style = live
		go d.tick()
	}
	return &Progress{out: d}
}

// Within returns the progress of a part of the work: its steps and lines are
// called "part: …". It need not be closed.
func (p *Progress) Within(part string) *Progress {
	return &Progress{out: p.out, prefix: p.prefix + part + ": "}
}

// Step is one piece of work that takes time.
type Step struct {
	out     *display
	name    string
	started time.Time
	outer   *Step
	percent int // how far it is
}

// Start says that a step begins.
func (p *Progress) Start(name string) *Step {
	d := p.out
	s := &Step{out: d, name: p.prefix + name, started: time.Now()}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.outer, d.running = d.running, s
	switch d.style {
	case jsonLines:
		d.emit(Event{Event: "start", Step: s.name})
	case live:
		d.draw()
	}
	return s
}

// Part says how far the step is: so many of total, which is more than 0. On a
// terminal it is shown at once, in JSON at every tenth, elsewhere not at all.
func (s *Step) Part(done, total int64) {
	if total <= 0 {
		return
	}
	percent := int(float64(min(done, total)) / float64(total) * 100)
	d := s.out
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.style == jsonLines && percent/10 > s.percent/10 {
		d.emit(Event{Event: "part", Step: s.name, Percent: percent})
	}
	s.percent = percent
}

// Done says how the step ended: ok, or failed when err is not nil. detail is
// one line, it may be empty.
func (s *Step) Done(err error, detail string) { s.end(statusOf(err), detail) }

// Cached says that the step had been done before and its result was taken.
func (s *Step) Cached(detail string) { s.end("cached", detail) }

func statusOf(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

func (s *Step) end(status, detail string) {
	d, took := s.out, time.Since(s.started)
	d.mu.Lock()
	defer d.mu.Unlock()
	for r := d.running; r != nil; r = r.outer {
		if r == s { // with it end the steps inside it that nobody ended
			d.running = s.outer
			break
		}
	}
	if d.style == jsonLines {
		d.emit(Event{Event: "done", Step: s.name, Status: status, Detail: detail, Seconds: took.Seconds()})
		return
	}
	line := fmt.Sprintf("%s: %-40s %-7s %6.1fs", d.name, s.name, status, took.Seconds())
	if detail != "" {
		line += "  " + detail
	}
	d.line(line)
}

// Info prints one line for people.
func (p *Progress) Info(format string, args ...any) {
	d := p.out
	d.mu.Lock()
	defer d.mu.Unlock()
	msg := p.prefix + fmt.Sprintf(format, args...)
	if d.style == jsonLines {
		d.emit(Event{Event: "info", Detail: msg})
		return
	}
	d.line(strings.TrimRight(d.name+": "+msg, " "))
}

// Result prints the command's result as the last JSON event; it does nothing
// in the other styles.
func (p *Progress) Result(v any) {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	if p.out.style == jsonLines {
		p.out.emit(Event{Event: "result", Result: v})
	}
}

// Error prints err as a JSON event; it does nothing in the other styles, where
// the program itself prints it.
func (p *Progress) Error(err error) {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	if p.out.style == jsonLines {
		p.out.emit(Event{Event: "error", Detail: err.Error(), Hint: HintOf(err), Exit: Status(err)})
	}
}

// Close ends the live line. It may be called once.
func (p *Progress) Close() {
	close(p.out.stop)
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	p.out.closed = true
	if p.out.style == live {
		fmt.Fprint(p.out.w, eraseLine)
	}
}

// eraseLine is ECMA-48's way back to an empty line.
const eraseLine = "\r\x1b[K"

func (d *display) emit(e Event) { _ = json.NewEncoder(d.w).Encode(e) }

func (d *display) line(l string) {
	if d.style == live {
		fmt.Fprint(d.w, eraseLine)
	}
	fmt.Fprintln(d.w, l)
	if d.style == live {
		d.draw()
	}
}

func (d *display) draw() {
	if d.running == nil || d.closed {
		return
	}
	far := ""
	if c := d.count; c.Total > 0 {
		far = fmt.Sprintf("[%d of %d done, %d cached] ", c.Done, max(c.Total, c.Done), c.Cached)
	}
	part := ""
	if d.running.percent > 0 {
		part = fmt.Sprintf(" %d %%", d.running.percent)
	}
	fmt.Fprintf(d.w, "%s%s: %s%s%s … %.0fs", eraseLine, d.name, far, d.running.name, part, time.Since(d.running.started).Seconds())
}

func (d *display) tick() {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-t.C:
			d.mu.Lock()
			d.draw()
			d.mu.Unlock()
		}
	}
}
