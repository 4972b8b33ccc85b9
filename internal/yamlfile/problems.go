package yamlfile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"goldsmith/internal/command"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // from 1 on; 0: the file as a whole
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do about it
}

func (p *Problem) Error() string {
	if p.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
	}
	return p.File + ": " + p.Message
}

// Problems are several, by file and line. As an error they are a line each.
type Problems []*Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// maxProblems bounds what is said about one file.
const maxProblems = 100

// problem is a bad input error.
func (f *File) problem(line int, message, hint string) error {
	return command.BadInput(&Problem{f.Path, line, message, hint}, hint)
}

// Of returns the problems that an error of this package holds; nothing for any
// other error.
func Of(err error) Problems {
	if all, ok := errors.AsType[Problems](err); ok {
		return all
	}
	if one, ok := errors.AsType[*Problem](err); ok {
		return Problems{one}
	}
	return nil
}

// Join makes one error of several: each problem once, in the order of lines,
// at most 100. One error, and one that is not about a file, stays what it is;
// nil if there is none.
func Join(errs ...error) error {
	var all Problems
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	for _, err := range errs {
		of := Of(err)
		if len(of) == 0 {
			return err
		}
		all = append(all, of...)
	}
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	slices.SortStableFunc(all, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	all = slices.CompactFunc(all, func(a, b *Problem) bool { return *a == *b })
	if len(all) == 1 {
		return command.BadInput(all[0], all[0].Hint)
	}
	hint := ""
	for _, p := range all {
		hint = cmp.Or(hint, p.Hint)
	}
	if more := len(all) - maxProblems; more > 0 {
		all = append(all[:maxProblems:maxProblems], &Problem{File: all[0].File, Message: fmt.Sprintf("and %d more", more)})
	}
	return command.BadInput(all, hint)
}
