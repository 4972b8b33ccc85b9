package testbed

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// maxAgentMessage bounds one answer in bytes: 16 MiB of output and as much of
// errors, in base64.
const maxAgentMessage = 48 << 20

// AgentConn is a connection to a guest agent: a socket at whose other end is
// QEMU's virtio-serial port, or the agent itself. One command runs at a time.
//
// The other end may not be there yet, and may still answer what was asked
// before: an agent that starts finds all questions since the machine was
// switched on. So a conversation begins with guest-sync-delimited, which
// returns our number after a byte that no JSON holds, and begins anew after a
// question that was not answered in time.
type AgentConn struct {
	conn  net.Conn
	lines chan []byte   // what the agent says
	gone  chan struct{} // closed when the connection has ended

	busy   chan struct{} // holds one token: whose turn it is
	synced bool          // owned by whose turn it is

	closing sync.Once
	end     chan struct{} // closed by Close
}

// NewAgentConn takes conn over; Close ends it.
func NewAgentConn(conn net.Conn) *AgentConn {
	a := &AgentConn{conn: conn, lines: make(chan []byte), gone: make(chan struct{}),
		busy: make(chan struct{}, 1), end: make(chan struct{})}
	go a.read()
	return a
}

// Close ends the connection, and waits for nothing of ours to be left. It may
// be called twice.
func (a *AgentConn) Close() error {
	var err error
	a.closing.Do(func() {
		close(a.end)
		err = a.conn.Close()
	})
	<-a.gone
	return err
}

// read passes lines on. Nobody else reads.
func (a *AgentConn) read() {
	defer close(a.gone)
	lines := bufio.NewScanner(a.conn)
	lines.Buffer(nil, maxAgentMessage)
	for lines.Scan() {
		select {
		case a.lines <- append([]byte(nil), lines.Bytes()...):
		case <-a.end:
			return
		}
	}
}

var errAgentGone = errors.New("the connection to the guest agent has ended")

// CallAgent implements AgentCaller.
func (a *AgentConn) CallAgent(ctx context.Context, request []byte) ([]byte, error) {
	select {
	case a.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-a.busy }()
	if !a.synced {
		if err := a.sync(ctx); err != nil {
			return nil, err
		}
	}
	a.synced = false
	if err := a.send(ctx, request); err != nil {
		return nil, err
	}
	answer, err := a.next(ctx)
	a.synced = err == nil
	return answer, err
}

// delimiter comes before the answer to guest-sync-delimited; before a question
// it has the agent forget half of an earlier one.
const delimiter = 0xff

// sync asks for a number until it comes.
func (a *AgentConn) sync(ctx context.Context) error {
	id := rand.Int64N(1 << 52) // exact in every JSON reader
	question := fmt.Appendf([]byte{delimiter}, `{"execute":"guest-sync-delimited","arguments":{"id":%d}}`, id)
	if err := a.send(ctx, question); err != nil {
		return err
	}
	for {
		line, err := a.next(ctx)
		if err != nil {
			return err
		}
		for len(line) > 0 && line[0] == delimiter {
			line = line[1:]
		}
		var answer struct {
			Return json.RawMessage `json:"return"`
		}
		if json.Unmarshal(line, &answer) == nil && string(answer.Return) == fmt.Sprint(id) {
			return nil
		}
	}
}

func (a *AgentConn) send(ctx context.Context, request []byte) error {
	// A machine that does not read takes some kilobytes and then no more.
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(agentAnswer)
	}
	if err := a.conn.SetWriteDeadline(deadline); err != nil {
		return errAgentGone
	}
	if _, err := a.conn.Write(append(request, '\n')); err != nil {
		return fmt.Errorf("%w: %w", errAgentGone, err)
	}
	return nil
}

func (a *AgentConn) next(ctx context.Context) ([]byte, error) {
	select {
	case line := <-a.lines:
		return line, nil
	case <-a.gone:
		return nil, errAgentGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
