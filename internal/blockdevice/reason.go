package blockdevice

import (
	"slices"
	"strings"
)

// head keeps the beginning of what is written to it.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	const most = 16 << 10 // bytes
	*h = append(*h, p[:min(len(p), most-len(*h))]...)
	return len(p), nil
}

// reasonLines are the lines at its beginning in which a program says why it
// fails, before it prints how it is used.
const reasonLines = 3

// reason is what to show of what a failed program said, of which tail is the
// end: mkfs.xfs, mke2fs and mkfs.fat say first what is wrong, and then dozens
// of lines of usage.
func reason(said string, tail []string) []string {
	var lines []string
	for line := range strings.Lines(said) {
		if line = strings.TrimRight(line, "\r\n "); line != "" {
			lines = append(lines, line)
		}
	}
	usage := func(l string) bool { return strings.HasPrefix(strings.ToLower(l), "usage") }
	if i := slices.IndexFunc(lines, usage); i > 0 && i <= reasonLines {
		return lines[:i]
	}
	lost := len(lines) - len(tail)
	switch {
	case lost <= 0:
		return tail
	case lost <= reasonLines:
		return lines
	}
	return slices.Concat(lines[:reasonLines], []string{"…"}, tail)
}
