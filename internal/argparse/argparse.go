// Package argparse reads command lines as Python's argparse does, for programs
// that stand in for one of Python's: with shortened names of options, values
// in the same word, and its messages. Programs by our own names use flag.
package argparse

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Option is one that a program takes.
type Option struct {
	Names []string // the short one first
	Nargs int      // words that it takes: 0, 1, or Many
	Take  func(values []string) error
}

// Many is any number of words that follow an option.
const Many = -1

// ErrStop ends the reading of a command line: --help and --version do at once
// what they say.
var ErrStop = errors.New("stop")

// parser reads a command line as argparse does in Python 3.11, for programs
// that take options only: long ones may be shortened, values follow as the
// next word, after "=" or, with one letter, at once, and words that no option
// takes are an error.
type parser struct {
	options []Option
	words   []string
	found   []found
	extras  []string
}

// found is what a word may be.
type found struct {
	isOption bool
	end      bool    // "--"
	option   *Option // nil for one that is not known
	name     string
	value    *string // in the same word
}

func Parse(options []Option, words []string) error {
	p := &parser{options: options, words: words, found: make([]found, len(words))}
	last := -1
	for i, w := range words {
		if w == "--" {
			p.found[i].end = true
			break
		}
		f, err := p.classify(w)
		if err != nil {
			return err
		}
		if p.found[i] = f; f.isOption {
			last = i
		}
	}
	at := 0
	for at <= last {
		if !p.found[at].isOption {
			p.extras = append(p.extras, words[at])
			at++
			continue
		}
		next, err := p.consume(at)
		if err != nil {
			return err
		}
		at = next
	}
	p.extras = append(p.extras, words[at:]...)
	if len(p.extras) > 0 {
		return fmt.Errorf("unrecognized arguments: %s", strings.Join(p.extras, " "))
	}
	return nil
}

func (p *parser) find(name string) *Option {
	for i := range p.options {
		for _, n := range p.options[i].Names {
			if n == name {
				return &p.options[i]
			}
		}
	}
	return nil
}

// classify says what a word is, before anything is known of those around it.
func (p *parser) classify(w string) (found, error) {
	if len(w) < 2 || w[0] != '-' {
		return found{}, nil
	}
	if o := p.find(w); o != nil {
		return found{isOption: true, option: o, name: w}, nil
	}
	name, value, hasValue := strings.Cut(w, "=")
	if o := p.find(name); hasValue && o != nil {
		return found{isOption: true, option: o, name: name, value: &value}, nil
	}
	candidates := p.abbreviated(w)
	if len(candidates) > 1 {
		var names []string
		for _, c := range candidates {
			names = append(names, c.name)
		}
		return found{}, fmt.Errorf("ambiguous option: %s could match %s", w, strings.Join(names, ", "))
	}
	if len(candidates) == 1 {
		return candidates[0], nil
	}
	if strings.Contains(w, " ") || regexp.MustCompile(`^-\pN+$|^-\pN*\.\pN+$`).MatchString(w) {
		return found{}, nil
	}
	return found{isOption: true, name: w}, nil
}

// abbreviated are the options that a word may mean that is none itself.
func (p *parser) abbreviated(w string) []found {
	var out []found
	name, value, hasValue := strings.Cut(w, "=")
	var long *string
	if hasValue {
		long = &value
	}
	short := w[2:]
	for i := range p.options {
		o := &p.options[i]
		for _, n := range o.Names {
			switch {
			case strings.HasPrefix(w, "--"):
				if strings.HasPrefix(n, name) {
					out = append(out, found{true, false, o, n, long})
				}
			case n == w[:2]:
				out = append(out, found{true, false, o, n, &short})
			}
		}
	}
	return out
}

// consume takes an option and its words, and returns where the next are.
// Options of one letter that take nothing may share a word.
func (p *parser) consume(at int) (next int, err error) {
	f := p.found[at]
	if f.option == nil {
		p.extras = append(p.extras, p.words[at])
		return at + 1, nil
	}
	next = at + 1
	var flags []*Option
	var values []string
	o, name, value := f.option, f.name, f.value
	for value != nil && o.Nargs == 0 {
		if name[1] == '-' || *value == "" {
			return 0, fmt.Errorf("argument %s: ignored explicit argument %s", strings.Join(o.Names, "/"), Quote(*value))
		}
		letter := "-" + (*value)[:1]
		other := p.find(letter)
		if other == nil {
			return 0, fmt.Errorf("argument %s: ignored explicit argument %s", strings.Join(o.Names, "/"), Quote(*value))
		}
		flags = append(flags, o)
		o, name = other, letter
		if rest := (*value)[1:]; rest != "" {
			value = &rest
		} else {
			value = nil
		}
	}
	switch {
	case value != nil:
		values = []string{*value}
	case o.Nargs == 1:
		if next == len(p.words) || !p.isWord(next) {
			return 0, fmt.Errorf("argument %s: expected one argument", strings.Join(o.Names, "/"))
		}
		values = p.words[next : next+1]
		next++
	case o.Nargs == Many:
		for next < len(p.words) && p.isWord(next) {
			values = append(values, p.words[next])
			next++
		}
	}
	for _, flag := range flags {
		if err := flag.Take(nil); err != nil {
			return 0, err
		}
	}
	return next, o.Take(values)
}

// isWord says that a word may be taken by an option. Those after "--" are, but
// "--" itself ends what an option takes.
func (p *parser) isWord(i int) bool { return !p.found[i].isOption && !p.found[i].end }

// Usage is the usage of a program with options, each as "[--name VALUE]", in
// 80 columns.
func Usage(program string, options []string) string {
	head := "usage: " + program
	out, line := "", head
	for _, o := range options {
		if len(line)+1+len(o) > 78 {
			out, line = out+line+"\n", strings.Repeat(" ", len(head))
		}
		line += " " + o
	}
	return out + line + "\n"
}

// Quote writes plain text as Python's repr does.
func Quote(s string) string {
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		return `"` + s + `"`
	}
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
