package testbed

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
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
	conn  *consoleConn // nil while it is not connected
	dir   string       // ours on the machine; "" before the first login
	quiet bool         // a shell of ours may be there that shows nothing
	asked int          // so many questions
	runs  int          // so many commands

	mu     sync.Mutex // guards unused
	unused []string   // commands whose files are to be removed

	dumb time.Duration // of tests; 0 means consoleDumb
}

var _ Shell = (*ConsoleShell)(nil)

// Bounds of what goes through a console, in bytes.
const (
	consoleLine = 3 << 9  // of a file, in one question: a terminal takes lines of 4095 bytes
	consolePart = 4 << 10 // of a file, in one answer, at first
	consoleLess = 64      // the least that is asked for at a time
	consoleRid  = 64      // so many commands' files are removed at a time
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
		_, last := s.ask(ctx, "", ":")
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
	s.conn, s.dir, s.quiet = nil, "", false
	s.mu.Lock()
	s.unused = nil
	s.mu.Unlock()
	return c.close()
}

// ask has the machine run a short script, whose output is small, and returns
// that. The script must be one that may run twice. Where dir is not empty it is
// for a machine that has that directory of ours: not for one started anew.
func (s *ConsoleShell) ask(ctx context.Context, dir, script string) ([]byte, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	return s.askAlone(ctx, dir, script, consoleTries)
}

// askAlone is ask for whose turn it is. So many damaged answers are taken.
func (s *ConsoleShell) askAlone(ctx context.Context, dir, script string, damaged int) ([]byte, error) {
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
		if dir != "" && dir != s.dir {
			return nil, s.unreachable(ctx, errConsoleAnew)
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
	errConsoleAnew    = errors.New("the machine was started anew")
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
	return s.answer(ctx, id)
}

// answer waits for the answer with that id.
func (s *ConsoleShell) answer(ctx context.Context, id string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, consoleAnswer, errConsoleSilent)
	defer cancel()
	var body []byte
	var err error
	mark := []byte("@" + id + ">")
	seen := s.conn.until(ctx, func(text, latest []byte) (done bool) {
		if !bytes.Contains(latest, mark) {
			return false
		}
		body, done, err = consoleReply(text, id)
		return done
	})
	if !seen && err == nil {
		err = s.conn.why(ctx)
	}
	return body, err
}
