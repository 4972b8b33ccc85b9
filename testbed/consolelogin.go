package testbed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Bounds of what is kept of a console that talks much, in bytes.
const (
	maxHeard   = 1 << 20  // twice that, for a moment
	nearMark   = 4 << 10  // looked at again with what is new, for words that came in pieces
	maxSettled = 64 << 10 // of what stands there when somebody is to log in
)

// consoleConn is an open serial port with what it has shown lately.
type consoleConn struct {
	port io.ReadWriteCloser
	gone chan struct{} // closed when the port has ended

	mu   sync.Mutex // guards the fields below
	text []byte
	all  int64         // so much has come since forget, with what is kept no more
	more chan struct{} // closed when there is more text
}

func newConsoleConn(port io.ReadWriteCloser) *consoleConn {
	c := &consoleConn{port: port, gone: make(chan struct{}), more: make(chan struct{})}
	go c.read()
	return c
}

func (c *consoleConn) read() {
	defer close(c.gone)
	b := make([]byte, 4096)
	for {
		n, err := c.port.Read(b)
		c.mu.Lock()
		c.text = append(c.text, b[:n]...)
		c.all += int64(n)
		if len(c.text) > 2*maxHeard {
			c.text = append([]byte(nil), c.text[len(c.text)-maxHeard:]...)
		}
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *consoleConn) close() error {
	err := c.port.Close()
	<-c.gone
	return err
}

func (c *consoleConn) say(text string) error {
	_, err := io.WriteString(c.port, text)
	return err
}

// forget drops what was shown so far.
func (c *consoleConn) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text, c.all = nil, 0
}

// last is a copy of what was shown last since forget, so many bytes at most.
func (c *consoleConn) last(size int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.text[max(0, len(c.text)-size):])
}

// until waits until what was shown since forget is what f wants. f keeps
// nothing of it. latest is the part of text that f has not seen yet, and a little
// before it: the whole is large where a console talks without end.
func (c *consoleConn) until(ctx context.Context, f func(text, latest []byte) bool) bool {
	seen := int64(0)
	look := func() (bool, chan struct{}) {
		c.mu.Lock()
		defer c.mu.Unlock()
		from := int64(len(c.text)) - (c.all - seen) - nearMark
		seen = c.all
		return f(c.text, c.text[max(0, from):]), c.more
	}
	for {
		is, more := look()
		if is {
			return true
		}
		select {
		case <-more:
		case <-c.gone:
			is, _ := look()
			return is
		case <-ctx.Done():
			return false
		}
	}
}

// why says why until was not.
func (c *consoleConn) why(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errConsoleGone
}

// What a console shows that waits for somebody, at the end of its text.
var (
	asksUser     = regexp.MustCompile(`(?i)login: *$`)
	asksPassword = regexp.MustCompile(`(?i)password: *$`)
	refuses      = regexp.MustCompile(`(?i)login incorrect`)
	hasShell     = regexp.MustCompile(`[#$] ?$`)
	starts       = regexp.MustCompile(`(?m)login: *$|Linux version |reboot: |BdsDxe: |SeaBIOS|GNU GRUB|iPXE|imginit: `)
)

// restarted tells whether the machine has gone on to something else since
// forget: what is typed now would be for a boot loader.
func (c *consoleConn) restarted() bool {
	return starts.Match(c.last(maxHeard))
}

// Times of a login.
const (
	consoleQuiet = 300 * time.Millisecond // until what stands there is whole
	consolePoke  = 2 * time.Second        // between two strokes of the return key
	consoleDumb  = 15 * time.Second       // without a word: a shell that shows nothing
)

// quietShell replaces the console's shell by one that echoes nothing, prompts
// for nothing and edits no lines: it believes that nobody is there. What is
// typed before it says quietReady is for the shell before it, which reads
// single keys.
const (
	quietShell = " stty -echo -ixon icanon icrnl 2>/dev/null; printf '@%s@\\n@%s@\\n' ready ready; exec sh -s 2>/dev/null\r"
	quietReady = "@ready@"
	// endQuietShell interrupts what it does, and ends its input.
	endQuietShell = "\x03\r\x04"
)

// login has somebody logged in, and a shell that listens. A firmware or boot
// loader that is still there gets nothing but the return key: letters may be
// commands to it.
func (c *consoleConn) login(ctx context.Context, user, password string, dumb time.Duration) error {
	silent := time.Now()
	for typed := false; ; {
		c.forget()
		if err := c.say("\r"); err != nil {
			return err
		}
		text := c.settled(ctx, consolePoke)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%w; the console shows no login and no shell%s", context.Cause(ctx), lastLines(text, 3))
		case c.ended():
			return errConsoleGone
		case typed && refuses.MatchString(text):
			return fmt.Errorf("%w: login incorrect", errConsoleRefused)
		case asksPassword.MatchString(text): // of somebody's login: the return key ends it
		case asksUser.MatchString(text):
			c.forget()
			if err := c.say(user + "\r"); err != nil {
				return err
			}
			if text = c.settled(ctx, consoleAnswer); !asksPassword.MatchString(text) {
				break
			}
			if password == "" {
				return fmt.Errorf("%w: it asks for a password", errConsoleRefused)
			}
			c.forget()
			if err := c.say(password + "\r"); err != nil {
				return err
			}
			if typed = true; refuses.MatchString(c.settled(ctx, consoleAnswer)) {
				return fmt.Errorf("%w: login incorrect", errConsoleRefused)
			}
		case hasShell.MatchString(text):
			c.forget()
			if err := c.say(quietShell); err != nil {
				return err
			}
			if c.shows(ctx, quietReady) {
				return nil
			}
		case text == "" && time.Since(silent) > dumb:
			// Perhaps a shell of ours that its process left: it ends by this.
			if err := c.say(endQuietShell); err != nil {
				return err
			}
			silent = time.Now()
		}
		if text != "" {
			silent = time.Now()
		}
	}
}

// shows waits for a word on the console.
func (c *consoleConn) shows(ctx context.Context, word string) bool {
	ctx, cancel := context.WithTimeout(ctx, consoleAnswer)
	defer cancel()
	return c.until(ctx, func(_, latest []byte) bool { return bytes.Contains(withoutKernel(latest), []byte(word)) })
}

func (c *consoleConn) ended() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// settled returns what is shown when nothing more comes for a moment, or after
// a time.
func (c *consoleConn) settled(ctx context.Context, limit time.Duration) string {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.until(ctx, func(_, latest []byte) bool { return len(bytes.TrimSpace(latest)) > 0 })
	for settled := false; !settled; {
		select {
		case <-c.next():
		case <-c.gone:
			settled = true
		case <-ctx.Done():
			settled = true
		case <-time.After(consoleQuiet):
			settled = len(c.last(1)) > 0
		}
	}
	text := string(withoutKernel(c.last(maxSettled)))
	return strings.TrimRight(escapes.ReplaceAllString(text, ""), "\x00\r\n")
}

// next is closed when there is more text.
func (c *consoleConn) next() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.more
}
