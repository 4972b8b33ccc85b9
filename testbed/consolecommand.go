package testbed

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// consoleFiles are the files of a command, or of something that is copied, on
// the machine.
type consoleFiles struct{ dir, number string }

// path is that of the file with an ending, quoted.
func (f consoleFiles) path(ending string) string { return Quote(f.dir + "/" + f.number + ending) }

// prepared waits for a login, and for a place for new files.
func (s *ConsoleShell) prepared(ctx context.Context) (consoleFiles, error) {
	if err := s.lock(ctx); err != nil {
		return consoleFiles{}, err
	}
	defer s.unlock()
	script := ":" // also asked: whether this is the machine that it was
	s.mu.Lock()
	old := s.unused[:min(len(s.unused), consoleRid)]
	s.mu.Unlock()
	if len(old) > 0 {
		script = "cd " + Quote(s.dir) + " && rm -rf " + strings.Join(old, ".* ") + ".*"
	}
	if _, err := s.askAlone(ctx, "", script, consoleTries); err != nil {
		return consoleFiles{}, err
	}
	s.mu.Lock()
	s.unused = s.unused[len(old):]
	s.mu.Unlock()
	s.runs++
	return consoleFiles{s.dir, strconv.Itoa(s.runs)}, nil
}

// done has a command's files removed, by and by. It waits for nobody: whose turn
// it is may be waiting for a machine that is gone.
func (s *ConsoleShell) done(f consoleFiles) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unused = append(s.unused, f.number)
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
	f, err := s.prepared(ctx)
	if err != nil {
		return err
	}
	defer s.done(f)
	if err := s.send(ctx, f, ".sh", strings.NewReader(c.Line)); err != nil {
		return err
	}
	in := "/dev/null"
	if c.Stdin != nil {
		if err := s.send(ctx, f, ".in", c.Stdin); err != nil {
			return fmt.Errorf("standard input of %s: %w", firstLine(c.Line), err)
		}
		in = f.path(".in")
	}
	if _, err := s.ask(ctx, f.dir, "umask 077; set -- "+f.path("")+" "+in+"\n"+consoleStart); err != nil {
		if ctx.Err() != nil {
			s.kill(f) // who was not heard any more may have started it
		}
		return err
	}
	e, err := s.ended(ctx, f)
	if err != nil {
		return err
	}
	return s.deliver(ctx, f, e, c)
}

// consoleEnd is how a command has ended: its status, and how many bytes it
// printed.
type consoleEnd struct{ status, out, err int }

// ended waits until a command has ended.
func (s *ConsoleShell) ended(ctx context.Context, f consoleFiles) (e consoleEnd, err error) {
	look := "set -- " + f.path("") + `
if [ -e "$1.rc" ]; then echo $(cat "$1.rc") $(wc -c <"$1.out") $(wc -c <"$1.err"); elif [ -d "$1.d" ]; then echo running; else echo gone; fi`
	for pause := consolePollMin; ; pause = min(2*pause, consolePollMax) {
		b, err := s.ask(ctx, f.dir, look)
		said := strings.TrimSpace(string(b))
		switch {
		case ctx.Err() != nil:
			s.kill(f)
			return e, s.unreachable(ctx, context.Cause(ctx))
		case err != nil:
			return e, err
		case said == "gone":
			return e, s.unreachable(ctx, fmt.Errorf("it has forgotten the command: %w", errConsoleAnew))
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
func (s *ConsoleShell) kill(f consoleFiles) {
	ctx, cancel := context.WithTimeout(context.Background(), consoleKill)
	defer cancel()
	_, _ = s.ask(ctx, f.dir, fmt.Sprintf(`kill -KILL -"$(cat %s)"`, f.path(".pid")))
}

// deliver passes on what a command printed and how it ended.
func (s *ConsoleShell) deliver(ctx context.Context, f consoleFiles, e consoleEnd, c Command) error {
	if e.out > maxConsole || e.err > maxConsole {
		return fmt.Errorf("%s: it printed more than %d bytes, which do not go through a console", firstLine(c.Line), maxConsole)
	}
	last := &tail{max: 4 << 10}
	errs, skip := io.Writer(last), max(0, e.err-last.max)
	if c.Stderr != nil {
		errs, skip = io.MultiWriter(c.Stderr, last), 0
	}
	if e.out > 0 && c.Stdout != nil {
		if err := s.fetchAll(ctx, f, ".out", e.out, c.Stdout); err != nil {
			return err
		}
	}
	if e.err > 0 && (c.Stderr != nil || e.status != 0) {
		if err := s.fetch(ctx, f, ".err", skip, e.err, errs); err != nil {
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
