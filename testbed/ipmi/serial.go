package ipmi

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"goldsmith/testbed"
)

// gap tells whether a stream was ended by go-ipmi because characters were lost,
// which it has no error value for, rather than by the BMC.
func gap(err error) bool {
	for _, s := range []string{"output was lost", "unexpected BMC SOL sequence", "shortened retried SOL", "repeated SOL sequence"} {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return errors.Is(err, errPanic) || errors.Is(err, os.ErrClosed)
}

// mark writes a line of our own to the console's file: docs/formats.md.
func mark(w io.Writer, format string, args ...any) {
	text := plain(fmt.Sprintf(format, args...))
	_, _ = fmt.Fprintf(w, "\r\n[goldsmith %s console %s]\r\n", time.Now().UTC().Format(time.RFC3339), text)
}

// connected notes that the console is being recorded. The first line of a new
// file is the machine's.
func (r *recorder) connected(f *os.File, taken bool) {
	fi, err := f.Stat()
	switch {
	case taken:
		mark(f, "taken from another session")
	case err != nil || fi.Size() > 0:
		mark(f, "connected; what was printed before is missing")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = nil
}

// lost notes why nothing is recorded from here on. The same reason twice is
// one line.
func (r *recorder) lost(err error) {
	r.mu.Lock()
	same := r.fault != nil && r.fault.Error() == err.Error()
	r.fault = err
	r.mu.Unlock()
	if same {
		return
	}
	f, oerr := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if oerr != nil {
		return
	}
	defer f.Close()
	mark(f, "lost: %v", err)
}

// typing sets what takes typed characters.
func (r *recorder) typing(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.typed = w
}

// ink is where a stream's characters go: to the file and to who types.
type ink struct {
	*recorder
	f *os.File
}

func (k *ink) Write(p []byte) (int, error) {
	k.mu.Lock()
	before := k.bytes
	k.bytes += int64(len(p))
	typist := k.typist
	k.mu.Unlock()
	if typist != nil {
		typist.feed(p)
	}
	switch {
	case before > k.most:
		return len(p), nil
	case before+int64(len(p)) > k.most:
		mark(k.f, "has printed %d MiB: no more is kept", k.most>>20)
		return len(p), nil
	}
	return k.f.Write(p)
}

// maxConsole bounds what is kept of a console that never stops, in bytes.
const maxConsole = 256 << 20

// backlog bounds what a reader of the serial port may leave unread, in bytes.
// What is older is lost to it; the console's file has everything.
const backlog = 1 << 20

// serial is the one connection that may type.
type serial struct {
	r *recorder

	mu     sync.Mutex // guards the fields below
	more   *sync.Cond
	unread []byte
	closed bool
}

// attach makes the connection, when nobody has it.
func (r *recorder) attach() (io.ReadWriteCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.typist != nil {
		return nil, r.dialer.fault(testbed.Stolen, "open the serial port", errors.New("somebody else types there"))
	}
	s := &serial{r: r}
	s.more = sync.NewCond(&s.mu)
	r.typist = s
	return s, nil
}

func (s *serial) feed(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = append(s.unread, p...)
	if over := len(s.unread) - backlog; over > 0 {
		s.unread = append([]byte(nil), s.unread[over:]...)
	}
	s.more.Broadcast()
}

// Read waits for what the machine prints, over interruptions of the console;
// io.EOF follows Close and the end of recording.
func (s *serial) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.unread) == 0 && !s.closed {
		s.more.Wait()
	}
	if len(s.unread) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// Write types. While the console is interrupted it fails with the reason.
func (s *serial) Write(p []byte) (int, error) {
	s.r.mu.Lock()
	w, fault, ours := s.r.typed, s.r.fault, s.r.typist == s
	s.r.mu.Unlock()
	switch {
	case !ours:
		return 0, io.ErrClosedPipe
	case fault != nil:
		return 0, fault
	case w == nil:
		return 0, s.r.dialer.fault(testbed.Silent, "type", errStarting)
	}
	return w.Write(p)
}

// Close lets others type. Readers that wait are woken.
func (s *serial) Close() error {
	s.r.mu.Lock()
	if s.r.typist == s {
		s.r.typist = nil
	}
	s.r.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.more.Broadcast()
	return nil
}
