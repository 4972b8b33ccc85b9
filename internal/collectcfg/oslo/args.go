package oslo

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// flag is what one spelling on the command line does.
type flag struct {
	option  *Option
	inverse bool // --noNAME
	special string
}

// takesValue says that a value follows.
func (f flag) takesValue() bool {
	switch f.special {
	case "help", "version":
		return false
	case "config-file", "config-dir":
		return true
	}
	return f.option.Kind != Bool
}

// spellings are all flags of the command line.
func (s *Settings) spellings() map[string]flag {
	all := map[string]flag{
		"-h": {special: "help"}, "--help": {special: "help"}, "--version": {special: "version"},
		"--config-file": {special: "config-file"}, "--config-dir": {special: "config-dir"},
	}
	for i := range s.parser.Options {
		o := &s.parser.Options[i]
		if o.Words {
			continue
		}
		all["--"+o.Flag()] = flag{option: o}
		if o.Short != "" {
			all["-"+o.Short] = flag{option: o}
		}
		for _, a := range o.Aliases {
			all["--"+a] = flag{option: o}
		}
		if o.Kind == Bool {
			prefix := ""
			if o.Group != "" {
				prefix = o.Group + "-"
			}
			all["--"+prefix+"no"+o.Name] = flag{option: o, inverse: true}
		}
	}
	return all
}

// argument is one word of the command line, as Python's argparse sees it.
type argument struct {
	text   string
	isFlag bool
	name   string  // the flag in full; empty: there is none like it
	value  *string // given in the same word
}

var negative = regexp.MustCompile(`^-\d+$|^-\d*\.\d+$`)

// classify tells flags from words. Flags may be shortened as long as it is
// clear which is meant.
func classify(args []string, all map[string]flag) ([]argument, error) {
	var out []argument
	for i, text := range args {
		if text == "--" {
			out = append(out, argument{text: text})
			for _, t := range args[i+1:] {
				out = append(out, argument{text: t})
			}
			return out, nil
		}
		a, err := classifyOne(text, all)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func classifyOne(text string, all map[string]flag) (argument, error) {
	a := argument{text: text}
	if len(text) < 2 || text[0] != '-' {
		return a, nil
	}
	name, value, joined := strings.Cut(text, "=")
	if _, ok := all[text]; ok {
		a.isFlag, a.name = true, text
		return a, nil
	}
	if _, ok := all[name]; joined && ok {
		a.isFlag, a.name, a.value = true, name, &value
		return a, nil
	}
	var found []string
	if strings.HasPrefix(text, "--") {
		for spelling := range all {
			if strings.HasPrefix(spelling, name) {
				found = append(found, spelling)
			}
		}
		if joined {
			a.value = &value
		}
	} else if _, ok := all[text[:2]]; ok {
		rest := text[2:]
		found, a.value = []string{text[:2]}, &rest
	}
	switch {
	case len(found) > 1:
		slices.Sort(found)
		return a, &UsageError{fmt.Sprintf("ambiguous option: %s could match %s", text, strings.Join(found, ", "))}
	case len(found) == 1:
		a.isFlag, a.name = true, found[0]
		return a, nil
	}
	a.value = nil
	a.isFlag = !negative.MatchString(text) && !strings.Contains(text, " ")
	return a, nil
}

// commandLine takes the arguments in. Words must stand together; of several
// groups, argparse takes the first.
func (s *Settings) commandLine(args []string) error {
	all := s.spellings()
	line, err := classify(args, all)
	if err != nil {
		return err
	}
	var words, extra []string
	seen := false
	for i := 0; i < len(line); {
		a := line[i]
		switch {
		case !a.isFlag:
			group := wordsAt(line[i:])
			if i += len(group); seen {
				extra = append(extra, group...)
				continue
			}
			words, seen = group, true
		case a.name == "":
			extra = append(extra, a.text)
			i++
		default:
			n, err := s.take(a, line[i+1:], all)
			if err != nil {
				return err
			}
			i += 1 + n
		}
	}
	if len(extra) > 0 {
		return &UsageError{"unrecognized arguments: " + strings.Join(extra, " ")}
	}
	if j := slices.Index(words, "--"); j >= 0 {
		words = slices.Delete(words, j, j+1)
	}
	for i := range s.parser.Options {
		if o := &s.parser.Options[i]; o.Words {
			v := s.values[o.key()]
			s.values[o.key()] = value{words, "", v.inFile}
			return nil
		}
	}
	if len(words) > 0 {
		return &UsageError{"unrecognized arguments: " + strings.Join(words, " ")}
	}
	return nil
}

// wordsAt are the words before the next flag.
func wordsAt(line []argument) []string {
	var words []string
	for _, a := range line {
		if a.isFlag {
			break
		}
		words = append(words, a.text)
	}
	return words
}

// take does what a flag says, and returns how many of the following
// arguments are its own. A word may hold several flags of one letter.
func (s *Settings) take(a argument, next []argument, all map[string]flag) (used int, err error) {
	f := all[a.name]
	for !f.takesValue() && a.value != nil {
		if strings.HasPrefix(a.name, "--") || *a.value == "" {
			return 0, &UsageError{fmt.Sprintf("argument %s: ignored explicit argument %q", a.name, *a.value)}
		}
		if err := s.act(f, ""); err != nil {
			return 0, err
		}
		name, rest := "-"+(*a.value)[:1], (*a.value)[1:]
		following, ok := all[name]
		if !ok {
			return 0, &UsageError{fmt.Sprintf("argument %s: ignored explicit argument %q", a.name, *a.value)}
		}
		f, a.name, a.value = following, name, &rest
		if rest == "" {
			a.value = nil
		}
	}
	switch {
	case !f.takesValue():
		return 0, s.act(f, "")
	case a.value != nil:
		return 0, s.act(f, *a.value)
	case len(next) == 0 || next[0].isFlag || next[0].text == "--":
		return 0, &UsageError{fmt.Sprintf("argument %s: expected one argument", a.name)}
	}
	return 1, s.act(f, next[0].text)
}

func (s *Settings) act(f flag, value string) error {
	switch f.special {
	case "help":
		return ErrHelp
	case "version":
		return ErrVersion
	case "config-file":
		s.Files = append(s.Files, s.expand(value))
		return s.readFile(value)
	case "config-dir":
		return s.readDir(s.expand(value))
	}
	if f.option.Kind == Bool {
		value = "true"
		if f.inverse {
			value = "false"
		}
	}
	s.set(f.option, []string{value}, "")
	return nil
}
