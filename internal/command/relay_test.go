package command

import (
	"io"
	"strings"
	"testing"
)

// The error of the other program arrives whole: every line, hint and status.
func TestRelay(t *testing.T) {
	events := `{"event":"start","step":"install.d"}
{"event":"done","step":"install.d","status":"failed"}
not an event
{"event":"error","detail":"element x: install.d/10-a: exit status 3\n    1\n    2","hint":"look","exit":3}
{"event":"start","step":"never ended"}`
	p := NewProgress("test", IO{Stdout: io.Discard, Stderr: io.Discard}, false)
	defer p.Close()
	err := p.Relay(strings.NewReader(events))
	if err == nil || err.Error() != "element x: install.d/10-a: exit status 3\n    1\n    2" ||
		HintOf(err) != "look" || Status(err) != 3 {
		t.Errorf("Relay = %v, hint %q, status %d", err, HintOf(err), Status(err))
	}
	if err := p.Relay(strings.NewReader(`{"event":"result"}`)); err != nil {
		t.Errorf("Relay of a success = %v", err)
	}
}
