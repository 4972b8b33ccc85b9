package oslo

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// readFile reads an INI file. What it says counts as said now.
func (s *Settings) readFile(path string) error {
	full := s.expand(path)
	text, err := readAll(full)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		s.missing = cmp.Or(s.missing, err)
		return nil
	}
	if err != nil {
		return err
	}
	assignments, err := parseINI(text)
	if err != nil {
		err.(*FileError).Path = path
		return err
	}
	s.Read = append(s.Read, full)
	for i := range s.parser.Options {
		o := &s.parser.Options[i]
		var values []string
		line := 0
		for _, a := range assignments {
			if a.section == o.key().group && s.name(a.name) == o.dest() {
				values, line = append(values, a.value), a.line
			}
		}
		if values == nil {
			continue
		}
		if o.Kind == Multi {
			s.file[o.key()] = append(s.file[o.key()], values...)
		} else {
			values = values[len(values)-1:]
		}
		s.set(o, values, path+"\x00"+strconv.Itoa(line))
	}
	return nil
}

func (s *Settings) name(n string) string {
	if s.parser.Lenient {
		return strings.ReplaceAll(n, "-", "_")
	}
	return n
}

func readAll(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = &FileError{path, 0, fmt.Sprintf("larger than %d MiB", maxConfig>>20)}
	}
	return string(b), err
}

// expand replaces a tilde at the beginning.
func (s *Settings) expand(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(s.parser.Home, rest)
	}
	return path
}

// assignment is one setting of a file. section is in lower case, empty for
// DEFAULT.
type assignment struct {
	section, name, value string
	line                 int
}

// parseINI reads the text of a file: sections, "name = value" or "name: value",
// and lines beginning with a blank, which continue a value.
func parseINI(text string) ([]assignment, error) {
	var all []assignment
	section, begun, open := "", false, false
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, " \t\n\r\v\f")
		wrong := func(problem string) error { return &FileError{Line: n, Problem: problem} }
		switch {
		case line == "":
			open = false
		case line[0] == ' ' || line[0] == '\t':
			if !open {
				return nil, wrong("a continuation of nothing")
			}
			all[len(all)-1].value += "\n" + strings.TrimLeft(line, " \t")
		case line[0] == '[':
			if len(line) < 3 || line[len(line)-1] != ']' {
				return nil, wrong("a section is written [name]")
			}
			section, begun, open = line[1:len(line)-1], true, false
			if section = strings.ToLower(section); line == "[DEFAULT]" {
				section = ""
			}
		case line[0] == '#' || line[0] == ';':
			open = false
		default:
			name, value, err := split(line)
			if err != "" {
				return nil, wrong(err)
			}
			if !begun {
				return nil, wrong("a setting before the first section: begin with [DEFAULT]")
			}
			all, open = append(all, assignment{section, name, value, n}), true
		}
	}
	return all, nil
}

func split(line string) (name, value, problem string) {
	i := strings.IndexAny(line, "=:")
	if i < 0 {
		return "", "", "a setting is written name = value"
	}
	name, value = strings.TrimSpace(line[:i]), strings.TrimSpace(line[i+1:])
	if name == "" {
		return "", "", "a setting without a name"
	}
	if n := len(value); n > 0 && value[0] == value[n-1] && (value[0] == '"' || value[0] == '\'') {
		value = value[1:max(n-1, 1)]
	}
	return name, value, ""
}

// Limits of references to options that hold references.
const (
	maxDepth      = 20
	maxReferences = 100
)

// substitute replaces references to options, those of the same group first.
func (s *Settings) substitute(text, group string, depth int) (string, error) {
	if !strings.Contains(text, "$") {
		return text, nil
	}
	if s.references++; depth > maxDepth || s.references > maxReferences {
		return "", fmt.Errorf("refers to itself")
	}
	var b strings.Builder
	rest := strings.ReplaceAll(text, `\$`, "$$")
	for {
		before, after, ok := strings.Cut(rest, "$")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		name, length := reference(after)
		rest = after[length:]
		switch {
		case strings.HasPrefix(after, "$"):
			b.WriteByte('$')
			rest = after[1:]
			continue
		case name == "":
			b.WriteByte('$')
			continue
		}
		value, err := s.referred(name, group, depth)
		if err != nil && !s.parser.Lenient {
			return "", err
		}
		if err != nil {
			value = "$" + after[:length]
		}
		b.WriteString(value)
	}
}

// reference is the name at the beginning of what follows a dollar, and how
// much of the text it is.
func reference(after string) (name string, length int) {
	text, braced := strings.CutPrefix(after, "{")
	end := 0
	for end < len(text) {
		c := text[end] | 0x20
		letter := c >= 'a' && c <= 'z' || text[end] == '_'
		if !letter && (end == 0 || text[end] != '.' && (text[end] < '0' || text[end] > '9')) {
			break
		}
		end++
	}
	switch {
	case end == 0 || braced && !strings.HasPrefix(text[end:], "}"):
		return "", 0
	case braced:
		return text[:end], end + 2
	}
	return text[:end], end
}

func (s *Settings) referred(name, group string, depth int) (string, error) {
	candidates := []key{{group, name}, {"", name}}
	if g, dest, ok := strings.Cut(name, "."); ok {
		candidates = []key{{g, dest}, {"", name}}
	}
	for _, k := range slices.Compact(candidates) {
		if s.options[k] != nil {
			text, ok, err := s.get(k, depth+1)
			joined := strings.Join(text, "', '")
			if ok && s.options[k].Kind == Multi {
				joined = "['" + joined + "']" // as Python writes a list
			}
			return joined, err
		}
	}
	return "", fmt.Errorf("there is no option %q to put in for $%s; write $$ for a dollar", name, name)
}
