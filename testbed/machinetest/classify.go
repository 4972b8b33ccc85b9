package machinetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/testbed"
)

// Classify says whose fault a failed test is, and what speaks for it: err is
// how it ended, nil when the test itself passed; found is what the console
// showed.
func Classify(err error, found []Finding) (evidence.Class, string) {
	// The testbed's own word first: what a broken controller or disk makes of
	// a console is no proof against the image.
	if f, ok := errors.AsType[*testbed.Fault](err); ok {
		return evidence.Infra, fmt.Sprintf("%s: %s", f.Kind, OneLine(f.Error()))
	}
	if len(found) > 0 {
		worst := found[0]
		for _, f := range found {
			if f.Class == evidence.Infra { // a disk that fails explains a panic, not the other way round
				worst = f
				break
			}
		}
		return worst.Class, worst.String()
	}
	var lost *testbed.UnreachableError
	var remote *testbed.RemoteError
	var exit *command.ExitError
	switch {
	case errors.As(err, &lost): // it may be anybody's
		return evidence.Unknown, OneLine(lost.Error())
	case errors.As(err, &remote):
		return evidence.TestFault, OneLine(remote.Error())
	case errors.As(err, &exit):
		return evidence.TestFault, OneLine(exit.Error())
	case errors.Is(err, errLate):
		return evidence.TestFault, OneLine(err.Error())
	case errors.Is(err, context.Canceled):
		return evidence.Unknown, "it was interrupted"
	case err == nil:
		return evidence.Unknown, "nothing is known to be wrong"
	}
	return evidence.Unknown, OneLine(err.Error())
}

// errLate is the cause of a test's context that ends because its time is over.
var errLate = errors.New("its time is over")

// maxLine bounds what a machine or a test may say in a line of ours, in
// characters.
const maxLine = 300

// OneLine makes one printable line of what somebody else said: it must not be
// able to look like lines of ours or to command the terminal.
func OneLine(s string) string {
	s = strings.TrimSpace(command.Line(s))
	if r := []rune(s); len(r) > maxLine {
		s = string(r[:maxLine]) + "…"
	}
	return cmp.Or(s, "nothing was said")
}
