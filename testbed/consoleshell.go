package testbed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ConsoleShell is a Shell over a machine's serial console, for machines without
// a network or that their network is broken of. It is slow, some kilobytes a
// second, and what goes through it is in the console's recorded text, in
// base64. It is safe for several goroutines. The caller closes it: one process
// types on a console at a time.
//
// The machine offers a root shell on its console (element console-shell), or a
// login that Password opens. It needs a POSIX shell, base64, sha256sum, mktemp,
// setsid and stty.
//
// Whatever else prints on a console, the kernel above all, prints into our
// lines. So everything is a question in one line, and an answer of few lines in
// base64 between marks, with a checksum (see consoleReply). A question does
// nothing when it was mistyped, and does the same when it is asked twice; it is
// asked again, and for less at a time, when its answer is damaged. A command
// itself is started once; its output waits in files on the machine.
type ConsoleShell struct {
	Name     string // the machine's, for errors
	Machine  Serial
	User     string // who logs in where the console asks; "" means root
	Password string // "" means that none is asked for

	init sync.Once
	busy chan struct{} // made by lock; holds one token: whose turn it is

	// Owned by whose turn it is.
	conn   *consoleConn // nil while it is not connected
	dir    string       // ours on the machine; "" before the first login
	quiet  bool         // a shell of ours may be there that shows nothing
	asked  int          // so many questions
	runs   int          // so many commands
	unused []string     // commands whose files are to be removed

	dumb time.Duration // of tests; 0 means consoleDumb
}

var _ Shell = (*ConsoleShell)(nil)

// Bounds of what goes through a console, in bytes.
const (
	consoleLine = 3 << 9  // of a file, in one question: a terminal takes lines of 4095 bytes
	consolePart = 4 << 10 // of a file, in one answer, at first
	consoleLess = 64      // the least that is asked for at a time
	maxConsole  = 8 << 20 // of a file, or of a command's input or output
)

// Times of a conversation.
const (
	consoleAnswer  = 10 * time.Second // until a question counts as not heard
	consoleTries   = 10               // of one question, or of getting one part of a file
	consoleBefore  = 2                // so many of them before the login is tried again
	consolePollMin = 50 * time.Millisecond
	consolePollMax = time.Second
	consoleKill    = 5 * time.Second // to end a command whose context has ended
)

// lock waits for our turn.
func (s *ConsoleShell) lock(ctx context.Context) error {
	s.init.Do(func() { s.busy = make(chan struct{}, 1) })
	select {
	case s.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return s.unreachable(ctx, context.Cause(ctx))
	}
}

func (s *ConsoleShell) unlock() { <-s.busy }

func (s *ConsoleShell) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &UnreachableError{By: "console of", Addr: s.Name, Err: err}
}

// Wait implements Shell: somebody is logged in, and answers.
func (s *ConsoleShell) Wait(ctx context.Context) error {
	for {
		_, last := s.ask(ctx, ":")
		if last == nil || errors.Is(last, errConsoleRefused) {
			return last
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no shell on the console within the time given: %w", last)
		case <-time.After(retryPause):
		}
	}
}

// Close implements Shell: the session on the console ends. What the machine
// kept for us is removed when it can be reached.
func (s *ConsoleShell) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), consoleKill)
	defer cancel()
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	c := s.conn
	if c == nil {
		return nil
	}
	if s.dir != "" {
		_, _ = s.exchange(ctx, "rm -rf "+Quote(s.dir))
	}
	_ = c.say("exit\r") // whoever comes next finds what the console offers
	s.conn, s.dir, s.quiet, s.unused = nil, "", false, nil
	return c.close()
}

// ask has the machine run a short script, whose output is small, and returns
// that. The script must be one that may run twice.
func (s *ConsoleShell) ask(ctx context.Context, script string) ([]byte, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	return s.askAlone(ctx, script, consoleTries)
}

// askAlone is ask for whose turn it is. So many damaged answers are taken.
func (s *ConsoleShell) askAlone(ctx context.Context, script string, damaged int) ([]byte, error) {
	var last error
	for try := 1; try <= consoleTries; try++ {
		if s.conn != nil && s.conn.restarted() {
			s.drop()
			s.quiet = false
		}
		if s.conn == nil {
			if last = s.connect(ctx); last != nil {
				if ctx.Err() != nil || errors.Is(last, errConsoleRefused) {
					break
				}
				continue
			}
		}
		var b []byte
		if b, last = s.exchange(ctx, script); last == nil {
			return b, nil
		}
		if ctx.Err() != nil || errors.Is(last, errConsoleDamaged) && try >= damaged {
			break
		}
		if errors.Is(last, errConsoleGone) || try%consoleBefore == 0 && !errors.Is(last, errConsoleDamaged) {
			s.drop() // nobody hears us: begin with the login
		}
	}
	return nil, s.unreachable(ctx, last)
}

func (s *ConsoleShell) drop() {
	if s.conn != nil {
		_ = s.conn.close()
		s.conn = nil
	}
}

// connect logs in, and finds a place for files.
func (s *ConsoleShell) connect(ctx context.Context) error {
	port, err := s.Machine.OpenSerial(ctx)
	if err != nil {
		return err
	}
	s.conn = newConsoleConn(port)
	if s.quiet {
		_ = s.conn.say(endQuietShell) // the shell ends by this, and the console offers itself anew
	}
	if err := s.conn.login(ctx, cmp.Or(s.User, "root"), s.Password, cmp.Or(s.dumb, consoleDumb)); err != nil {
		s.drop()
		return err
	}
	s.quiet = true
	old := Quote(s.dir) // gone where the machine was started anew
	b, err := s.exchange(ctx, "umask 077; if [ -d "+old+" ]; then echo "+old+"; else mktemp -d /run/goldsmith-console.XXXXXX || mktemp -d; fi")
	if err != nil {
		s.drop()
		return err
	}
	s.dir = strings.TrimSpace(string(b))
	if s.dir == "" {
		s.drop()
		return errors.New("mktemp makes no directory on the machine")
	}
	return nil
}

var (
	errConsoleDamaged = errors.New("the answer is damaged: other text is printed into it")
	errConsoleSilent  = fmt.Errorf("no answer within %v", consoleAnswer)
	errConsoleRefused = errors.New("the console lets nobody in")
	errConsoleGone    = errors.New("the serial port was closed")
)

// exchange is one question and its answer.
func (s *ConsoleShell) exchange(ctx context.Context, script string) ([]byte, error) {
	s.asked++
	line, id := consoleQuestion(s.asked, script)
	s.conn.forget()
	if err := s.conn.say(line + "\r"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, consoleAnswer, errConsoleSilent)
	defer cancel()
	var body []byte
	var err error
	seen := s.conn.until(ctx, func(text []byte) bool {
		var done bool
		body, done, err = consoleReply(text, id)
		return done
	})
	if !seen && err == nil {
		err = s.conn.why(ctx)
	}
	return body, err
}

// file is the path of one of our files on the machine, quoted.
func (s *ConsoleShell) file(name string) string { return Quote(s.dir + "/" + name) }

// prepared waits for a login, and returns a number for new files.
func (s *ConsoleShell) prepared(ctx context.Context) (string, error) {
	if err := s.lock(ctx); err != nil {
		return "", err
	}
	defer s.unlock()
	if s.conn == nil || len(s.unused) > 0 {
		script := ":"
		for _, n := range s.unused {
			script += "; rm -rf " + s.file(n) + ".*"
		}
		if _, err := s.askAlone(ctx, script, consoleTries); err != nil {
			return "", err
		}
		s.unused = nil
	}
	s.runs++
	return strconv.Itoa(s.runs), nil
}

// done has a command's files removed, by and by.
func (s *ConsoleShell) done(n string) {
	if s.lock(context.Background()) == nil {
		defer s.unlock()
		s.unused = append(s.unused, n)
	}
}

// consoleStart starts the command of the files $1.sh and $2, once: the
// directory is the lock for that, however often it is asked for. It is in a
// session of its own, so that kill ends all that it has started.
const consoleStart = `mkdir "$1.d" 2>/dev/null || exit 0
setsid sh -c 'echo $$ >"$1.pid"; (exec sh "$1.sh") <"$2" >"$1.out" 2>"$1.err"; echo $? >"$1.rc.new"; mv "$1.rc.new" "$1.rc"' sh "$1" "$2" </dev/null >/dev/null 2>&1 &`

// Run implements Shell. Standard input and output may have 8 MiB; output comes
// when the command has ended. When ctx ends the command is killed on the
// machine, if that can be reached.
func (s *ConsoleShell) Run(ctx context.Context, c Command) error {
	n, err := s.prepared(ctx)
	if err != nil {
		return err
	}
	defer s.done(n)
	if err := s.send(ctx, n+".sh", strings.NewReader(c.Line)); err != nil {
		return err
	}
	in := "/dev/null"
	if c.Stdin != nil {
		if err := s.send(ctx, n+".in", c.Stdin); err != nil {
			return fmt.Errorf("standard input of %s: %w", firstLine(c.Line), err)
		}
		in = s.file(n + ".in")
	}
	if _, err := s.ask(ctx, "umask 077; set -- "+s.file(n)+" "+in+"\n"+consoleStart); err != nil {
		return err
	}
	e, err := s.ended(ctx, n)
	if err != nil {
		return err
	}
	return s.deliver(ctx, n, e, c)
}

// consoleEnd is how a command has ended: its status, and how many bytes it
// printed.
type consoleEnd struct{ status, out, err int }

// ended waits until a command has ended.
func (s *ConsoleShell) ended(ctx context.Context, n string) (e consoleEnd, err error) {
	look := "set -- " + s.file(n) + `
if [ -e "$1.rc" ]; then echo $(cat "$1.rc") $(wc -c <"$1.out") $(wc -c <"$1.err"); elif [ -d "$1.d" ]; then echo running; else echo gone; fi`
	for pause := consolePollMin; ; pause = min(2*pause, consolePollMax) {
		b, err := s.ask(ctx, look)
		said := strings.TrimSpace(string(b))
		switch {
		case ctx.Err() != nil:
			s.kill(n)
			return e, s.unreachable(ctx, context.Cause(ctx))
		case err != nil:
			return e, err
		case said == "gone":
			return e, s.unreachable(ctx, errors.New("the machine has forgotten the command: it was started anew"))
		case said != "running":
			if k, err := fmt.Sscanf(said, "%d %d %d", &e.status, &e.out, &e.err); k != 3 || err != nil {
				return e, s.unreachable(ctx, fmt.Errorf("how the command ended is not known: %q", said))
			}
			return e, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// kill ends a command and what it has started. Where it fails, nobody is there
// to be told.
func (s *ConsoleShell) kill(n string) {
	ctx, cancel := context.WithTimeout(context.Background(), consoleKill)
	defer cancel()
	_, _ = s.ask(ctx, fmt.Sprintf(`kill -KILL -"$(cat %s)"`, s.file(n+".pid")))
}

// deliver passes on what a command printed and how it ended.
func (s *ConsoleShell) deliver(ctx context.Context, n string, e consoleEnd, c Command) error {
	if e.out > maxConsole || e.err > maxConsole {
		return fmt.Errorf("%s: it printed more than %d bytes, which do not go through a console", firstLine(c.Line), maxConsole)
	}
	last := &tail{max: 4 << 10}
	errs, skip := io.Writer(last), max(0, e.err-last.max)
	if c.Stderr != nil {
		errs, skip = io.MultiWriter(c.Stderr, last), 0
	}
	if e.out > 0 && c.Stdout != nil {
		if err := s.fetchAll(ctx, s.file(n+".out"), e.out, c.Stdout); err != nil {
			return err
		}
	}
	if e.err > 0 && (c.Stderr != nil || e.status != 0) {
		if err := s.fetch(ctx, s.file(n+".err"), skip, e.err, errs); err != nil {
			return err
		}
	}
	switch {
	case e.status == 0:
		return nil
	case e.status > 128 && e.status <= 128+64: // how a shell says it
		return &RemoteError{Command: c.Line, Status: -1, Signal: signalName(e.status - 128), Stderr: last.String()}
	}
	return &RemoteError{Command: c.Line, Status: e.status, Stderr: last.String()}
}

func signalName(n int) string {
	name := strings.TrimPrefix(unix.SignalName(unix.Signal(n)), "SIG")
	if name == "" {
		name = strconv.Itoa(n)
	}
	return name
}
