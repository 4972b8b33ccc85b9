package dibargs

import (
	"fmt"
	"slices"
	"strings"
)

// spec is what getopt(1) is told: letters, with a colon where one takes an
// argument, and long names in the same form, in the order in which messages
// list them.
type spec struct {
	short string
	long  []string
	// more are long names beyond the original's table: taken when they are
	// written in full, so that abbreviations mean what they mean there.
	more []string
}

// option is one option found, in the order of the command line.
type option struct {
	name  string // "a" or "image-size"
	value string
}

// parse reads a command line as getopt(1) does: options stand anywhere,
// letters together, long names may be shortened to what is unambiguous, and
// "--" ends them. Errors are getopt's words.
func (s spec) parse(args []string) (opts []option, words []string, err error) {
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			return opts, append(words, args...), nil
		case strings.HasPrefix(a, "--"):
			var o option
			if o, args, err = s.longOption(a[2:], args); err != nil {
				return nil, nil, err
			}
			opts = append(opts, o)
		case len(a) > 1 && a[0] == '-':
			var found []option
			if found, args, err = s.letters(a[1:], args); err != nil {
				return nil, nil, err
			}
			opts = append(opts, found...)
		default:
			words = append(words, a)
		}
	}
	return opts, words, nil
}

// longOption reads one long option; the argument may be the next word.
func (s spec) longOption(text string, rest []string) (option, []string, error) {
	name, value, given := strings.Cut(text, "=")
	full, err := s.complete(name, text)
	if err != nil {
		return option{}, nil, err
	}
	long, takes := strings.CutSuffix(full, ":")
	switch {
	case !takes && given:
		return option{}, nil, fmt.Errorf("option '--%s' doesn't allow an argument", long)
	case takes && !given && len(rest) == 0:
		return option{}, nil, fmt.Errorf("option '--%s' requires an argument", long)
	case takes && !given:
		value, rest = rest[0], rest[1:]
	}
	return option{long, value}, rest, nil
}

// complete finds the long option that a name begins. text is the whole word,
// for a message.
func (s spec) complete(name, text string) (string, error) {
	for _, l := range s.more {
		if strings.TrimSuffix(l, ":") == name {
			return l, nil
		}
	}
	var found []string
	for _, l := range s.long {
		if strings.TrimSuffix(l, ":") == name {
			return l, nil
		}
		if strings.HasPrefix(l, name) {
			found = append(found, l)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return "", fmt.Errorf("unrecognized option '--%s'", text)
	}
	var list strings.Builder
	for _, l := range found {
		fmt.Fprintf(&list, " '--%s'", strings.TrimSuffix(l, ":"))
	}
	return "", fmt.Errorf("option '--%s' is ambiguous; possibilities:%s", text, list.String())
}

// letters reads one word of short options.
func (s spec) letters(text string, rest []string) ([]option, []string, error) {
	var out []option
	for i := 0; i < len(text); i++ {
		at := strings.IndexByte(s.short, text[i])
		if at < 0 || text[i] == ':' {
			return nil, nil, fmt.Errorf("invalid option -- '%c'", text[i])
		}
		o := option{name: text[i : i+1]}
		if at+1 < len(s.short) && s.short[at+1] == ':' {
			switch {
			case i+1 < len(text):
				o.value = text[i+1:]
			case len(rest) == 0:
				return nil, nil, fmt.Errorf("option requires an argument -- '%s'", o.name)
			default:
				o.value, rest = rest[0], rest[1:]
			}
			return append(out, o), rest, nil
		}
		out = append(out, o)
	}
	return out, slices.Clone(rest), nil
}
