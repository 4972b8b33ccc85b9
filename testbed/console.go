package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"
)

// Console is the recorded text of a machine's serial console, over all its
// boots. The driver writes it to a file; a file that is not there yet is an
// empty console.
type Console struct {
	Path string
}

// pollConsole is how often Wait looks at the file.
const pollConsole = 50 * time.Millisecond

// quietPolls is how many looks in a row must find nothing new until what stands at
// the end of the text is taken for whole.
const quietPolls = 4

// Text returns everything printed so far.
func (c *Console) Text() (string, error) {
	b, err := c.from(0)
	return string(b), err
}

// Mark returns the length of the text so far, in bytes: a Wait from there sees
// only what is printed later.
func (c *Console) Mark() (int64, error) {
	fi, err := os.Stat(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Wait returns the first match of re in the text after mark, and the mark
// after it. A match at the end of the text counts when nothing more comes for a
// moment: a line arrives in pieces. It waits until ctx ends; the error then ends
// with the last lines of the console.
func (c *Console) Wait(ctx context.Context, mark int64, re *regexp.Regexp) (string, int64, error) {
	tick := time.NewTicker(pollConsole)
	defer tick.Stop()
	seen, quiet := -1, 0
	var m []int
	for {
		b, err := c.from(mark)
		if err != nil {
			return "", mark, err
		}
		if len(b) != seen {
			seen, quiet = len(b), 0
			m = re.FindIndex(b)
		}
		quiet++
		ended := ctx.Err() != nil
		switch {
		case m != nil && (m[1] < len(b) || quiet > quietPolls || ended):
			return string(b[m[0]:m[1]]), mark + int64(m[1]), nil
		case ended:
			return "", mark, fmt.Errorf("console shows no %q: %w%s", re, context.Cause(ctx), lastLines(string(b), 12))
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (c *Console) from(mark int64) ([]byte, error) {
	f, err := os.Open(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(mark, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// lastLines is the end of a console text, readable in an error: without
// escape sequences and empty lines, indented.
func lastLines(text string, n int) string {
	text = strings.ReplaceAll(escapes.ReplaceAllString(text, ""), "\r", "\n")
	var lines []string
	for l := range strings.SplitSeq(text, "\n") {
		if l = strings.TrimRight(l, " \t\x00"); l != "" {
			lines = append(lines, l)
		}
	}
	lines = lines[max(0, len(lines)-n):]
	if len(lines) == 0 {
		return "; it is empty"
	}
	return "; it ends:\n    " + strings.Join(lines, "\n    ")
}

var escapes = regexp.MustCompile(`\x1b(\[[0-9;?=]*[a-zA-Z]|[()].|.)`)
