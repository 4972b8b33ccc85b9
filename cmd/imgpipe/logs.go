package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	stdio "io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
)

func logsCommand() *command.Command {
	var dir string
	var far distant
	var follow, asJSON bool
	var attempt int
	return &command.Command{
		Name:  "logs",
		Args:  "RUN [STAGE]",
		Short: "print what stages wrote",
		Long: `
Prints the log of a run's stage: of its newest attempt, or of the one given. Without a stage, of all that began,
each under a line with its name. The other files of an attempt lie beside its log. --json prints an object for each
line: stage, attempt, text.`,
		Example: `imgpipe logs 12 smoke
imgpipe logs -f 12 build`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			far.declare(fs)
			fs.BoolVar(&follow, "f", false, "go on until the attempt has ended")
			fs.IntVar(&attempt, "attempt", 0, "print attempt `N`; 0: the newest")
			fs.BoolVar(&asJSON, "json", false, "print JSON, an object for each line")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) == 0 || len(args) > 2 || follow && len(args) != 2 {
				return command.Usage("logs needs a run, and may have a stage; -f needs both", "imgpipe logs -f 12 build")
			}
			id, err := engine.Number(args[0])
			if err != nil {
				return err
			}
			p, done, err := far.at(ctx, dir, 0)
			if err != nil {
				return err
			}
			defer done()
			if len(args) == 2 {
				return p.log(ctx, &logOutput{w: io.Stdout, json: asJSON}, id, args[1], attempt, follow)
			}
			return logs(ctx, io.Stdout, asJSON, p, id)
		},
	}
}

// logOutput is where a log is printed: as it is, but for what acts on a
// terminal, or as JSON, an object for each line.
type logOutput struct {
	w    stdio.Writer
	json bool
	line logLine
	rest []byte // of a line, or of a character where it is no JSON, that has not ended
}

// logLine is a line of 'imgpipe logs --json'.
type logLine struct {
	Stage   string `json:"stage"`
	Attempt int    `json:"attempt"`
	Text    string `json:"text"` // without its end
}

// maxLogLine bounds a line as JSON, in bytes; longer ones are several.
const maxLogLine = 64 << 10

// take prints what there is to be read of an attempt's log.
func (l *logOutput) take(r stdio.Reader, stage string, attempt int) error {
	if !l.json {
		return l.plainly(r)
	}
	l.line.Stage, l.line.Attempt = stage, attempt
	buf := make([]byte, maxLogLine)
	for {
		n, err := r.Read(buf)
		l.rest = append(l.rest, buf[:n]...)
		for {
			i := bytes.IndexByte(l.rest, '\n')
			if i < 0 && len(l.rest) < maxLogLine {
				break
			}
			end, next := i, i+1
			if i < 0 || i > maxLogLine {
				end, next = maxLogLine, maxLogLine
			}
			if err := l.print(l.rest[:end]); err != nil {
				return err
			}
			l.rest = l.rest[next:]
		}
		if errors.Is(err, stdio.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (l *logOutput) print(line []byte) error {
	l.line.Text = strings.ToValidUTF8(string(line), "?")
	return json.NewEncoder(l.w).Encode(l.line)
}

// end prints a last line, or character, that has no end.
func (l *logOutput) end() error {
	if len(l.rest) == 0 {
		return nil
	}
	defer func() { l.rest = nil }()
	if !l.json {
		return l.plain(l.rest)
	}
	return l.print(l.rest)
}

// logs prints the newest log of each stage that has one.
func logs(ctx context.Context, w stdio.Writer, asJSON bool, p place, id int64) error {
	r, err := p.run(ctx, id)
	if err != nil {
		return err
	}
	for _, s := range r.Stages {
		if len(s.Attempts) == 0 {
			continue
		}
		if !asJSON {
			fmt.Fprintf(w, "==> %s <==\n", s.Name)
		}
		if err := p.log(ctx, &logOutput{w: w, json: asJSON}, id, s.Name, 0, false); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// log implements place.
func (o *office) log(ctx context.Context, out *logOutput, id int64, stage string, attempt int, follow bool) error {
	var f *os.File
	defer func() { _ = f.Close() }() // nil is an error that does not matter
	for {
		changed := o.db.Changed()
		s, err := o.stage(ctx, id, stage)
		if err != nil {
			return err
		}
		n := len(s.Attempts)
		if attempt > 0 {
			n = attempt
		}
		if f == nil && n > 0 {
			f, err = engine.OpenFile(engine.AttemptDir(o.store.Dir, id, stage, n), "log")
			if err != nil && !(follow && errors.Is(err, os.ErrNotExist)) {
				return err
			}
		}
		if f != nil {
			if err := out.take(f, stage, n); err != nil {
				return err
			}
		}
		ended := s.Status.Ended() || n > 0 && n <= len(s.Attempts) && s.Attempts[n-1].Ended != nil
		switch {
		case ended && n == 0, !follow && n == 0:
			return command.Usage(fmt.Sprintf("run %d: stage %s has not begun", id, stage), "'imgpipe status' shows why")
		case ended, !follow:
			return out.end()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// plainly prints what there is to be read, without what acts on a terminal.
func (l *logOutput) plainly(r stdio.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := stdio.ReadAtLeast(r, buf, 1)
		text := append(l.rest, buf[:n]...)
		whole := len(text) - begun(text)
		l.rest = slices.Clone(text[whole:])
		if err := l.plain(text[:whole]); err != nil {
			return err
		}
		if errors.Is(err, stdio.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (l *logOutput) plain(text []byte) error {
	_, err := stdio.WriteString(l.w, command.Plain(strings.ToValidUTF8(string(text), "?")))
	return err
}

// begun is how many bytes at the end of a text are of a character of which more
// is to come.
func begun(text []byte) int {
	for n := 1; n <= min(len(text), utf8.UTFMax-1); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}

func (o *office) stage(ctx context.Context, id int64, name string) (*pipeline.StageRun, error) {
	r, err := o.engine.Run(ctx, id)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(r.Stages, func(s *pipeline.StageRun) bool { return s.Name == name })
	if i < 0 {
		var names []string
		for _, s := range r.Stages {
			names = append(names, s.Name)
		}
		return nil, command.BadInput(fmt.Errorf("run %d has no stage %q", id, name), "its stages are: "+strings.Join(names, ", "))
	}
	return r.Stages[i], nil
}
