package command

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// Event is one thing that happened, as --json prints it: one object a line.
type Event struct {
	Event   string  `json:"event"`             // start, done, info or result
	Step    string  `json:"step,omitempty"`    // what it is about
	Status  string  `json:"status,omitempty"`  // done: ok, cached, skipped or failed
	Detail  string  `json:"detail,omitempty"`  // one line for people
	Seconds float64 `json:"seconds,omitempty"` // done: how long it took, wall time
	Result  any     `json:"result,omitempty"`  // result: the command's own structure
}

// Progress tells a person, a log or a program how the work goes. It is safe
// for several goroutines.
type Progress struct {
	mu      sync.Mutex // guards the fields below
	w       io.Writer
	name    string
	style   style
	running *Step // the newest unfinished step, shown live on a terminal
	stop    chan struct{}
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
	p := &Progress{w: io.Stderr, name: name, stop: make(chan struct{})}
	switch f, ok := io.Stderr.(*os.File); {
	case asJSON:
		p.w, p.style = io.Stdout, jsonLines
	case ok && term.IsTerminal(int(f.Fd())):
		p.style = live
		go p.tick()
	}
	return p
}

// Step is one piece of work that takes time.
type Step struct {
	p       *Progress
	name    string
	started time.Time
	outer   *Step
}

// Start says that a step begins.
func (p *Progress) Start(name string) *Step {
	s := &Step{p: p, name: name, started: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.outer, p.running = p.running, s
	switch p.style {
	case jsonLines:
		p.emit(Event{Event: "start", Step: name})
	case live:
		p.draw()
	}
	return s
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
	p, took := s.p, time.Since(s.started)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == s {
		p.running = s.outer
	}
	if p.style == jsonLines {
		p.emit(Event{Event: "done", Step: s.name, Status: status, Detail: detail, Seconds: took.Seconds()})
		return
	}
	line := fmt.Sprintf("%s: %-28s %-7s %6.1fs", p.name, s.name, status, took.Seconds())
	if detail != "" {
		line += "  " + detail
	}
	p.line(line)
}

// Info prints one line for people.
func (p *Progress) Info(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	msg := fmt.Sprintf(format, args...)
	if p.style == jsonLines {
		p.emit(Event{Event: "info", Detail: msg})
		return
	}
	p.line(p.name + ": " + msg)
}

// Result prints the command's result as the last JSON event; it does nothing
// in the other styles.
func (p *Progress) Result(v any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.style == jsonLines {
		p.emit(Event{Event: "result", Result: v})
	}
}

// Close ends the live line. It may be called once.
func (p *Progress) Close() {
	close(p.stop)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.style == live {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func (p *Progress) emit(e Event) { _ = json.NewEncoder(p.w).Encode(e) }

func (p *Progress) line(l string) {
	if p.style == live {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	fmt.Fprintln(p.w, l)
	if p.style == live {
		p.draw()
	}
}

func (p *Progress) draw() {
	if p.running == nil {
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s: %s … %.0fs", p.name, p.running.name, time.Since(p.running.started).Seconds())
}

func (p *Progress) tick() {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}
