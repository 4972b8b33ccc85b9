package pipeline

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Input is a value that a run is given: the commit it is about, for example. It
// is kept with the run and shown, so it is never a secret.
type Input struct {
	Description string  `json:"description,omitempty"`
	Type        string  `json:"type,omitempty"`    // text, number or boolean; empty means text
	Default     *string `json:"default,omitempty"` // nil: a run must be given one
	Pattern     string  `json:"pattern,omitempty"` // of the whole value; empty means anything
}

const (
	maxInputs     = 100
	maxInputBytes = 4096
)

var (
	inputRE  = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	secretRE = regexp.MustCompile(`(?:^|[_-])(?:password|passwd|secret|token|apikey|api[_-]key)(?:$|[_-])`)
	numberRE = regexp.MustCompile(`^-?(?:0|[1-9][0-9]{0,14})$`)
)

// takeInputs checks the declared inputs and the values that were given, and
// returns the value of each.
func (r *reader) takeInputs(given map[string]string) {
	d := r.doc.Inputs
	if len(d) > maxInputs {
		r.fail([]any{"inputs"}, "%d inputs: %d are too many", len(d), maxInputs+1)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(d)) {
		at := []any{"inputs", name}
		switch in := d[name]; {
		case !inputRE.MatchString(name):
			r.fail(at, "input %q: a name has lower case letters, digits, '-' and '_', up to 32", name)
		case secretRE.MatchString(name):
			r.fail(at, "input %s: inputs are kept and shown; give a secret in a file that only the worker can read", name)
		case in.Type != "" && !slices.Contains([]string{"text", "number", "boolean"}, in.Type):
			r.fail(append(at, "type"), "input %s: type %q: expected text, number or boolean", name, in.Type)
		default:
			r.takeInput(name, in, given)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := d[name]; !ok {
			known := "it declares none"
			if len(d) > 0 {
				known = "it has " + strings.Join(slices.Sorted(maps.Keys(d)), ", ")
			}
			r.fail([]any{"inputs"}, "no input %q: %s", name, known)
		}
	}
}

func (r *reader) takeInput(name string, in Input, given map[string]string) {
	at := []any{"inputs", name}
	fits, err := regexp.Compile(`^(?:` + in.Pattern + `)$`)
	if err != nil {
		r.fail(append(at, "pattern"), "input %s: pattern %q is not a regular expression", name, in.Pattern)
		return
	}
	if in.Default != nil {
		if why := in.refuses(*in.Default, fits); why != "" {
			r.fail(append(at, "default"), "input %s: its default %s", name, why)
			return
		}
		r.inputs[name] = *in.Default
	}
	value, ok := given[name]
	switch {
	case !ok && in.Default == nil:
		r.fail(at, "input %s has no value: give it with --set %s=VALUE", name, name)
	case ok:
		if why := in.refuses(value, fits); why != "" {
			r.fail(at, "input %s: the value %s", name, why)
			return
		}
		r.inputs[name] = value
	}
}

// refuses says what is wrong with a value, or "".
func (in Input) refuses(value string, fits *regexp.Regexp) string {
	unprintable := func(c rune) bool { return !unicode.IsPrint(c) }
	switch {
	case len(value) > maxInputBytes:
		return fmt.Sprintf("has %d bytes: at most %d", len(value), maxInputBytes)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unprintable):
		return "is not a line of text"
	case in.Type == "number" && !numberRE.MatchString(value):
		return fmt.Sprintf("%q is not a whole number", value)
	case in.Type == "boolean" && value != "true" && value != "false":
		return fmt.Sprintf("%q is neither true nor false", value)
	case in.Pattern != "" && !fits.MatchString(value):
		return fmt.Sprintf("%q does not fit %s", value, in.Pattern)
	}
	return ""
}

// node is a value as YAML has it: text stays text, whatever it looks like.
func (in Input) node(value string) *yaml.Node {
	tag := map[string]string{"number": "!!int", "boolean": "!!bool"}[in.Type]
	if tag == "" {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: value}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
}

// glob makes a regular expression of a pattern for names: "*" is anything but
// "/", "**" anything, "?" one character.
func glob(pattern string) *regexp.Regexp {
	var b strings.Builder
	for rest := pattern; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
			continue
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
		case rest[0] == '?':
			b.WriteString(`[^/]`)
		default:
			_, n := utf8.DecodeRuneInString(rest)
			b.WriteString(regexp.QuoteMeta(rest[:n]))
			rest = rest[n:]
			continue
		}
		rest = rest[1:]
	}
	return regexp.MustCompile(`(?s)^` + b.String() + `$`)
}

const maxGlob = 256

func badGlob(pattern string) bool {
	return pattern == "" || len(pattern) > maxGlob || !utf8.ValidString(pattern)
}

// leftOut says why the inputs keep a stage out of the run, or "".
func (r *reader) leftOut(when map[string][]string) string {
	for _, name := range slices.Sorted(maps.Keys(when)) {
		value := r.inputs[name]
		if !slices.ContainsFunc(when[name], func(p string) bool { return glob(p).MatchString(value) }) {
			return fmt.Sprintf("input %s is %q: the stage is for %s", name, value, strings.Join(when[name], ", "))
		}
	}
	return ""
}

// checkWhen reports conditions about what is not an input.
func (r *reader) checkWhen(at []any, when map[string][]string) {
	for _, name := range slices.Sorted(maps.Keys(when)) {
		here := append(slices.Clone(at), "when", name)
		if _, ok := r.doc.Inputs[name]; !ok {
			r.fail(here, "when: %s is not one of the file's inputs", name)
		}
		if len(when[name]) == 0 {
			r.fail(here, "when: no pattern for %s: the stage would never run", name)
		}
		if slices.ContainsFunc(when[name], badGlob) {
			r.fail(here, "when: a pattern has 1 to %d bytes of text", maxGlob)
		}
	}
}
