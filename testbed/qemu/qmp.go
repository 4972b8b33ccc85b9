package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// maxMessage bounds one message of QEMU's in bytes; ours need a few hundred.
const maxMessage = 1 << 20

// monitor speaks QMP, the JSON protocol of QEMU's monitor
// (docs/interop/qmp-spec.txt of QEMU): one object a line, answers carry the id
// of their question, events come at any time.
type monitor struct {
	conn net.Conn
	gone chan struct{} // closed when the connection has ended
	next atomic.Int64

	mu       sync.Mutex // guards the fields below
	waiting  map[int64]chan answer
	shutdown string // the reason in the event SHUTDOWN
}

// answer is a message of QEMU's: an answer, an event or the greeting.
type answer struct {
	ID     int64           `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Reason string `json:"reason"`
	} `json:"data"`
}

// monitorOn begins to read from the connection and closes it when it ends.
func monitorOn(conn net.Conn) *monitor {
	m := &monitor{conn: conn, gone: make(chan struct{}), waiting: map[int64]chan answer{}}
	go m.read()
	return m
}

func (m *monitor) read() {
	defer close(m.gone)
	defer m.conn.Close()
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		var a answer
		if json.Unmarshal(lines.Bytes(), &a) != nil {
			return // not QMP; who waits learns that the connection has ended
		}
		m.mu.Lock()
		if a.Event == "SHUTDOWN" {
			m.shutdown = a.Data.Reason
		}
		if w := m.waiting[a.ID]; w != nil && a.Event == "" {
			w <- a
			delete(m.waiting, a.ID)
		}
		m.mu.Unlock()
	}
}

var errGone = errors.New("qemu has ended")

// run gives a command and returns what QEMU answers. arguments is encoded as
// JSON; nil means none.
func (m *monitor) run(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	id := m.next.Add(1)
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int64  `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return nil, err
	}
	w := make(chan answer, 1)
	m.mu.Lock()
	m.waiting[id] = w
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.waiting, id)
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := m.conn.SetWriteDeadline(deadline); err != nil {
			return nil, errGone
		}
	}
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	select {
	case a := <-w:
		if a.Error != nil {
			return nil, fmt.Errorf("qemu refuses %s: %s", command, a.Error.Desc)
		}
		return a.Return, nil
	case <-m.gone:
		return nil, errGone
	case <-ctx.Done():
		return nil, fmt.Errorf("qemu does not answer %s: %w", command, context.Cause(ctx))
	}
}

// reason says why the machine ended, in QEMU's words; "" when it did not say.
// It is final once gone is closed.
func (m *monitor) reason() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shutdown
}
