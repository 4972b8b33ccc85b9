package metadata

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deeply objects and lists may nest. Nothing real comes near
// it; a hostile document would otherwise exhaust the stack.
const MaxDepth = 500

// SyntaxError says where a document stops being JSON.
type SyntaxError struct {
	Name         string // what the caller calls the document, a path mostly
	Line, Column int    // both from 1; columns count characters
	Problem      string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.Name, e.Line, e.Column, e.Problem)
}

// Parse reads one JSON value as Python's json module does: of a key given
// twice the last value counts, and NaN, Infinity and -Infinity are numbers.
// Half a surrogate pair becomes U+FFFD. name is for the error, a
// [*SyntaxError].
func Parse(name string, data []byte) (any, error) {
	p := &parser{text: string(data)}
	v, problem := p.document()
	if problem == "" {
		return v, nil
	}
	before := p.text[:p.pos]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return nil, &SyntaxError{name, line, column, problem}
}

// Salvage returns the members of the document's object that stand before the
// first error. It is for reporting that error to whoever the document names,
// never for configuration.
func Salvage(data []byte) *Object {
	p := &parser{text: strings.ToValidUTF8(string(data), "\ufffd")}
	v, _ := p.value()
	o, _ := v.(*Object)
	return o
}

// parser reads text from pos. Its methods return what is wrong at pos, or "".
type parser struct {
	text  string
	pos   int
	depth int
	// What is read of the objects and lists that it is inside, innermost last,
	// until it is known how much they hold.
	members []member
	items   []any
}

func (p *parser) document() (any, string) {
	switch {
	case strings.HasPrefix(p.text, "\ufeff"):
		return nil, "the file begins with a byte order mark; save it as plain UTF-8"
	case !utf8.ValidString(p.text):
		for i, r := range p.text {
			if _, n := utf8.DecodeRuneInString(p.text[i:]); r == utf8.RuneError && n == 1 {
				p.pos = i
				break
			}
		}
		return nil, "not UTF-8"
	}
	v, problem := p.value()
	if problem != "" {
		return nil, problem
	}
	if p.space(); p.pos < len(p.text) {
		return nil, "something follows the end of the JSON value"
	}
	return v, ""
}

func (p *parser) space() {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
}

// peek is the next byte, 0 at the end.
func (p *parser) peek() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

var words = []struct {
	text  string
	value any
}{
	{"null", nil}, {"true", true}, {"false", false},
	{"NaN", Number("NaN")}, {"Infinity", Number("Infinity")}, {"-Infinity", Number("-Infinity")},
}

func (p *parser) value() (any, string) {
	p.space()
	switch c := p.peek(); {
	case p.pos == len(p.text):
		return nil, "the file ends where a value should be"
	case c == '{' || c == '[':
		return p.nested(c)
	case c == '"':
		s, problem := p.str()
		return s, problem
	}
	for _, w := range words {
		if strings.HasPrefix(p.text[p.pos:], w.text) {
			p.pos += len(w.text)
			return w.value, ""
		}
	}
	if n := numberLength(p.text[p.pos:]); n > 0 {
		p.pos += n
		return number(p.text[p.pos-n : p.pos]), ""
	}
	return nil, "this is no JSON value"
}

func (p *parser) nested(bracket byte) (v any, problem string) {
	if p.depth++; p.depth > MaxDepth {
		return nil, fmt.Sprintf("nested more than %d levels deep", MaxDepth)
	}
	p.pos++
	if bracket == '{' {
		v, problem = p.object()
	} else {
		v, problem = p.list()
	}
	p.depth--
	return v, problem
}

// object returns what it has read when there is a problem: see Salvage.
func (p *parser) object() (any, string) {
	first := len(p.members)
	problem := p.readMembers()
	o := newObject(p.members[first:])
	p.members = p.members[:first]
	return o, problem
}

func (p *parser) readMembers() (problem string) {
	if p.space(); p.peek() == '}' {
		p.pos++
		return ""
	}
	for {
		if p.space(); p.peek() != '"' {
			return "expected a key in double quotes"
		}
		m := member{}
		if m.key, problem = p.str(); problem != "" {
			return problem
		}
		if p.space(); p.peek() != ':' {
			return "expected ':' after the key"
		}
		p.pos++
		if m.value, problem = p.value(); problem != "" {
			return problem
		}
		p.members = append(p.members, m)
		if end, problem := p.separator('}'); end || problem != "" {
			return problem
		}
	}
}

func (p *parser) list() (any, string) {
	if p.space(); p.peek() == ']' {
		p.pos++
		return []any{}, ""
	}
	first := len(p.items)
	for {
		v, problem := p.value()
		if problem != "" {
			return nil, problem
		}
		p.items = append(p.items, v)
		if end, problem := p.separator(']'); end || problem != "" {
			list := slices.Clone(p.items[first:])
			p.items = p.items[:first]
			return list, problem
		}
	}
}

// separator reads a comma or the closing bracket.
func (p *parser) separator(closing byte) (end bool, problem string) {
	p.space()
	switch c := p.peek(); {
	case p.pos == len(p.text):
		return false, fmt.Sprintf("the file ends where ',' or '%c' should be", closing)
	case c == ',':
		p.pos++
		return false, ""
	case c == closing:
		p.pos++
		return true, ""
	}
	return false, fmt.Sprintf("expected ',' or '%c'", closing)
}

// str reads a string.
func (p *parser) str() (text, problem string) {
	start := p.pos
	p.pos++
	var b []byte // what is there before an escape; nil without one
	for {
		from := p.pos
		for p.pos < len(p.text) && p.text[p.pos] != '"' && p.text[p.pos] != '\\' && p.text[p.pos] >= ' ' {
			p.pos++
		}
		piece := p.text[from:p.pos]
		switch p.peek() {
		case '"':
			p.pos++
			if b == nil {
				return piece, ""
			}
			return string(append(b, piece...)), ""
		case '\\':
			if b, problem = p.escape(append(b, piece...)); problem != "" {
				return "", problem
			}
		default:
			if p.pos == len(p.text) || !strings.Contains(p.text[p.pos:], `"`) {
				p.pos = start
				return "", "this string has no closing quote"
			}
			return "", "a control character in a string; write it as an escape, such as \\n"
		}
	}
}

// escapes are the letters of escapes such as \n.
const escapes = `"\/bfnrt`

func (p *parser) escape(b []byte) ([]byte, string) {
	rest := p.text[p.pos+1:]
	if rest == "" {
		return nil, "the file ends within an escape"
	}
	if i := strings.IndexByte(escapes, rest[0]); i >= 0 {
		p.pos += 2
		return append(b, "\"\\/\b\f\n\r\t"[i]), ""
	}
	r, ok := hex4(p.text[p.pos:])
	if !ok {
		return nil, "no such escape"
	}
	p.pos += 6
	if utf16.IsSurrogate(r) {
		low, ok := hex4(p.text[p.pos:])
		pair := utf16.DecodeRune(r, low)
		if !ok || pair == utf8.RuneError {
			return append(b, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f), ""
		}
		p.pos += 6
		r = pair
	}
	return utf8.AppendRune(b, r), ""
}

// hex4 reads \uXXXX at the start of s.
func hex4(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	v, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(v), err == nil
}

// numberLength is the length of the JSON number at the start of s, or 0.
func numberLength(s string) int {
	i := 0
	if i < len(s) && s[i] == '-' {
		i++
	}
	whole := digits(s[i:])
	if whole == 0 {
		return 0
	}
	if s[i] == '0' {
		whole = 1 // 01 is 0, followed by something wrong
	}
	i += whole
	if i < len(s) && s[i] == '.' {
		if n := digits(s[i+1:]); n > 0 {
			i += 1 + n
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		j := i + 1
		if j < len(s) && (s[j] == '+' || s[j] == '-') {
			j++
		}
		if n := digits(s[j:]); n > 0 {
			i = j + n
		}
	}
	return i
}

func digits(s string) int {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return i
		}
	}
	return len(s)
}
