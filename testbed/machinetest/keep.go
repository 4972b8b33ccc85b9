package machinetest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"goldsmith/testbed"
)

// mark is where the console is now.
func (r *Runner) mark() int64 {
	if r.Console == nil {
		return 0
	}
	m, err := r.Console.Mark()
	if err != nil {
		return 0
	}
	return m
}

// keepConsole keeps what the console showed since mark and says what is bad in
// it.
func (r *Runner) keepConsole(dir string, mark int64, t *Test) ([]Finding, error) {
	if r.Console == nil {
		return nil, nil
	}
	time.Sleep(consoleLag)
	text, err := r.Console.Text()
	if err != nil {
		return nil, err
	}
	text = text[min(mark, int64(len(text))):]
	return Scan(text, t.Console...), os.WriteFile(filepath.Join(dir, "console"), []byte(text), 0o644)
}

// clock is the machine's time, in seconds since 1970; empty when it cannot be
// asked.
func (r *Runner) clock(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	s, err := r.output(ctx, "date +%s")
	if _, nerr := strconv.ParseInt(s, 10, 64); err != nil || nerr != nil {
		return ""
	}
	return s
}

// keepJournal keeps the machine's journal since then, when the machine can be
// asked.
func (r *Runner) keepJournal(ctx context.Context, dir, since string) {
	if since == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	f, err := os.Create(filepath.Join(dir, "journal"))
	if err != nil {
		return
	}
	defer f.Close()
	_ = r.Shell.Run(ctx, testbed.Command{Line: journalLine + since, Stdout: &bounded{w: f, left: maxKept}})
}

// bounded passes on so many bytes and drops the rest.
type bounded struct {
	w    io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	if n == 0 {
		return len(p), nil
	}
	if _, err := b.w.Write(p[:n]); err != nil && !errors.Is(err, os.ErrClosed) {
		return 0, err
	}
	return len(p), nil
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	b   []byte
	cut bool
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxOutput; over > 0 {
		t.b, t.cut = append(t.b[:0], t.b[over:]...), true
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	s := strings.ToValidUTF8(string(t.b), "?")
	if t.cut {
		return "…" + s
	}
	return s
}
