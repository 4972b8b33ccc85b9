package command

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// A meter says what goes on in its own part, by the names that the part has, and
// nothing of others.
func TestMeter(t *testing.T) {
	p := NewProgress("test", IO{Stdout: io.Discard, Stderr: io.Discard}, false)
	defer p.Close()
	m := NewMeter()
	mine := p.Within("smoke").Metered(m)
	said := func(want string) {
		t.Helper()
		if got := m.Line(); got != want {
			t.Errorf("it says %q; want %q", got, want)
		}
		select {
		case <-m.Changed():
		default:
			t.Errorf("%q came silently", want)
		}
		select {
		case <-m.Changed():
			t.Errorf("%q came twice", want)
		default:
		}
	}
	boot := mine.Start("boot")
	p.Within("metal").Start("power on").Part(1, 2)
	said("boot")
	test := mine.Within("tests").Start("ssh\x1b[2J\n")
	said("tests: ssh [2J ")
	test.Part(40, 100)
	said("tests: ssh [2J  40 %")
	test.Done(nil, "")
	said("boot")
	mine.Count(Count{Total: 9, Done: 2})
	said("[3 of 9] boot")
	boot.Done(nil, "")
	said("")
	boot.Part(1, 2) // after its end
	if got := m.Line(); got != "" {
		t.Errorf("%q goes on", got)
	}
}

// What another program says of how far it is arrives, also how many steps it has.
func TestRelayMeter(t *testing.T) {
	var out bytes.Buffer
	theirs := NewProgress("theirs", IO{Stdout: &out, Stderr: &out}, true)
	theirs.Count(Count{Total: 17, Done: 2})
	theirs.Start("install.d/50-redis").Part(41, 100)
	theirs.Close()

	p := NewProgress("ours", IO{Stdout: io.Discard, Stderr: io.Discard}, false)
	defer p.Close()
	m := NewMeter()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- p.Metered(m).Relay(r) }()
	if _, err := w.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(strings.Repeat(" ", 8<<10) + "\n")); err != nil { // what came before has been read
		t.Fatal(err)
	}
	if got := m.Line(); got != "[3 of 17] install.d/50-redis 41 %" {
		t.Errorf("it says %q", got)
	}
	_ = w.Close()
	<-done
	if got := m.Line(); got != "" {
		t.Errorf("after its end it says %q", got)
	}
}
