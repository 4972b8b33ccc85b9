package testbed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What ConsoleShell and the machine's shell say to each other.

// consoleSum is the checksum of a question or an answer as it is sent, in
// base64: what sha256sum prints.
func consoleSum(coded []byte) string {
	h := sha256.Sum256(coded)
	return hex.EncodeToString(h[:])
}

// consoleQuestion makes the line that has a shell run a script and print the
// answer. A line that arrives damaged is not run. The number makes the answer's
// mark another one each time; nothing in the line looks like that mark, since a
// terminal may echo the line.
func consoleQuestion(number int, script string) (line, id string) {
	coded := base64.StdEncoding.EncodeToString([]byte(script))
	sum := consoleSum([]byte(coded))
	id = fmt.Sprintf("%d-%s", number, sum[:8])
	// The script is a shell of its own: what it does to its files and directory
	// is not ours.
	line = fmt.Sprintf(`q=%s;if [ "$(printf %%s "$q"|sha256sum)" = '%s  -' ];then `+
		`a=$(printf %%s "$q"|base64 -d|sh 2>/dev/null|base64);set -- $(printf %%s "$a"|sha256sum);`+
		`printf '\n@%%s<\n%%s\n@%%s>%%s\n@%%s>%%s\n' %s "$a" %s $1 %s $1;fi`, coded, sum, id, id, id)
	return line, id
}

// kernelLine is what the kernel prints, from wherever in a line it began.
var kernelLine = regexp.MustCompile(`(<[0-9]+>)?\[ *[0-9]+\.[0-9]{6}\](\[ *[CT][0-9]+\])? [^\n]*\n`)

// consoleReply looks for the answer with that id in a console's text:
//
//	@ID<
//	BASE64
//	@ID>CHECKSUM
//	@ID>CHECKSUM
//
// Each line may have others before and after it, and each end is enough. done
// says that nothing more is to come. What was printed into the answer is cut out
// where it is lines of their own, or the kernel's; what does not fit the
// checksum then is errConsoleDamaged, and never an answer.
func consoleReply(text []byte, id string) (body []byte, done bool, err error) {
	text = bytes.ReplaceAll(text, []byte("\r"), nil)
	for _, t := range [][]byte{text, withoutKernel(text)} {
		if body, done, err = plainReply(t, []byte("@"+id+"<\n"), []byte("@"+id+">")); done && err == nil {
			break
		}
	}
	return body, done, err
}

func withoutKernel(text []byte) []byte { return kernelLine.ReplaceAll(text, nil) }

// plainReply is consoleReply of a text that nothing more can be cut out of.
func plainReply(text, begin, end []byte) (body []byte, done bool, err error) {
	const sumSize = 2 * sha256.Size
	ends := 0
	for at := 0; ; {
		i := bytes.Index(text[at:], end)
		if i < 0 || len(text) < at+i+len(end)+sumSize {
			break
		}
		ends++
		if b, ok := between(text[:at+i], begin, string(text[at+i+len(end):][:sumSize])); ok {
			return b, true, nil
		}
		at += i + len(end)
	}
	if ends == 0 {
		return nil, false, nil
	}
	return nil, ends > 1, errConsoleDamaged
}

// between reads the answer that begins in text, if it has that checksum.
func between(text, begin []byte, sum string) ([]byte, bool) {
	i := bytes.LastIndex(text, begin)
	if i < 0 {
		return nil, false
	}
	coded := base64Lines(text[i+len(begin):])
	if consoleSum(coded) != sum {
		return nil, false
	}
	b, err := base64.StdEncoding.DecodeString(string(coded)) // it skips line feeds
	return b, err == nil
}

// base64Lines leaves out the lines that are something else.
func base64Lines(text []byte) []byte {
	var all [][]byte
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSuffix(line, []byte("\n")); base64Line.Match(line) {
			all = append(all, line)
		}
	}
	return bytes.Join(all, []byte("\n"))
}

var base64Line = regexp.MustCompile(`^[A-Za-z0-9+/]+={0,2}$`)

// send copies what r has to one of our files on the machine.
func (s *ConsoleShell) send(ctx context.Context, name string, r io.Reader) error {
	part := make([]byte, consoleLine)
	whole := sha256.New()
	file := s.file(name)
	for number, total := 0, 0; ; number++ {
		n, rerr := io.ReadFull(r, part)
		if rerr != nil && !errors.Is(rerr, io.EOF) && !errors.Is(rerr, io.ErrUnexpectedEOF) {
			return rerr
		}
		if total += n; total > maxConsole {
			return fmt.Errorf("more than %d bytes do not go through a console", maxConsole)
		}
		if n > 0 {
			whole.Write(part[:n])
			// Each part is a file: to write it twice does no harm.
			script := fmt.Sprintf("umask 077; printf %%s '%s' | base64 -d >%s.%06d", base64.StdEncoding.EncodeToString(part[:n]), file, number)
			if _, err := s.ask(ctx, script); err != nil {
				return err
			}
		}
		if rerr != nil {
			break
		}
	}
	b, err := s.ask(ctx, fmt.Sprintf("umask 077; cat /dev/null %[1]s.?????? >%[1]s; sha256sum <%[1]s", file))
	if err != nil {
		return err
	}
	if sum, _, _ := strings.Cut(string(b), " "); sum != hex.EncodeToString(whole.Sum(nil)) {
		return s.unreachable(ctx, errors.New("what was typed has arrived differently; is the machine's disk full?"))
	}
	return nil
}

// fetch copies what a file of the machine has from one place to another to w.
// Where answers are damaged it asks for less at a time, so that some get between
// what else is printed.
func (s *ConsoleShell) fetch(ctx context.Context, file string, from, to int, w io.Writer) error {
	for size := consolePart; from < to; {
		want := min(size, to-from)
		b, err := s.part(ctx, fmt.Sprintf("tail -c +%d %s | head -c %d", from+1, file, want), size > consoleLess)
		switch {
		case errors.Is(err, errConsoleDamaged) && size > consoleLess && ctx.Err() == nil:
			size = max(size/4, consoleLess)
			continue
		case err != nil:
			return err
		case len(b) != want:
			return s.unreachable(ctx, fmt.Errorf("%d of %d bytes are there: the machine was started anew", from+len(b), to))
		}
		from += want
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// part is ask; where less could be asked for it gives up early.
func (s *ConsoleShell) part(ctx context.Context, script string, early bool) ([]byte, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	if early {
		return s.askAlone(ctx, script, 2)
	}
	return s.askAlone(ctx, script, consoleTries)
}

func signalName(n int) string {
	name := strings.TrimPrefix(unix.SignalName(unix.Signal(n)), "SIG")
	if name == "" {
		name = strconv.Itoa(n)
	}
	return name
}

// maxHeard bounds what is kept of a console that talks much, in bytes.
const maxHeard = 1 << 20

// consoleConn is an open serial port with what it has shown lately.
type consoleConn struct {
	port io.ReadWriteCloser
	gone chan struct{} // closed when the port has ended

	mu   sync.Mutex // guards the fields below
	text []byte
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
		if over := len(c.text) - maxHeard; over > 0 {
			c.text = append([]byte(nil), c.text[over:]...)
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
	c.text = nil
}

func (c *consoleConn) now() (text []byte, more chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.text...), c.more
}

// until waits until what was shown since forget is what f wants.
func (c *consoleConn) until(ctx context.Context, f func(text []byte) bool) bool {
	for {
		text, more := c.now()
		if f(text) {
			return true
		}
		select {
		case <-more:
		case <-c.gone:
			text, _ := c.now()
			return f(text)
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
	text, _ := c.now()
	return starts.Match(text)
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
	return c.until(ctx, func(text []byte) bool { return bytes.Contains(withoutKernel(text), []byte(word)) })
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
	c.until(ctx, func(text []byte) bool { return len(bytes.TrimSpace(text)) > 0 })
	for {
		text, more := c.now()
		select {
		case <-more:
			continue
		case <-c.gone:
		case <-ctx.Done():
		case <-time.After(consoleQuiet):
			if len(text) == 0 {
				continue
			}
		}
		return strings.TrimRight(escapes.ReplaceAllString(string(withoutKernel(text)), ""), "\x00\r\n")
	}
}
