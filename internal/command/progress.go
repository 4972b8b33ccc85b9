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
	Done    int     `json:"done,omitempty"`    // start: so many steps have been done
	Total   int     `json:"total,omitempty"`   // start: of so many; 0 when nobody knows
	Result  any     `json:"result,omitempty"`  // result: the command's own structure
	Hint    string  `json:"hint,omitempty"`    // error: what to do about it
	Exit    int     `json:"exit,omitempty"`    // error: the status that the program ends with
}

// Progress tells a person, a log or a program how the work goes. It is safe
// for several goroutines.
type Progress struct {
	out    *display
	prefix string // of step names and lines
	meter  *Meter // nil: none
}

// display is what all parts of one program's progress write to.
type display struct {
	mu      sync.Mutex // guards the fields below
	w       io.Writer
	name    string
	style   style
	running *Step // the newest unfinished step, shown live on a terminal
	count   Count
	lines   func() []string // shown live in place of running; nil: running is
	drawn   int             // lines that are shown live, the last without its end
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
	p.meter.counted(c)
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

// Live has lines shown on a terminal, drawn anew as time goes, below what is
// printed, in place of the running step. It tells whether there is a terminal;
// without one lines is never called. It must not call the progress.
func (p *Progress) Live(lines func() []string) bool {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	if p.out.style != live {
		return false
	}
	p.out.lines = lines
	return true
}

// Within returns the progress of a part of the work: its steps and lines are
// called "part: …". It need not be closed.
func (p *Progress) Within(part string) *Progress {
	return &Progress{out: p.out, prefix: p.prefix + part + ": ", meter: p.meter}
}

// Step is one piece of work that takes time.
type Step struct {
	out     *display
	name    string
	started time.Time
	outer   *Step
	percent int    // how far it is
	meter   *Meter // nil: none
}

// Start says that a step begins.
func (p *Progress) Start(name string) *Step {
	d := p.out
	s := &Step{out: d, name: p.prefix + name, started: time.Now(), meter: p.meter}
	s.meter.begin(s)
	d.mu.Lock()
	defer d.mu.Unlock()
	s.outer, d.running = d.running, s
	switch d.style {
	case jsonLines:
		d.emit(Event{Event: "start", Step: s.name, Done: d.count.Done, Total: d.count.Total})
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
	if percent != s.percent {
		s.meter.part(s, percent)
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
	s.meter.end(s)
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
	p.out.erase()
}

func (d *display) emit(e Event) { _ = json.NewEncoder(d.w).Encode(e) }

func (d *display) line(l string) {
	d.erase()
	fmt.Fprintln(d.w, l)
	d.draw()
}

// erase takes away what is shown live, by ECMA-48's ways up, and to clear all
// that is below.
func (d *display) erase() {
	if d.style != live {
		return
	}
	if d.drawn > 1 {
		fmt.Fprintf(d.w, "\x1b[%dA", d.drawn-1)
	}
	fmt.Fprint(d.w, "\r\x1b[J")
	d.drawn = 0
}

// draw shows what goes on.
func (d *display) draw() {
	if d.closed || d.style != live {
		return
	}
	var lines []string
	switch {
	case d.lines != nil:
		lines = d.lines()
	case d.running != nil:
		lines = []string{d.now()}
	}
	if len(lines) == 0 {
		return
	}
	f, _ := d.w.(*os.File)
	lines = FitAll(lines, f)
	d.erase()
	fmt.Fprint(d.w, strings.Join(lines, "\n"))
	d.drawn = len(lines)
}

// now is a line about the running step.
func (d *display) now() string {
	far := ""
	if c := d.count; c.Total > 0 {
		far = fmt.Sprintf("[%d of %d done, %d cached] ", c.Done, max(c.Total, c.Done), c.Cached)
	}
	part := ""
	if d.running.percent > 0 {
		part = fmt.Sprintf(" %d %%", d.running.percent)
	}
	return fmt.Sprintf("%s: %s%s%s … %.0fs", d.name, far, d.running.name, part, time.Since(d.running.started).Seconds())
}

// Fit is a line without what acts on a terminal, cut to the terminal's width; 0
// is unknown.
func Fit(line string, width int) string {
	line = Line(line)
	if r := []rune(line); width > 0 && len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return line
}

// FitAll is lines as [Fit] makes them for a terminal, of which there are no more
// than it has room for. Without a terminal, which is nil, they stay so long and
// so many.
func FitAll(lines []string, terminal *os.File) []string {
	width, height := 0, 0
	if terminal != nil {
		width, height, _ = term.GetSize(int(terminal.Fd())) // 0 where nobody knows
	}
	if height > 1 {
		lines = lines[:min(len(lines), height-1)]
	}
	fit := make([]string, len(lines))
	for i, l := range lines {
		fit[i] = Fit(l, width)
	}
	return fit
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
