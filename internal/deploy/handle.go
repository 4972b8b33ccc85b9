package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
)

// call is one request of an agent whose token is known.
type call struct {
	*http.Request
	sum Sum
}

// answer wraps a call: the token must be known, the body bounded. Only a
// refusal's text goes out, and no error of the store.
func (s *Server) answer(f func(call) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		c := call{Request: r}
		var out any
		err := s.admit(&c)
		if err == nil {
			out, err = f(c)
		}
		status := http.StatusOK
		if err != nil {
			refusal, ok := errors.AsType[*Refusal](err)
			switch {
			case ok:
			case errors.Is(err, ErrUnknown):
				refusal = &Refusal{Status: http.StatusUnauthorized, Text: "unknown token"}
			default:
				refusal = &Refusal{Status: http.StatusInternalServerError, Text: "the server cannot keep that"}
			}
			status, out = refusal.Status, refusal
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(out) // who does not read it asks again
	}
}

// admit finds the session of the token, which must count.
func (s *Server) admit(c *call) error {
	token, ok := strings.CutPrefix(c.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return &Refusal{Status: http.StatusUnauthorized, Text: "no bearer token"}
	}
	c.sum = Token(token).Sum()
	return s.store.Update(c.sum, func(t *Session) error {
		if t.Closed {
			return &Refusal{Status: http.StatusGone, Text: "this token counts no more"}
		}
		t.Seen = s.now()
		return nil
	})
}

// read decodes the body, one JSON value.
func (c call) read(v any) error {
	d := json.NewDecoder(c.Body)
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
		err = errors.New("more than one value")
	}
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Refusal{Status: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf("more than %d bytes", big.Limit)}
	}
	return malformed("%v", err)
}

func malformed(format string, args ...any) error {
	return &Refusal{Status: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) *Refusal {
	return &Refusal{Status: http.StatusConflict, Text: fmt.Sprintf(format, args...)}
}

// task waits for a task other than the one that the agent names, which ended.
func (s *Server) task(c call) (any, error) {
	after := c.URL.Query().Get("after")
	limit := time.NewTimer(s.poll)
	defer limit.Stop()
	for {
		changed := s.changed(c.sum)
		t, err := s.view(c.sum)
		if err != nil {
			return nil, err
		}
		if t.Closed {
			s.forget(c.sum)
			return nil, &Refusal{Status: http.StatusGone, Text: "this token counts no more"}
		}
		if last := t.current(); last.Result == nil && last.Task.ID != after {
			return last.Task, nil
		}
		select {
		case <-changed:
		case <-limit.C:
			return Task{Kind: Wait}, nil
		case <-c.Context().Done():
			return nil, c.Context().Err()
		}
	}
}

func (s *Server) inventory(c call) (any, error) {
	var inv Inventory
	if err := c.read(&inv); err != nil {
		return nil, err
	}
	return struct{}{}, s.change(c.sum, func(t *Session) error {
		t.Inventory = &inv
		return nil
	})
}

// count tells how many of n things, the first of which has the number first,
// were brought before, where next is what comes next.
func (t *Session) count(boot string, first, n int64, next func(*Session) *int64) (known int64, err error) {
	if boot == "" || len(boot) > 64 || first < 0 {
		return 0, malformed("boot %.80q, first %d", boot, first)
	}
	if t.Boot != boot {
		t.Boot, t.LogNext, t.EventNext = boot, 0, 0
	}
	at := next(t)
	if first > *at {
		r := conflict("number %d comes next", *at)
		r.Next = *at
		return 0, r
	}
	known = min(*at-first, n)
	*at += n - known
	return known, nil
}

func (s *Server) log(c call) (any, error) {
	var b lines
	if err := c.read(&b); err != nil {
		return nil, err
	}
	if len(b.Lines) > MaxLines {
		return nil, malformed("%d lines", len(b.Lines))
	}
	for i := range b.Lines {
		if len(b.Lines[i].Text) > MaxLine {
			return nil, malformed("a line of %d bytes", len(b.Lines[i].Text))
		}
		b.Lines[i].Text = command.Line(b.Lines[i].Text)
	}
	var next int64
	err := s.told(c.sum, func(o Options) error {
		var fresh []Line
		err := s.change(c.sum, func(t *Session) error {
			known, err := t.count(b.Boot, b.First, int64(len(b.Lines)), func(t *Session) *int64 { return &t.LogNext })
			fresh, next = b.Lines[known:], t.LogNext
			return err
		})
		if err == nil && o.Log != nil && len(fresh) > 0 {
			o.Log(fresh)
		}
		return err
	})
	return progress{next}, err
}

// numbered is the body of a call that brings events.
type numbered struct {
	Boot   string  `json:"boot"`
	First  int64   `json:"first"`
	Events []Event `json:"events"`
}

func (s *Server) events(c call) (any, error) {
	var b numbered
	if err := c.read(&b); err != nil {
		return nil, err
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	var next int64
	err := s.told(c.sum, func(o Options) error {
		var fresh []Event
		err := s.change(c.sum, func(t *Session) (err error) {
			fresh, err = t.take(&b)
			next = t.EventNext
			return err
		})
		if err == nil && o.Event != nil {
			for _, e := range fresh {
				o.Event(e)
			}
		}
		return err
	})
	return progress{next}, err
}

// take records events and returns those that are new.
func (t *Session) take(b *numbered) (fresh []Event, err error) {
	known, err := t.count(b.Boot, b.First, int64(len(b.Events)), func(t *Session) *int64 { return &t.EventNext })
	if err != nil {
		return nil, err
	}
	for _, e := range b.Events[known:] {
		// What comes too late is counted, and nothing else.
		if last := t.current(); last.Result == nil && last.Task.ID == e.Task {
			last.record(e)
			fresh = append(fresh, e)
		}
	}
	return fresh, nil
}

// maxSteps bounds how many steps of a task are kept.
const maxSteps = 200

// record keeps a step's last event.
func (t *TaskState) record(e Event) {
	for i := range t.Steps {
		if t.Steps[i].Step == e.Step {
			t.Steps[i] = e
			return
		}
	}
	if len(t.Steps) < maxSteps {
		t.Steps = append(t.Steps, e)
	}
}

func (b *numbered) check() error {
	if len(b.Events) > MaxEvents {
		return malformed("%d events", len(b.Events))
	}
	for i := range b.Events {
		e := &b.Events[i]
		known := slices.Contains([]string{Begin, Progress, End, Failed}, e.State)
		if !known || e.Step == "" || len(e.Step) > 100 || e.Done < 0 || e.Total < 0 || len(e.Error) > MaxError {
			return malformed("event %.40q of step %.80q", e.State, e.Step)
		}
		e.Step, e.Error = command.Line(e.Step), command.Plain(e.Error)
	}
	return nil
}

func (s *Server) result(c call) (any, error) {
	var r Result
	if err := c.read(&r); err != nil {
		return nil, err
	}
	if len(r.Error) > MaxError || len(r.Step) > 100 || len(r.Disk) > 100 || len(r.Seconds) > maxSteps {
		return nil, malformed("the result is too long")
	}
	if r.Fault != "" && r.Fault != ImageFault {
		return nil, malformed("fault %.40q", r.Fault)
	}
	r.Error, r.Step, r.Disk = command.Plain(r.Error), command.Line(r.Step), command.Line(r.Disk)
	return struct{}{}, s.change(c.sum, func(t *Session) error {
		last := t.current()
		switch {
		case last.Task.ID != r.Task:
			return conflict("task %.40q is not the one that runs", r.Task)
		case last.Result != nil:
			return conflict("task %s ended already", r.Task)
		}
		last.Result = &r
		return nil
	})
}
