package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"goldsmith/internal/command"
)

// Server answers agents. It is an [http.Handler]; the time that an [http.Server]
// gives it for writing must be longer than [MaxPoll].
type Server struct {
	store Store
	mux   *http.ServeMux
	now   func() time.Time
	poll  time.Duration

	mu    sync.Mutex // guards watch
	watch map[Sum]*watch
}

// watch is who wants to know of a session.
type watch struct {
	changed chan struct{} // closed at the next change
	options Options
	tell    *sync.Mutex // held while the options' functions are called
}

// Options say who is told how a deployment goes. They are called one after the
// other, while the agent waits for its answer. The zero value tells nobody.
type Options struct {
	Log   func([]Line) // lines of the agent's log, each once and in order
	Event func(Event)  // each once and in order
}

// NewServer makes a server that keeps its state in the store; nil is a [Memory].
func NewServer(store Store) *Server {
	if store == nil {
		store = &Memory{}
	}
	s := &Server{store: store, mux: http.NewServeMux(), now: time.Now, poll: MaxPoll, watch: map[Sum]*watch{}}
	s.mux.HandleFunc("GET "+pathTask, s.answer(s.task))
	s.mux.HandleFunc("POST "+pathInventory, s.answer(s.inventory))
	s.mux.HandleFunc("POST "+pathEvents, s.answer(s.events))
	s.mux.HandleFunc("POST "+pathLog, s.answer(s.log))
	s.mux.HandleFunc("POST "+pathResult, s.answer(s.result))
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Deployment is one machine that is told what to do. Its methods may be called
// by several goroutines.
type Deployment struct {
	Node  string
	Token Token // a secret

	server *Server
}

// Assign makes a deployment of a node, whose first task is t. What the node
// was told to do before is off: those tokens count no more.
func (s *Server) Assign(node string, t Task, o Options) (*Deployment, error) {
	if node == "" {
		return nil, command.BadInput(errors.New("task: the node has no name"), "")
	}
	d := &Deployment{Node: node, Token: NewToken(), server: s}
	sum := d.Token.Sum()
	if err := assignable(&t, 1); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.watch[sum] = &watch{make(chan struct{}), o, &sync.Mutex{}}
	s.mu.Unlock()
	closed, err := s.store.Create(&Session{Node: node, Token: sum, Created: s.now(), Tasks: []TaskState{{Task: t}}})
	if err != nil {
		s.forget(sum)
		return nil, fmt.Errorf("assign a task to %s: %w", node, err)
	}
	for _, sum := range closed {
		s.forget(sum)
	}
	return d, nil
}

// assignable checks a task and gives it the n-th task's ID.
func assignable(t *Task, n int) error {
	if t.Kind == Wait || t.ID != "" {
		return command.BadInput(fmt.Errorf("task: kind %q with ID %q cannot be assigned", t.Kind, t.ID), "")
	}
	t.ID = fmt.Sprint(n)
	return t.Check()
}

// change changes a session and tells those who wait for that.
func (s *Server) change(sum Sum, f func(*Session) error) error {
	err := s.store.Update(sum, f)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if w := s.watch[sum]; w != nil {
			close(w.changed)
			w.changed = make(chan struct{})
		}
	}
	return err
}

// changed is closed when the session changes after this call, or is closed.
func (s *Server) changed(sum Sum) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched(sum).changed
}

// watched is who waits for a session and wants to know of it. s.mu is held.
func (s *Server) watched(sum Sum) *watch {
	w := s.watch[sum]
	if w == nil { // a store that outlived a server has it
		w = &watch{changed: make(chan struct{}), tell: &sync.Mutex{}}
		s.watch[sum] = w
	}
	return w
}

// told calls f with who wants to know of a session, and nobody else at the same
// time for that session.
func (s *Server) told(sum Sum, f func(Options) error) error {
	s.mu.Lock()
	w := *s.watched(sum)
	s.mu.Unlock()
	w.tell.Lock()
	defer w.tell.Unlock()
	return f(w.options)
}

func (s *Server) forget(sum Sum) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watch[sum]; w != nil {
		close(w.changed)
		delete(s.watch, sum)
	}
}

// view copies a session.
func (s *Server) view(sum Sum) (out *Session, err error) {
	err = s.store.Update(sum, func(c *Session) error {
		out = c.clone()
		return nil
	})
	return out, err
}

// ErrClosed means that the node was given to somebody else, or the deployment
// closed.
var ErrClosed = errors.New("the deployment is closed")

// Session is how it goes now.
func (d *Deployment) Session() (*Session, error) { return d.server.view(d.Token.Sum()) }

// await returns the session as soon as done is true of it.
func (d *Deployment) await(ctx context.Context, done func(*Session) bool) (*Session, error) {
	for {
		changed := d.server.changed(d.Token.Sum())
		s, err := d.Session()
		switch {
		case err != nil:
			return nil, err
		case done(s):
			return s, nil
		case s.Closed:
			d.server.forget(d.Token.Sum())
			return nil, fmt.Errorf("%s: %w", d.Node, ErrClosed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Wait returns how the last task ended. That it failed is no error of Wait's.
func (d *Deployment) Wait(ctx context.Context) (*Result, error) {
	s, err := d.await(ctx, func(s *Session) bool { return s.current().Result != nil })
	if err != nil {
		return nil, err
	}
	return s.current().Result, nil
}

// Inventory waits for what the machine has.
func (d *Deployment) Inventory(ctx context.Context) (*Inventory, error) {
	s, err := d.await(ctx, func(s *Session) bool { return s.Inventory != nil })
	if err != nil {
		return nil, err
	}
	return s.Inventory, nil
}

// Next gives the agent, which waits, one more task. The one before must have
// ended.
func (d *Deployment) Next(t Task) error {
	return d.server.change(d.Token.Sum(), func(s *Session) error {
		if s.Closed {
			return fmt.Errorf("%s: %w", d.Node, ErrClosed)
		}
		if last := s.current(); last.Result == nil {
			return command.Busy(fmt.Errorf("%s: task %s (%s) has not ended", d.Node, last.Task.ID, last.Task.Kind),
				"wait for its result, or assign a new deployment")
		}
		if err := assignable(&t, len(s.Tasks)+1); err != nil {
			return err
		}
		s.Tasks = append(s.Tasks, TaskState{Task: t})
		return nil
	})
}

// Close ends the deployment: its token counts no more. It may be called twice.
func (d *Deployment) Close() error {
	err := d.server.store.Update(d.Token.Sum(), func(s *Session) error {
		s.Closed = true
		return nil
	})
	d.server.forget(d.Token.Sum())
	return err
}
