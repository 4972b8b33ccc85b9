package deploy

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// Session is what is known of one deployment: of a machine from one start of
// its agent until somebody starts it for another purpose.
type Session struct {
	Node    string
	Token   Sum
	Closed  bool // the token counts no more
	Created time.Time
	Seen    time.Time // when the agent called last; zero before it did
	Tasks   []TaskState
	// Boot is the agent's start that lines and events are counted of; LogNext
	// and EventNext are the numbers that come next.
	Boot      string
	LogNext   int64
	EventNext int64
	Inventory *Inventory // nil until the agent sent one
}

// TaskState is a task and how it goes.
type TaskState struct {
	Task   Task
	Steps  []Event // the last event of each step, in the order in which they began
	Result *Result // nil until it ended
}

// current is the last task.
func (s *Session) current() *TaskState { return &s.Tasks[len(s.Tasks)-1] }

// clone is a copy that can be handed out. What is reached through pointers is
// never changed, only replaced.
func (s *Session) clone() *Session {
	c := *s
	c.Tasks = slices.Clone(s.Tasks)
	for i := range c.Tasks {
		c.Tasks[i].Steps = slices.Clone(c.Tasks[i].Steps)
	}
	return &c
}

// ErrUnknown means that no session has that token.
var ErrUnknown = errors.New("unknown token")

// Store keeps sessions. Its methods may be called by several goroutines.
type Store interface {
	// Create adds a session and closes all others of its node. It returns the
	// tokens of those that were open.
	Create(s *Session) (closed []Sum, err error)
	// Update calls change with the session that has the token, and keeps what
	// change made of it, at once or, when change fails, not at all; change's error
	// is returned. [ErrUnknown] is that of a token that there is not. What is
	// passed on is the caller's own.
	Update(token Sum, change func(*Session) error) error
}

// Memory is a Store that forgets everything with its process. The zero value is
// empty.
type Memory struct {
	mu       sync.Mutex // guards the fields below
	sessions map[Sum]*Session
}

// Create implements Store.
func (m *Memory) Create(s *Session) (closed []Sum, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions == nil {
		m.sessions = map[Sum]*Session{}
	}
	for sum, old := range maps.All(m.sessions) {
		if old.Node == s.Node && !old.Closed {
			old.Closed = true
			closed = append(closed, sum)
		}
	}
	m.sessions[s.Token] = s.clone()
	return closed, nil
}

// Update implements Store.
func (m *Memory) Update(token Sum, change func(*Session) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[token]
	if s == nil {
		return ErrUnknown
	}
	c := s.clone()
	if err := change(c); err != nil {
		return err
	}
	m.sessions[token] = c
	return nil
}
