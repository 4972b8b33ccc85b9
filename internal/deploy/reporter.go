package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"goldsmith/internal/command"
)

// Reporter brings what an agent says, and how its steps go, to the server: from
// the first line on, although there is no network yet, in order, and each once.
// Its methods may be called by several goroutines.
type Reporter struct {
	uptime func() float64

	mu     sync.Mutex // guards the fields below
	boot   string
	anew   int // how often the numbers had to begin anew
	lines  queue[Line]
	events queue[Event]
	client *Client       // nil until there is a server
	wake   chan struct{} // has room for one
	idle   chan struct{} // closed, and made anew, when nothing is left to send
}

// queue is what waits to be sent.
type queue[T any] struct {
	first  int64 // number of the first
	list   []T
	flying int // so many are on their way
	lost   int // so many were dropped, for want of room
}

// maxQueue is how many lines wait for the network. Then the oldest are dropped,
// and that is said.
const maxQueue = 20000

// NewReporter makes a reporter that keeps everything until Run. boot names this
// start of the machine; uptime is in seconds.
func NewReporter(boot string, uptime func() float64) *Reporter {
	return &Reporter{boot: boot, uptime: uptime, wake: make(chan struct{}, 1), idle: make(chan struct{})}
}

// Line keeps one line for the server.
func (r *Reporter) Line(text string) {
	text = command.Line(strings.TrimRight(text, "\r\n"))
	if len(text) > MaxLine {
		text = strings.ToValidUTF8(text[:MaxLine-3], "") + "..."
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.lines.add(Line{r.uptime(), text}); at >= 0 {
		r.lines.lost++
		r.lines.list[at].Text = fmt.Sprintf("(%d lines were dropped here, for want of room)", r.lines.lost)
	}
	r.poke()
}

// Event keeps an event for the server. Progress that was not sent yet is
// replaced by later progress of the same step.
func (r *Reporter) Event(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.events.list); n > 0 && e.State == Progress {
		// One that is on its way keeps its number, and its place is not taken.
		last := &r.events.list[n-1]
		if n > r.events.flying && last.State == Progress && last.Task == e.Task && last.Step == e.Step {
			*last = e
			return
		}
	}
	r.events.add(e)
	r.poke()
}

// poke wakes Run. The lock is held.
func (r *Reporter) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// add appends v. Without room it drops the oldest of those that are not on
// their way; the numbers stay without a gap, for those never had one. It tells
// after how many of the list that was, or -1.
func (q *queue[T]) add(v T) (dropped int) {
	dropped = -1
	if len(q.list) >= maxQueue {
		dropped = q.flying
		q.list = append(q.list[:dropped], q.list[dropped+maxQueue/2:]...)
		q.lost += maxQueue / 2
	}
	q.list = append(q.list, v)
	return dropped
}

// Run sends what there is, until ctx ends or the server refuses the token for
// good, which is the error. It is called once.
func (r *Reporter) Run(ctx context.Context, c *Client) error {
	r.mu.Lock()
	r.client = c
	r.mu.Unlock()
	for {
		err := c.insist(ctx, r.send)
		switch no, refused := errors.AsType[*Refusal](err); {
		case refused && no.Status == http.StatusConflict:
			r.renumber()
			continue
		case refused && (no.Status == http.StatusUnauthorized || no.Status == http.StatusGone):
			return err
		case refused:
			r.drop()
		case err != nil:
			return err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		// What comes together travels together.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send sends until nothing is left.
func (r *Reporter) send(ctx context.Context) error {
	for {
		r.mu.Lock()
		ls := lines{r.boot, r.lines.first, r.lines.head(MaxLines)}
		es := numbered{r.boot, r.events.first, r.events.head(MaxEvents)}
		if len(ls.Lines)+len(es.Events) == 0 {
			close(r.idle)
			r.idle = make(chan struct{})
		}
		r.mu.Unlock()
		if len(ls.Lines)+len(es.Events) == 0 {
			return nil
		}
		if len(ls.Lines) > 0 {
			if err := r.client.call(ctx, http.MethodPost, pathLog, ls, nil); err != nil {
				return err
			}
			r.mu.Lock()
			r.lines.sent(ls.First, len(ls.Lines))
			r.mu.Unlock()
		}
		if len(es.Events) > 0 {
			if err := r.client.call(ctx, http.MethodPost, pathEvents, es, nil); err != nil {
				return err
			}
			r.mu.Lock()
			r.events.sent(es.First, len(es.Events))
			r.mu.Unlock()
		}
	}
}

// head copies the first n, which are on their way then.
func (q *queue[T]) head(n int) []T {
	q.flying = min(n, len(q.list))
	return slices.Clone(q.list[:q.flying])
}

// sent forgets n that arrived.
func (q *queue[T]) sent(first int64, n int) {
	q.list, q.flying = q.list[n:], 0
	q.first = first + int64(n)
}

// renumber goes on under another name of the boot: the server lacks what came
// before, because it forgot everything.
func (r *Reporter) renumber() {
	r.mu.Lock()
	defer r.mu.Unlock()
	base, _, _ := strings.Cut(r.boot, "+")
	r.anew++
	r.boot = fmt.Sprintf("%s+%d", base, r.anew)
	r.lines.first, r.events.first = 0, 0
	r.lines.flying, r.events.flying = 0, 0
}

// drop gives up what the server cannot read: it would stay in the way for ever.
func (r *Reporter) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.lines.list)
	r.lines.list, r.events.list = nil, nil
	r.lines.flying, r.events.flying = 0, 0
	text := fmt.Sprintf("(%d lines that the server refused were dropped)", n)
	r.lines.list = append(r.lines.list, Line{r.uptime(), text})
}

// Flush waits until everything that was said has arrived.
func (r *Reporter) Flush(ctx context.Context) error {
	r.mu.Lock()
	idle := r.idle
	r.poke()
	r.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
