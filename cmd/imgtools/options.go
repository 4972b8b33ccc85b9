package main

import (
	"regexp"
	"strings"
)

// options are the long options of a tool, read as Python's argparse reads
// them: they may be abbreviated, and stand anywhere among the words.
type options struct {
	values map[string]*string // options with a value
	flags  map[string]*bool
	short  map[string]string // "-n" → "--noop"
	// keep makes words of options that are not known.
	keep bool
}

// parse returns the words that are not options. The error is errHelp when
// help was asked for.
func (o options) parse(args []string) ([]string, error) {
	var words []string
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		if a == "--" {
			return append(words, args...), nil
		}
		if !o.looksLike(a) {
			words = append(words, a)
			continue
		}
		name, value, given := strings.Cut(a, "=")
		known, err := o.match(name)
		switch {
		case err != nil:
			return nil, err
		case known == "--help":
			return nil, errHelp
		case known == "" && o.keep:
			words = append(words, a)
		case known == "":
			return nil, usage("unrecognized arguments: %s", a)
		case o.flags[known] != nil && given:
			return nil, usage("argument %s: ignored explicit argument '%s'", known, value)
		case o.flags[known] != nil:
			*o.flags[known] = true
		default:
			if !given && (len(args) == 0 || o.looksLike(args[0])) {
				return nil, usage("argument %s: expected one argument", known)
			}
			if !given {
				value, args = args[0], args[1:]
			}
			*o.values[known] = value
		}
	}
	return words, nil
}

var negative = regexp.MustCompile(`^-\d+$|^-\d*\.\d+$`)

// looksLike tells options from words.
func (o options) looksLike(a string) bool {
	if len(a) < 2 || a[0] != '-' || negative.MatchString(a) {
		return false
	}
	name, _, _ := strings.Cut(a, "=")
	known, err := o.match(name)
	return known != "" || err != nil || !strings.Contains(a, " ")
}

// match finds the option that a name, or the beginning of one, stands for.
func (o options) match(name string) (string, error) {
	if name == "-h" {
		return "--help", nil
	}
	if full := o.short[name]; full != "" {
		return full, nil
	}
	if !strings.HasPrefix(name, "--") {
		return "", nil
	}
	var found []string
	all := []string{"--help"}
	for n := range o.values {
		all = append(all, n)
	}
	for n := range o.flags {
		all = append(all, n)
	}
	for _, n := range all {
		if n == name {
			return n, nil
		}
		if strings.HasPrefix(n, name) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	return "", usage("ambiguous option: %s", name)
}
