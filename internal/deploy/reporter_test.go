package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func upFor() float64 { return 1.5 }

// flaky loses requests and answers: every third request is not handled, and of
// the others every third answer does not arrive.
func flaky(h http.Handler) http.Handler {
	var n atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % 3 {
		case 0:
			panic(http.ErrAbortHandler)
		case 1:
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

// Every line and every event arrives once and in order, those from before there
// was a network, too, whatever the network loses.
func TestReporter(t *testing.T) {
	b := newBed(t)
	web := httptest.NewServer(flaky(b))
	t.Cleanup(web.Close)
	b.url = web.URL
	_, c := b.assign(t, "node1", inspect())
	r := NewReporter("boot1", upFor)
	var want []string
	say := func(n int) {
		for range n {
			want = append(want, fmt.Sprintf("line %d", len(want)))
			r.Line(want[len(want)-1] + "\n")
		}
	}
	say(2 * MaxLines)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx, c) }()
	say(10)
	for i := range 30 {
		r.Event(Event{Task: "1", Step: fmt.Sprintf("%02d-a", i), State: Begin})
		r.Event(Event{Task: "1", Step: fmt.Sprintf("%02d-a", i), State: Progress, Done: 1, Total: 2})
		r.Event(Event{Task: "1", Step: fmt.Sprintf("%02d-a", i), State: Progress, Done: 2, Total: 2})
		r.Event(Event{Task: "1", Step: fmt.Sprintf("%02d-a", i), State: End})
	}
	if err := r.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	say(3)
	if err := r.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err == nil {
		t.Error("Run ends without an error")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, got := range b.lines {
		if i >= len(want) || got != want[i] {
			t.Fatalf("line %d is %q", i, got)
		}
	}
	if len(b.lines) != len(want) {
		t.Errorf("%d lines; want %d", len(b.lines), len(want))
	}
	checkEvents(t, b.events, 30)
}

// checkEvents demands that many steps, from begin to end, one after the other.
func checkEvents(t *testing.T, events []Event, steps int) {
	t.Helper()
	begun, ends := 0, 0
	for _, e := range events {
		switch e.State {
		case Begin:
			begun++
		case End:
			ends++
		}
		if e.Step != fmt.Sprintf("%02d-a", begun-1) {
			t.Errorf("event %+v is out of order", e)
		}
	}
	if begun != steps || ends != steps {
		t.Errorf("%d begin, %d end; want %d", begun, ends, steps)
	}
}

// A server that forgot everything gets the rest, under other numbers.
func TestReporterNewServer(t *testing.T) {
	b := newBed(t)
	var h atomic.Pointer[Server]
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.Load().ServeHTTP(w, r) }))
	t.Cleanup(web.Close)
	h.Store(b.Server)
	b.url = web.URL
	d, c := b.assign(t, "node1", inspect())
	r := NewReporter("boot1", upFor)
	go func() { _ = r.Run(t.Context(), c) }()
	r.Line("one")
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := newBed(t)
	var got []Line
	w := NewServer(nil)
	sum := d.Token.Sum()
	w.watch[sum] = &watch{make(chan struct{}), Options{Log: func(ls []Line) { got = append(got, ls...) }}, &fresh.mu}
	if _, err := w.store.Create(&Session{Node: "node1", Token: sum, Tasks: []TaskState{{Task: inspect()}}}); err != nil {
		t.Fatal(err)
	}
	h.Store(w)
	r.Line("two\x1b[31m")
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0] != (Line{1.5, "two [31m"}) {
		t.Errorf("the new server got %v", got)
	}
}

// Without room the oldest lines go, those on their way stay, and it is said.
func TestReporterRoom(t *testing.T) {
	r := NewReporter("boot1", upFor)
	for i := range maxQueue {
		r.Line(fmt.Sprint(i))
	}
	r.lines.head(2)
	r.Line("last")
	want := fmt.Sprintf("(%d lines were dropped here, for want of room)", maxQueue/2+1)
	if l := r.lines.list; len(l) != maxQueue/2+1 || l[1].Text != "1" || l[2].Text != want || l[len(l)-1].Text != "last" {
		t.Errorf("%d lines: %v, …", len(l), l[:3])
	}
}

// A server that is away for long is waited for, which is said.
func TestInsist(t *testing.T) {
	c, err := NewClient("http://127.0.0.1:1", "x")
	if err != nil {
		t.Fatal(err)
	}
	c.pause = 0
	var said []string
	c.Say = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	n := 0
	err = c.insist(t.Context(), func(context.Context) error {
		if n++; n <= 2*sayAfter {
			return &Refusal{Status: http.StatusBadGateway, Text: "away"}
		}
		return nil
	})
	want := "server 127.0.0.1:1 does not answer: away (502); it is asked until it does\nserver 127.0.0.1:1 answers again"
	if got := strings.Join(said, "\n"); err != nil || got != want {
		t.Errorf("%v, said %q", err, got)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	c.Say, c.pause = nil, time.Hour
	if err := c.insist(ctx, func(context.Context) error { return errors.New("no network") }); err == nil {
		t.Error("a cancelled call ends well")
	}
}
