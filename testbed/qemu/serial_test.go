package qemu

import (
	"net"
	"path/filepath"
	"testing"
)

// Who types at a machine that has just ended is told nothing of it: the serial
// port is there for its next start.
func TestTypesAtTheEnd(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, hangUp := range []func(ours, theirs net.Conn) error{
		func(_, theirs net.Conn) error { return theirs.Close() }, // QEMU has
		func(ours, _ net.Conn) error { return ours.Close() },     // plug has
	} {
		ours, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := hangUp(ours, theirs); err != nil {
			t.Fatal(err)
		}
		port := (&serial{conn: ours}).connect()
		for _, text := range []string{"", "x"} {
			if n, err := port.Write([]byte(text)); n != len(text) || err != nil {
				t.Errorf("Write(%q) = %d, %v", text, n, err)
			}
		}
		_, _ = ours.Close(), theirs.Close()
	}
}
