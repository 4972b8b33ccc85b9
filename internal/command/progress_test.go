package command

import (
	"bytes"
	"strings"
	"testing"
)

// A step that knows how far it is says so at every tenth, once.
func TestPart(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress("test", IO{Stdout: &out, Stderr: &out}, true)
	s := p.Start("write")
	for done := range int64(201) {
		s.Part(done, 200)
	}
	s.Part(5, 0) // nobody knows
	s.Done(nil, "")
	p.Close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 12 || lines[1] != `{"event":"part","step":"write","percent":10}` || lines[10] != `{"event":"part","step":"write","percent":100}` {
		t.Errorf("events:\n%s", out.String())
	}
}
