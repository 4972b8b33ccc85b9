package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"unicode"
)

// Exit statuses of every goldsmith program called by its own name
// (docs/formats.md). Called by an original's name, a program uses the
// original's.
const (
	StatusOK          = 0
	StatusFailed      = 1   // the work failed
	StatusUsage       = 2   // the command line or a named file is wrong
	StatusMissing     = 3   // the environment lacks something
	StatusBusy        = 4   // busy or locked
	StatusInterrupted = 130 // stopped by a signal
)

const statusText = "0 ok, 1 the work failed, 2 usage, 3 something is missing, 4 busy, 130 interrupted"

// Error is an error with an exit status and, where there is one, a remedy.
type Error struct {
	Status int // exit status; 0 means StatusFailed
	Err    error
	Hint   string // what to do about it, one line; may be empty
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// usageError marks what is wrong with a command line, not with a file.
type usageError string

func (e usageError) Error() string { return string(e) }

// Usage reports a wrong command line.
func Usage(msg, hint string) error {
	return &Error{StatusUsage, usageError(msg), hint}
}

// BadInput reports a file that the user wrote and must mend.
func BadInput(err error, hint string) error { return &Error{StatusUsage, err, hint} }

// Missing reports something that the environment lacks; hint says how to get it.
func Missing(err error, hint string) error { return &Error{StatusMissing, err, hint} }

// Busy reports that another process holds what is needed.
func Busy(err error, hint string) error { return &Error{StatusBusy, err, hint} }

// Hint adds a remedy to an error and keeps its status.
func Hint(err error, hint string) error {
	return &Error{Status(err), err, hint}
}

// Status is the exit status that err asks for: StatusOK for nil,
// StatusInterrupted for a cancelled context, StatusFailed by default.
func Status(err error) int {
	if err == nil {
		return StatusOK
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Status != 0 {
		return e.Status
	}
	if errors.Is(err, context.Canceled) {
		return StatusInterrupted
	}
	return StatusFailed
}

// OriginalStatus is the exit status of a Python program that ours stands in
// for when it is called by that program's name: 2 for a wrong command line
// (argparse), 1 for whatever else our own statuses tell apart, but busy when
// another process holds the lock. Other statuses stay as they are.
func OriginalStatus(err error, busy int) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	switch st := Status(err); st {
	case StatusBusy:
		return busy
	case StatusUsage, StatusMissing:
		return 1
	default:
		return st
	}
}

// HintOf returns the remedy that err carries, or "".
func HintOf(err error) string {
	for e := err; e != nil; {
		ce, ok := errors.AsType[*Error](e)
		if !ok {
			break
		}
		if ce.Hint != "" {
			return ce.Hint
		}
		e = ce.Err
	}
	if errors.Is(err, syscall.ENOSPC) {
		return "the file system is full: free some space there, then try again"
	}
	return ""
}

// Plain is a text in which all that is neither printable nor the end of a line
// is a blank: what a program or a file says must not act on a terminal, nor
// turn the direction of a line.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' {
			return r
		}
		return ' '
	}, text)
}

// Line is [Plain] text of one line.
func Line(text string) string { return strings.ReplaceAll(Plain(text), "\n", " ") }

// Print writes err, as [Plain] text, the way every program does: "name: message" and, where a
// remedy is known, a "hint:" line.
func Print(w io.Writer, name string, err error) {
	fmt.Fprintf(w, "%s: %s\n", name, Plain(strings.TrimRight(err.Error(), "\n")))
	if hint := HintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", Plain(hint))
	}
}

// beside returns the parts of a joined error that are not of a kind, or nil.
func beside(err, kind error) error {
	if !errors.Is(err, kind) {
		return err
	}
	switch u := err.(type) {
	case interface{ Unwrap() []error }:
		var rest []error
		for _, e := range u.Unwrap() {
			rest = append(rest, beside(e, kind))
		}
		return errors.Join(rest...)
	case interface{ Unwrap() error }:
		return beside(u.Unwrap(), kind)
	}
	return nil
}
